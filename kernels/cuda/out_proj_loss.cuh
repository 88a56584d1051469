// What the two kernels of out_proj_loss share.
#pragma once

#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {

constexpr int kLargestD = 128, kLargestInner = 256, kMostClasses = 128;
constexpr int kAtOnce = 8;  // loads before the first is used

struct OutProjLoss {
  Slices<const float> y, out_proj, x, norm, head, dloss;
  Slices<const int32_t> targets;
  Slices<float> loss, accuracy, dy, dout_proj, dx, dnorm, dhead;
  Slices<int32_t> positions, counts;  // (batch) -1: no target; (blocks) sequences with one
  Slices<double> terms;  // (batch, 3): top - logit of the target, sum of exponentials, right
  Slices<float> dh, u, dlogits,
      parts;  // (batch, d), (batch, d), (batch, pitch); (blocks, d) of dnorm
  int batch, seqlen, d, d_inner, classes, width, pitch, blocks;
  float eps;
};

/// The second kernel: what depends on all sequences.
void launch_out_proj_sums(const OutProjLoss& p, int members, CUstream_st* stream);

}  // namespace statelab::cuda

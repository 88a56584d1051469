// What the kernels of causal_conv1d share: their arguments, columns of a token, the filter.
#pragma once

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan.cuh"

namespace statelab::cuda {

struct ConvArgs {
  Slices<const float> dy, x, weight, bias;
  Slices<float> out, partial;  // y or dx; (runs, channels * width + channels)
  MemberArray<const int32_t> targets;
  int64_t items, run;   // tiles of all sequences
  int seqlen, columns;  // of x
  int begin, channels;
  int rows;  // of all sequences, where rows fit
  int tile, tiles,
      chunks;  // where not: tokens of a tile; tiles of a sequence; warps' worth of columns
};

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

/// kVec neighbouring columns of one token.
template <int kVec>
struct Columns {
  float v[kVec];
};
template <int kVec>
__device__ __forceinline__ Columns<kVec> load_columns(const float* from) {
  if constexpr (kVec == 2) {
    const float2 pair = __ldg(reinterpret_cast<const float2*>(from));
    return {{pair.x, pair.y}};
  } else {
    return {{__ldg(from)}};
  }
}
template <int kVec>
__device__ __forceinline__ void store_columns(float* to, const Columns<kVec>& from) {
  if constexpr (kVec == 2) {
    *reinterpret_cast<float2*>(to) = make_float2(from.v[0], from.v[1]);
  } else {
    *to = from.v[0];
  }
}

template <int kWidth, int kVec>
struct Filter {
  float weight[kVec][kWidth], bias[kVec];

  __device__ __forceinline__ void load(const ConvArgs& p, int channel) {
    const float* from = p.weight.at(blockIdx.y) + static_cast<int64_t>(channel) * kWidth;
    const float* b = p.bias.at(blockIdx.y);
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) weight[c][j] = __ldg(from + c * kWidth + j);
      bias[c] = b == nullptr ? 0.0f : __ldg(b + channel + c);
    }
  }
  /// The token whose last input is x[at + kWidth - 1].
  template <int kCount>
  __device__ __forceinline__ float pre(const Columns<kVec> (&x)[kCount], int at, int c) const {
    float sum = bias[c];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += weight[c][j] * x[at + j].v[c];
    return sum;
  }
};

}  // namespace statelab::cuda

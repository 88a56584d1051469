// gated_delta_scan: the delta rule of section 7.2 chunk by chunk, then the norm over each head's values and the gate.
#include <cmath>

#include "kernels/cpu/delta_chunk.h"
#include "kernels/cpu/gated_delta_pre.h"
#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
namespace {

using Attrs = GatedDeltaScanAttrs;

Partition partition(int batch) { return Partition::of(batch, 32, 1); }

int blocks(const CallShapes& c) { return partition(c.in[0]->shape[0]).parts; }

int64_t scratch_elements(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  const int L = std::min(a.chunk_size, c.in[0]->shape[1]);
  return GatedDeltaKeys<float>::elements(a, L) + GatedDeltaHead<float>::elements(a, L) +
         DeltaScratch<float>::elements(L, a.d_state, a.headdim) +
         padded(int64_t(a.nheads) * a.d_state * a.headdim);
}

template <class S>
void run(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const GatedDeltaColumns col(a);
  const GatedDeltaInputs<S> in(call, member, 0);
  const Shape& shape = *call.in[0].shape;
  S *y = call.out[0].at<S>(member), *o = call.out[1].at<S>(member),
    *states = call.out[2].at<S>(member);
  const int T = shape[1], H = a.nheads, K = a.d_state, V = a.headdim, d_inner = a.d_inner();
  const int Q = std::min(a.chunk_size, T), nchunks = (T + a.chunk_size - 1) / a.chunk_size;
  const int64_t state_size = int64_t(K) * V;
  const S scale = gated_delta_scale<S>(a);
  ScratchArrays<S> s(scratch);
  GatedDeltaKeys<S> keys(s, a, Q);
  GatedDeltaHead<S> head(s, a, Q);
  const DeltaScratch<S> chunk_scratch(s, Q, K, V);
  S* state = s.take(H * state_size);
  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    for (int ci = 0; ci < nchunks; ++ci) {
      const int t0 = ci * a.chunk_size, L = std::min(a.chunk_size, T - t0);
      const S* proj_c = in.proj + (b * T + t0) * col.width;
      keys.compute(a, col, proj_c, L);
      for (int h = 0; h < H; ++h) {
        head.compute(a, col, proj_c, in, h, L);
        S* saved = states + ((b * H + h) * nchunks + ci) * state_size;
        S* state_h = state + h * state_size;
        if (ci == 0) {
          std::fill(saved, saved + state_size, S(0));
        } else {
          std::copy(state_h, state_h + state_size, saved);
        }
        const bool carries = ci > 0 && !STATELAB_FAULT(gated_delta_state_dropped);
        const int64_t group = gated_delta_group(a, h) * keys.group_stride;
        const DeltaChunk<S> chunk{L,
                                  K,
                                  V,
                                  keys.q + group,
                                  keys.k + group,
                                  head.v,
                                  head.v_stride,
                                  head.alpha,
                                  head.beta,
                                  carries ? saved : nullptr};
        S* o_h = o + (b * T + t0) * d_inner + int64_t(h) * V;
        S* next = ci + 1 < nchunks ? state_h : nullptr;
        if (a.chunked) {
          delta_chunk_forward(chunk, chunk_scratch, o_h, d_inner, next);
        } else {
          delta_recurrent_forward(chunk, o_h, d_inner, next);
        }
        for (int i = 0; i < L; ++i) {
          auto out = row(o_h + int64_t(i) * d_inner, V);
          out *= scale;
          auto y_i = row(y + (b * T + t0 + i) * d_inner + int64_t(h) * V, V);
          const S r = S(1) / std::sqrt(out.square().sum() / S(V) + S(a.eps));
          y_i = out * r * row(in.norm, V);
          if (a.gate) {
            const auto z = row(proj_c + int64_t(i) * col.width + col.gate + int64_t(h) * V, V);
            y_i *= z / (S(1) + (-z).exp());
          }
        }
      }
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> gated_delta_scan_kernel() {
  return {.blocks = blocks, .scratch_elements = scratch_elements, .run = run<S>};
}
template CpuKernel<float> gated_delta_scan_kernel();
template CpuKernel<double> gated_delta_scan_kernel();

}  // namespace statelab::cpu

// gated_delta_scan_bwd: gradients of the delta rule's block. Gate and norm first, then the chunks from last to first; what
// the heads of a group add to its queries and keys goes through their norm [and SiLU] once. Source: models.md 7.3, 7.5.
#include <cmath>

#include "kernels/cpu/delta_chunk.h"
#include "kernels/cpu/gated_delta_pre.h"
#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
namespace {

using Attrs = GatedDeltaScanAttrs;

Partition partition(int batch) { return Partition::of(batch, 32, 1); }

int blocks(const CallShapes& c) { return partition(c.in[1]->shape[0]).parts; }

/// Partial sums of one block.
template <class S>
struct Partials {
  S *dt_bias, *A_log, *norm;
  static int64_t elements(const Attrs& a) { return 2 * padded(a.nheads) + padded(a.headdim); }
  Partials(S* p, const Attrs& a) {
    ScratchArrays<S> s(p);
    dt_bias = s.take(a.nheads), A_log = s.take(a.nheads), norm = s.take(a.headdim);
  }
};

int64_t workspace_elements(const CallShapes& c) {
  return blocks(c) * Partials<float>::elements(c.attrs<Attrs>());
}

int64_t scratch_elements(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  const int L = std::min(a.chunk_size, c.in[1]->shape[1]);
  return GatedDeltaKeys<float>::elements(a, L) + GatedDeltaHead<float>::elements(a, L) +
         DeltaScratch<float>::elements(L, a.d_state, a.headdim) +
         padded(int64_t(a.nheads) * a.d_state * a.headdim) + padded(int64_t(L) * a.headdim) +
         2 * padded(a.ngroups * padded(int64_t(L) * a.d_state)) + 2 * padded(L) +
         2 * padded(a.headdim);
}

/// Through gate and norm of head h: dout (L, V) is the cotangent of the recurrence's output, before its scale; fills
/// dproj's gate. dy, o: the head's first row.
template <class S>
void output_backward(const Attrs& a, const GatedDeltaColumns& col, const S* norm, const S* dy,
                     const S* o, const S* proj_c, S* dproj_c, int h, S* dnorm, int L, S* dout,
                     S* row_scratch) {
  const int V = a.headdim;
  const S scale = gated_delta_scale<S>(a);
  const auto w = row(norm, V);
  auto g = row(row_scratch, V), sigma = row(row_scratch + padded(V), V);
  for (int i = 0; i < L; ++i) {
    const auto o_i = row(o + int64_t(i) * a.d_inner(), V),
               dy_i = row(dy + int64_t(i) * a.d_inner(), V);
    const S r = S(1) / std::sqrt(o_i.square().sum() / S(V) + S(a.eps));
    g = dy_i;
    if (a.gate) {
      const int64_t at = int64_t(i) * col.width + col.gate + int64_t(h) * V;
      const auto z = row(proj_c + at, V);
      sigma = S(1) / (S(1) + (-z).exp());
      row(dproj_c + at, V) = dy_i * o_i * r * w * sigma * (S(1) + z * (S(1) - sigma));
      g *= z * sigma;
    }
    row(dnorm, V) += g * o_i * r;
    g *= w;
    const S mean =
        STATELAB_FAULT(gated_delta_norm_mean_missing) ? S(0) : (g * o_i).sum() * r * r / S(V);
    row(dout + int64_t(i) * V, V) = scale * r * (g - o_i * mean);
  }
}

template <class S>
void run(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const GatedDeltaColumns col(a);
  const GatedDeltaInputs<S> in(call, member, 1);
  const Shape& shape = *call.in[1].shape;
  const S *dy = call.in[0].at<const S>(member), *o = call.in[5].at<const S>(member),
          *states = call.in[6].at<const S>(member);
  S* dproj = call.out[0].at<S>(member);
  const int T = shape[1], H = a.nheads, K = a.d_state, V = a.headdim, d_inner = a.d_inner();
  const int Q = std::min(a.chunk_size, T), nchunks = (T + a.chunk_size - 1) / a.chunk_size;
  const int64_t state_size = int64_t(K) * V;
  S* partial_memory = call.workspace.at<S>(member) + block * Partials<S>::elements(a);
  std::fill(partial_memory, partial_memory + Partials<S>::elements(a), S(0));
  const Partials<S> sum(partial_memory, a);
  ScratchArrays<S> s(scratch);
  GatedDeltaKeys<S> keys(s, a, Q);
  GatedDeltaHead<S> head(s, a, Q);
  const DeltaScratch<S> chunk_scratch(s, Q, K, V);
  S* dstate = s.take(H * state_size);
  S* dout = s.take(int64_t(Q) * V);
  S *dq = s.take(a.ngroups * keys.group_stride), *dk = s.take(a.ngroups * keys.group_stride);
  S *dbeta = s.take(Q), *dalpha = s.take(Q), *row_scratch = s.take(2 * padded(V));
  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    for (int ci = nchunks - 1; ci >= 0; --ci) {
      const int t0 = ci * a.chunk_size, L = std::min(a.chunk_size, T - t0);
      const S* proj_c = in.proj + (b * T + t0) * col.width;
      S* dproj_c = dproj + (b * T + t0) * col.width;
      keys.compute(a, col, proj_c, L);
      std::fill(dq, dq + a.ngroups * keys.group_stride, S(0));
      std::fill(dk, dk + a.ngroups * keys.group_stride, S(0));
      for (int h = 0; h < H; ++h) {
        const int64_t at = (b * T + t0) * d_inner + int64_t(h) * V;
        output_backward(a, col, in.norm, dy + at, o + at, proj_c, dproj_c, h, sum.norm, L, dout,
                        row_scratch);
        head.compute(a, col, proj_c, in, h, L);
        const int64_t group = gated_delta_group(a, h) * keys.group_stride;
        const DeltaChunk<S> chunk{
            L,
            K,
            V,
            keys.q + group,
            keys.k + group,
            head.v,
            head.v_stride,
            head.alpha,
            head.beta,
            ci > 0 ? states + ((b * H + h) * nchunks + ci) * state_size : nullptr};
        const DeltaGradients<S> grad{
            dq + group,
            dk + group,
            dproj_c + col.v + int64_t(h) * V,
            col.width,
            dbeta,
            a.decay ? dalpha : nullptr,
            dstate + h * state_size,
            ci == nchunks - 1 || STATELAB_FAULT(gated_delta_dstate_dropped),
            ci > 0};
        if (a.chunked) {
          delta_chunk_backward(chunk, chunk_scratch, dout, V, grad);
        } else {
          delta_recurrent_backward(chunk, dout, V, grad);
        }
        for (int i = 0; i < L; ++i) {
          const S* p = proj_c + int64_t(i) * col.width;
          S* d = dproj_c + int64_t(i) * col.width;
          d[col.b + h] = dbeta[i] * head.beta[i] * (S(1) - sigmoid(p[col.b + h]));
          if (a.activate) {
            const auto x = row(p + col.v + int64_t(h) * V, V);
            const auto sigma = S(1) / (S(1) + (-x).exp());
            row(d + col.v + int64_t(h) * V, V) *= sigma * (S(1) + x * (S(1) - sigma));
          }
          if (!a.decay) continue;
          const S drate =
              -dalpha[i] * head.alpha[i] * head.rate;  // cotangent of softplus(a + dt_bias)
          const S draw = drate * sigmoid(head.raw_dt[i]);
          d[col.a + h] = draw;
          sum.dt_bias[h] += draw;
          sum.A_log[h] += drate * head.dt[i];
        }
      }
      for (int g = 0; g < a.ngroups; ++g) {
        for (int i = 0; i < L; ++i) {
          const int64_t at = g * keys.group_stride + int64_t(i) * K,
                        token = g * keys.token_stride + i;
          const S* p = proj_c + int64_t(i) * col.width + int64_t(g) * K;
          S* d = dproj_c + int64_t(i) * col.width + int64_t(g) * K;
          keys.normalise_backward(a, p + col.q, keys.q + at, keys.q_inverse[token], dq + at,
                                  d + col.q);
          keys.normalise_backward(a, p + col.k, keys.k + at, keys.k_inverse[token], dk + at,
                                  d + col.k);
        }
      }
    }
  }
}

template <class S>
void finish(const Call& call, int member) {
  const auto& a = call.attrs<Attrs>();
  const int count = partition((*call.in[1].shape)[0]).parts;
  const int64_t lengths[] = {a.nheads, a.nheads, a.headdim};
  for (size_t i = 0; i < 3; ++i) {
    S* out = call.out[i + 1].at<S>(member);
    auto total = row(out, lengths[i]);
    total.setZero();
    for (int block = 0; block < count; ++block) {
      const Partials<S> p(call.workspace.at<S>(member) + block * Partials<S>::elements(a), a);
      const S* source[] = {p.dt_bias, p.A_log, p.norm};
      total += row(source[i], lengths[i]);
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> gated_delta_scan_bwd_kernel() {
  return {blocks, workspace_elements, scratch_elements, run<S>, finish<S>};
}
template CpuKernel<float> gated_delta_scan_bwd_kernel();
template CpuKernel<double> gated_delta_scan_bwd_kernel();

}  // namespace statelab::cpu

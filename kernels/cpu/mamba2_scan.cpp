// mamba2_scan: recurrence of section 6.2 / 6.4 and the gated RMSNorm behind it (gate first), in both directions.
#include <cmath>
#include <cstring>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/mamba3_pre.h"
#include "kernels/cpu/scan_chunk.h"

namespace statelab::cpu {
namespace {

using Attrs = Mamba2ScanAttrs;

struct Columns {
  int z, x, B, C, dd_dt, width;
  explicit Columns(const Attrs& a)
      : z(0),
        x(a.d_inner()),
        B(2 * a.d_inner()),
        C(B + a.ngroups * a.d_state),
        dd_dt(C + a.ngroups * a.d_state),
        width(a.d_proj()) {}
};

Partition partition(int batch) { return Partition::of(batch, 32, 1); }

/// Per-chunk quantities of one head, (L, N) keys and queries and (L) scalars.
template <class S>
struct Head {
  S *q, *k, *raw, *dt, *decay, *alpha, *same, *diag;
  S A;
  static int64_t elements(int L, int N) { return 2 * padded(int64_t(L) * N) + 6 * padded(L); }
  Head(ScratchArrays<S>& s, int L, int N) : A(0) {
    q = s.take(int64_t(L) * N), k = s.take(int64_t(L) * N);
    for (S** p : {&raw, &dt, &decay, &alpha, &same, &diag}) *p = s.take(L);
  }

  void compute(const Attrs& a, const Columns& col, const S* proj_c, int h, int L, S bias, S A_log,
               S D) {
    const int g = h / (a.nheads / a.ngroups), N = a.d_state;
    A = -std::exp(A_log);
    for (int i = 0; i < L; ++i) {
      const S* p = proj_c + i * int64_t(col.width);
      std::memcpy(q + int64_t(i) * N, p + col.C + g * N, size_t(N) * sizeof(S));
      std::memcpy(k + int64_t(i) * N, p + col.B + g * N, size_t(N) * sizeof(S));
      raw[i] = p[col.dd_dt + h] + bias;
    }
    const int64_t n = padded(L);
    for (int64_t i = L; i < n; ++i) raw[i] = S(0);
    auto v = [n](S* p) { return row(p, n); };
    v(dt) = (v(raw) > S(20)).select(v(raw), v(raw).min(S(20)).exp().log1p());
    v(decay) = (v(dt) * A).exp();
    if (a.negative_eigenvalues && !STATELAB_FAULT(mamba2_eigenvalue_range_ignored)) {
      v(alpha) = S(2) * v(decay) - S(1);
    } else {
      v(alpha) = v(decay);
    }
    for (int i = 0; i < L; ++i) {
      same[i] = (row(q + int64_t(i) * N, N) * row(k + int64_t(i) * N, N)).sum();
      diag[i] = (STATELAB_FAULT(mamba2_input_without_dt) ? S(1) : dt[i]) * same[i] + D;
    }
  }
};

int blocks_fwd(const CallShapes& c) { return partition(c.in[0]->shape[0]).parts; }

int64_t scratch_fwd(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  const int L = std::min(a.chunk_size, c.in[0]->shape[1]);
  return Head<float>::elements(L, a.d_state) + ChunkScratch<float>::elements(L) +
         padded(int64_t(a.nheads) * a.headdim * a.d_state) + 64;
}

template <class S>
void run_fwd(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const Columns col(a);
  const Shape& shape = *call.in[0].shape;
  const S* proj = call.in[0].at<const S>(member);
  const S *dt_bias = call.in[1].at<const S>(member), *A_log = call.in[2].at<const S>(member),
          *D = call.in[3].at<const S>(member), *norm = call.in[4].at<const S>(member);
  S *y = call.out[0].at<S>(member), *o = call.out[1].at<S>(member),
    *states = call.out[2].at<S>(member);
  const int T = shape[1], H = a.nheads, P = a.headdim, N = a.d_state, d_inner = a.d_inner(),
            group = d_inner / a.ngroups;
  const int Q = std::min(a.chunk_size, T), nchunks = (T + a.chunk_size - 1) / a.chunk_size;
  const int64_t state_size = int64_t(P) * N;
  ScratchArrays<S> s(scratch);
  Head<S> head(s, Q, N);
  ChunkScratch<S> chunk_scratch(s.take(ChunkScratch<S>::elements(Q)), Q);
  S* state = s.take(H * state_size);
  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    for (int ci = 0; ci < nchunks; ++ci) {
      const int t0 = ci * a.chunk_size, L = std::min(a.chunk_size, T - t0);
      const S* proj_c = proj + (b * T + t0) * col.width;
      for (int h = 0; h < H; ++h) {
        head.compute(a, col, proj_c, h, L, dt_bias[h], A_log[h], D[h]);
        S* saved = states + ((b * H + h) * nchunks + ci) * state_size;
        S* state_h = state + h * state_size;
        if (ci == 0) {
          std::fill(saved, saved + state_size, S(0));
        } else {
          std::memcpy(saved, state_h, size_t(state_size) * sizeof(S));
        }
        const Chunk<S> chunk{L,
                             P,
                             N,
                             head.q,
                             head.k,
                             proj_c + col.x + int64_t(h) * P,
                             col.width,
                             head.alpha,
                             head.dt,
                             head.diag,
                             ci > 0 ? saved : nullptr};
        S* o_h = o + (b * T + t0) * d_inner + int64_t(h) * P;
        S* next = ci + 1 < nchunks ? state_h : nullptr;
        if (a.chunked) {
          chunk_forward(chunk, chunk_scratch, o_h, d_inner, next);
        } else {
          recurrent_forward(chunk, o_h, d_inner, next);
        }
      }
      for (int i = 0; i < L; ++i) {
        const int64_t at = (b * T + t0 + i) * d_inner;
        const auto z = row(proj_c + i * int64_t(col.width) + col.z, d_inner);
        auto out = row(y + at, d_inner);
        out = row(o + at, d_inner) * z / (S(1) + (-z).exp());
        for (int g = 0; g < a.ngroups; ++g) {
          auto og = out.segment(int64_t(g) * group, group);
          const S r = S(1) / std::sqrt(og.square().sum() / S(group) + S(a.eps));
          og *= r * row(norm + int64_t(g) * group, group);
        }
      }
    }
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------

int blocks_bwd(const CallShapes& c) { return partition(c.in[1]->shape[0]).parts; }

template <class S>
struct Partials {
  S *dt_bias, *A_log, *D, *norm;
  static int64_t elements(const Attrs& a) { return 3 * padded(a.nheads) + padded(a.d_inner()); }
  Partials(S* p, const Attrs& a) {
    ScratchArrays<S> s(p);
    dt_bias = s.take(a.nheads), A_log = s.take(a.nheads), D = s.take(a.nheads),
    norm = s.take(a.d_inner());
  }
};

int64_t workspace_bwd(const CallShapes& c) {
  return blocks_bwd(c) * Partials<float>::elements(c.attrs<Attrs>());
}

int64_t scratch_bwd(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  const int L = std::min(a.chunk_size, c.in[1]->shape[1]);
  return Head<float>::elements(L, a.d_state) + ChunkScratch<float>::elements(L) +
         padded(int64_t(a.nheads) * a.headdim * a.d_state) + padded(int64_t(L) * a.d_inner()) +
         2 * padded(int64_t(L) * a.d_state) + 3 * padded(L) + padded(a.d_inner()) + 64;
}

template <class S>
void run_bwd(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const Columns col(a);
  const Shape& shape = *call.in[1].shape;
  const S* dy = call.in[0].at<const S>(member);
  const S* proj = call.in[1].at<const S>(member);
  const S *dt_bias = call.in[2].at<const S>(member), *A_log = call.in[3].at<const S>(member),
          *D = call.in[4].at<const S>(member), *norm = call.in[5].at<const S>(member);
  const S *o = call.in[6].at<const S>(member), *states = call.in[7].at<const S>(member);
  S* dproj = call.out[0].at<S>(member);
  const int T = shape[1], H = a.nheads, P = a.headdim, N = a.d_state, d_inner = a.d_inner(),
            group = d_inner / a.ngroups;
  const int Q = std::min(a.chunk_size, T), nchunks = (T + a.chunk_size - 1) / a.chunk_size;
  const int64_t state_size = int64_t(P) * N;
  const S factor = a.negative_eigenvalues ? S(2) : S(1);
  S* partial_memory = call.workspace.at<S>(member) + block * Partials<S>::elements(a);
  std::fill(partial_memory, partial_memory + Partials<S>::elements(a), S(0));
  const Partials<S> sum(partial_memory, a);
  ScratchArrays<S> s(scratch);
  Head<S> head(s, Q, N);
  ChunkScratch<S> chunk_scratch(s.take(ChunkScratch<S>::elements(Q)), Q);
  S* dstate = s.take(H * state_size);
  S* dout = s.take(int64_t(Q) * d_inner);
  S *dq = s.take(int64_t(Q) * N), *dk = s.take(int64_t(Q) * N);
  S *dw = s.take(Q), *ddiag = s.take(Q), *dalpha = s.take(Q);
  S* gated = s.take(d_inner);
  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    for (int ci = nchunks - 1; ci >= 0; --ci) {
      const int t0 = ci * a.chunk_size, L = std::min(a.chunk_size, T - t0);
      const S* proj_c = proj + (b * T + t0) * col.width;
      S* dproj_c = dproj + (b * T + t0) * col.width;
      for (int i = 0; i < L; ++i) {
        const int64_t at = (b * T + t0 + i) * d_inner;
        const auto z = row(proj_c + i * int64_t(col.width) + col.z, d_inner);
        auto dz = row(dproj_c + i * int64_t(col.width) + col.z, d_inner);
        auto d = row(dout + int64_t(i) * d_inner, d_inner);
        auto m = row(gated, d_inner);
        dz = S(1) / (S(1) + (-z).exp());
        m = row(o + at, d_inner) * z * dz;  // o * silu(z)
        for (int g = 0; g < a.ngroups; ++g) {
          const int64_t c = int64_t(g) * group;
          const auto mg = m.segment(c, group);
          const auto gy = row(dy + at + c, group);
          const auto w = row(norm + c, group);
          const S r = S(1) / std::sqrt(mg.square().sum() / S(group) + S(a.eps));
          row(sum.norm + c, group) += gy * mg * r;
          const S dot = (gy * w * mg).sum() * r / S(group);
          d.segment(c, group) = r * (gy * w - mg * r * dot);  // cotangent of o * silu(z)
        }
        if (STATELAB_FAULT(mamba2_norm_before_gate)) d = row(dy + at, d_inner) * row(norm, d_inner);
        m = dz;  // sigmoid
        dz = d * row(o + at, d_inner) * m * (S(1) + z * (S(1) - m));
        d *= z * m;
      }
      for (int i = 0; i < L; ++i) {
        S* d = dproj_c + i * int64_t(col.width);
        std::fill(d + col.B, d + col.dd_dt, S(0));  // summed over the heads of a group
      }
      for (int h = 0; h < H; ++h) {
        const int g = h / (H / a.ngroups);
        head.compute(a, col, proj_c, h, L, dt_bias[h], A_log[h], D[h]);
        const Chunk<S> chunk{L,
                             P,
                             N,
                             head.q,
                             head.k,
                             proj_c + col.x + int64_t(h) * P,
                             col.width,
                             head.alpha,
                             head.dt,
                             head.diag,
                             ci > 0 ? states + ((b * H + h) * nchunks + ci) * state_size : nullptr};
        const ChunkGradients<S> grad{
            dq,    dk,     dproj_c + col.x + int64_t(h) * P, col.width,         dw,
            ddiag, dalpha, dstate + h * state_size,          ci == nchunks - 1, ci > 0};
        if (a.chunked) {
          chunk_backward(chunk, chunk_scratch, dout + int64_t(h) * P, d_inner, grad);
        } else {
          recurrent_backward(chunk, dout + int64_t(h) * P, d_inner, grad);
        }
        for (int i = 0; i < L; ++i) {
          S* d = dproj_c + i * int64_t(col.width);
          const S dsame = head.dt[i] * ddiag[i];
          row(d + col.C + g * N, N) +=
              row(dq + int64_t(i) * N, N) + dsame * row(head.k + int64_t(i) * N, N);
          row(d + col.B + g * N, N) +=
              row(dk + int64_t(i) * N, N) + dsame * row(head.q + int64_t(i) * N, N);
          const S de = dalpha[i] * factor * head.decay[i];
          const S ddt = dw[i] + head.same[i] * ddiag[i] + head.A * de;
          const S draw = ddt * sigmoid(head.raw[i]);
          d[col.dd_dt + h] = draw;
          sum.dt_bias[h] += draw;
          sum.A_log[h] += head.A * head.dt[i] * de;
          sum.D[h] += ddiag[i];
        }
      }
    }
  }
}

template <class S>
void finish_bwd(const Call& call, int member) {
  const auto& a = call.attrs<Attrs>();
  const int count = partition((*call.in[1].shape)[0]).parts;
  const int64_t lengths[] = {a.nheads, a.nheads, a.nheads, a.d_inner()};
  for (size_t i = 0; i < 4; ++i) {
    auto total = row(call.out[i + 1].at<S>(member), lengths[i]);
    total.setZero();
    for (int block = 0; block < count; ++block) {
      const Partials<S> p(call.workspace.at<S>(member) + block * Partials<S>::elements(a), a);
      const S* source[] = {p.dt_bias, p.A_log, p.D, p.norm};
      total += row(source[i], lengths[i]);
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> mamba2_scan_kernel() {
  return {.blocks = blocks_fwd, .scratch_elements = scratch_fwd, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> mamba2_scan_bwd_kernel() {
  return {blocks_bwd, workspace_bwd, scratch_bwd, run_bwd<S>, finish_bwd<S>};
}
template CpuKernel<float> mamba2_scan_kernel();
template CpuKernel<double> mamba2_scan_kernel();
template CpuKernel<float> mamba2_scan_bwd_kernel();
template CpuKernel<double> mamba2_scan_bwd_kernel();

}  // namespace statelab::cpu

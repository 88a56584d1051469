// mamba3_scan, forward: one block takes a run of sequences, walks each chunk by chunk, head by head.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/mamba3_pre.h"

namespace statelab::cpu {
namespace {

using Attrs = Mamba3ScanAttrs;
using Rotation = Attrs::Rotation;

int blocks(const CallShapes& c) { return Partition::of(c.in[0]->shape[0], 32, 1).parts; }

int chunk_of(const Attrs& a, int seqlen) { return std::min(a.chunk_size, seqlen); }

int64_t scratch_elements(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  const int L = chunk_of(a, c.in[0]->shape[1]);
  const int64_t N = a.d_state, G = a.ngroups, S = std::max(a.nangles, 1);
  return 2 * padded(L * G * N) + 2 * padded(L * G) + 4 * padded(L * N) + padded(L) +
         Mamba3Steps<float>::elements(L) + 3 * padded(L * S) + padded(L * S) +
         padded(a.nheads * S) + ChunkScratch<float>::elements(L) +
         padded(static_cast<int64_t>(a.nheads) * a.headdim * N) + 64;
}

template <class S>
void run(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const Mamba3Inputs<S> in(call, member, 0);
  const Mamba3Columns col(a);
  const Shape& shape = *call.in[0].shape;
  const int batch = shape[0], T = shape[1], H = a.nheads, P = a.headdim, N = a.d_state,
            G = a.ngroups, n = a.nangles;
  const int d_inner = a.d_inner(), Q = chunk_of(a, T),
            nchunks = (T + a.chunk_size - 1) / a.chunk_size;
  const bool data_dependent = a.rotation == Rotation::kDataDependent && n > 0;
  const bool rotates = a.rotation != Rotation::kNone && n > 0;
  S* y = call.out[0].at<S>(member);
  S* o = call.out[1].at<S>(member);
  S* phi_out = call.out[2].at<S>(member);
  S* states = call.out[3].at<S>(member);

  ScratchArrays<S> s(scratch);
  S *bn = s.take(int64_t(Q) * G * N), *cn = s.take(int64_t(Q) * G * N), *rb = s.take(Q * G),
    *rc = s.take(Q * G);
  S *kp = s.take(int64_t(Q) * N), *qp = s.take(int64_t(Q) * N), *kh = s.take(int64_t(Q) * N),
    *qh = s.take(int64_t(Q) * N);
  S* diag = s.take(Q);
  Mamba3Steps<S> steps(s, Q);
  S *theta = s.take(int64_t(Q) * std::max(n, 1)), *cosv = s.take(int64_t(Q) * std::max(n, 1)),
    *sinv = s.take(int64_t(Q) * std::max(n, 1)), *phi = s.take(int64_t(Q) * std::max(n, 1));
  S* phi_last = s.take(int64_t(H) * std::max(n, 1));
  ChunkScratch<S> chunk_scratch(s.take(ChunkScratch<S>::elements(Q)), Q);
  S* state = s.take(int64_t(H) * P * N);

  if (!data_dependent && block == 0) phi_out[0] = S(0);
  const Partition part = Partition::of(batch, 32, 1);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    const S* proj_b = in.proj + b * T * col.width;
    std::fill(phi_last, phi_last + int64_t(H) * std::max(n, 1), S(0));
    for (int ci = 0; ci < nchunks; ++ci) {
      const int t0 = ci * a.chunk_size, L = std::min(a.chunk_size, T - t0);
      const S* proj_c = proj_b + int64_t(t0) * col.width;
      norm_rows(proj_c, col.width, col.B, in.B_norm, L, G, N, S(a.eps), bn, rb);
      norm_rows(proj_c, col.width, col.C, in.C_norm, L, G, N, S(a.eps), cn, rc);
      if (data_dependent) {
        for (int i = 0; i < L; ++i)
          row(theta + int64_t(i) * n, n) = row(proj_c + i * int64_t(col.width) + col.ang, n);
        row(theta, int64_t(L) * n) = S(std::numbers::pi) * row(theta, int64_t(L) * n).tanh();
        if (STATELAB_FAULT(mamba3_angle_sign)) row(theta, int64_t(L) * n) *= S(-1);
        if (STATELAB_FAULT(mamba3_angle_unbounded)) {
          for (int i = 0; i < L; ++i)
            row(theta + int64_t(i) * n, n) =
                S(std::numbers::pi) * row(proj_c + i * int64_t(col.width) + col.ang, n);
        }
      }
      for (int h = 0; h < H; ++h) {
        const int g = STATELAB_FAULT(mamba3_group_interleaved) ? h % G : h / (H / G);
        steps.compute(a, col, proj_b, in.dt_bias, h, t0, L, T);
        if (rotates && (data_dependent || h == 0)) {
          if (STATELAB_FAULT(mamba3_angle_exclusive) && data_dependent) {
            // every token uses the angle of the one before it
            std::vector<S> shifted(static_cast<size_t>(L), S(0));
            for (int i = 1; i < L; ++i) shifted[size_t(i)] = steps.dt[i - 1];
            chunk_angles(a, theta, shifted.data(), t0, L, phi_last + int64_t(h) * n, phi, n);
          } else {
            chunk_angles(a, theta, steps.dt, t0, L, phi_last + int64_t(h) * n, phi, n);
          }
          row(cosv, int64_t(L) * n) = row(phi, int64_t(L) * n).cos();
          row(sinv, int64_t(L) * n) = row(phi, int64_t(L) * n).sin();
        }
        if (data_dependent) {
          for (int i = 0; i < L; ++i) {
            std::memcpy(phi_out + ((b * T + t0 + i) * H + h) * n, phi + int64_t(i) * n,
                        size_t(n) * sizeof(S));
          }
        }
        for (int i = 0; i < L; ++i) {
          auto kr = row(kp + int64_t(i) * N, N), qr = row(qp + int64_t(i) * N, N);
          kr = row(bn + (int64_t(i) * G + g) * N, N);
          qr = row(cn + (int64_t(i) * G + g) * N, N);
          if (in.B_bias && !STATELAB_FAULT(mamba3_b_bias_missing))
            kr += row(in.B_bias + int64_t(h) * N, N);
          if (in.C_bias) qr += row(in.C_bias + int64_t(h) * N, N);
          S c = (kr * qr).sum();
          if (STATELAB_FAULT(mamba3_same_step_missing)) c = S(0);
          diag[i] = steps.gam[i] * c + in.D[h];
          if (STATELAB_FAULT(mamba3_skip_missing)) diag[i] = steps.gam[i] * c;
          if (STATELAB_FAULT(mamba3_diagonal_full)) diag[i] = steps.w[i] * c + in.D[h];
          row(kh + int64_t(i) * N, N) = kr;
          row(qh + int64_t(i) * N, N) = qr;
          if (rotates) {
            const S* ci_ = cosv + int64_t(i) * n;
            const S* si_ = sinv + int64_t(i) * n;
            if (STATELAB_FAULT(mamba3_pairs_half_split)) {
              for (int j = 0; j < n; ++j) {
                for (S* v : {kh + int64_t(i) * N, qh + int64_t(i) * N}) {
                  const S x0 = v[j], x1 = v[N / 2 + j];
                  v[j] = x0 * ci_[j] - x1 * si_[j];
                  v[N / 2 + j] = x0 * si_[j] + x1 * ci_[j];
                }
              }
            } else {
              rotate_pairs(kh + int64_t(i) * N, ci_, si_, n,
                           STATELAB_FAULT(mamba3_key_rotation_sign) ? S(-1) : S(1),
                           kh + int64_t(i) * N);
              if (!STATELAB_FAULT(mamba3_query_unrotated))
                rotate_pairs(qh + int64_t(i) * N, ci_, si_, n, S(1), qh + int64_t(i) * N);
            }
          }
        }
        S* state_h = state + int64_t(h) * P * N;
        S* saved = states + ((b * H + h) * nchunks + ci) * int64_t(P) * N;
        if (ci == 0) {
          std::fill(saved, saved + int64_t(P) * N, S(0));
        } else {
          std::memcpy(saved, state_h, size_t(P) * size_t(N) * sizeof(S));
        }
        const bool carries = ci > 0 && !STATELAB_FAULT(chunk_state_dropped);
        const Chunk<S> chunk{L,
                             P,
                             N,
                             qh,
                             kh,
                             proj_c + col.x + int64_t(h) * P,
                             col.width,
                             steps.alpha,
                             steps.w,
                             diag,
                             carries ? saved : nullptr};
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
        if (in.norm != nullptr) {
          for (int h = 0; h < H; ++h) {
            const auto oh = row(o + at + int64_t(h) * P, P);
            out.segment(int64_t(h) * P, P) =
                oh * (S(1) / std::sqrt(oh.square().sum() / S(P) + S(a.eps))) *
                row(in.norm + int64_t(h) * P, P);
          }
        } else {
          out = row(o + at, d_inner);
        }
        out *= z / (S(1) + (-z).exp());
      }
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> mamba3_scan_kernel() {
  return {.blocks = blocks,
          .workspace_elements = nullptr,
          .scratch_elements = scratch_elements,
          .run = run<S>};
}
template CpuKernel<float> mamba3_scan_kernel();
template CpuKernel<double> mamba3_scan_kernel();

}  // namespace statelab::cpu

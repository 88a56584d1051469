// mamba3_scan, backward: chunks from last to first; everything but o, Phi and the chunks' incoming states is recomputed.
// Source: models.md sections 3.9 and 3.10.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/mamba3_pre.h"

namespace statelab::cpu {
namespace {

using Attrs = Mamba3ScanAttrs;
using Rotation = Attrs::Rotation;
using Discretization = Attrs::Discretization;

Partition partition(int batch) { return Partition::of(batch, 32, 1); }
int blocks(const CallShapes& c) { return partition(c.in[1]->shape[0]).parts; }

/// Partial sums of one block, in the order of the op's outputs after dproj.
template <class S>
struct Partials {
  S *dt_bias, *B_bias, *C_bias, *B_norm, *C_norm, *D, *norm;
  static int64_t elements(const Attrs& a) {
    return 2 * padded(a.nheads) + 2 * padded(int64_t(a.nheads) * a.d_state) +
           2 * padded(a.d_state) + padded(a.d_inner());
  }
  Partials(S* p, const Attrs& a) {
    ScratchArrays<S> s(p);
    dt_bias = s.take(a.nheads);
    B_bias = s.take(int64_t(a.nheads) * a.d_state);
    C_bias = s.take(int64_t(a.nheads) * a.d_state);
    B_norm = s.take(a.d_state);
    C_norm = s.take(a.d_state);
    D = s.take(a.nheads);
    norm = s.take(a.d_inner());
  }
};

int64_t workspace_elements(const CallShapes& c) {
  return blocks(c) * Partials<float>::elements(c.attrs<Attrs>());
}

int64_t scratch_elements(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  const int T = c.in[1]->shape[1], L = std::min(a.chunk_size, T);
  const int64_t N = a.d_state, G = a.ngroups, S = std::max(a.nangles, 1), H = a.nheads;
  return 4 * padded(L * G * N) + 2 * padded(L * G) + 6 * padded(L * N) + 5 * padded(L) +
         Mamba3Steps<float>::elements(L) + 5 * padded(L * S) + padded(H * S) +
         ChunkScratch<float>::elements(L) + padded(H * a.headdim * N) +
         padded(int64_t(L) * a.d_inner()) + 4 * padded(H * T) + 64;
}

/// dx of y = x * r * weight given the cotangent g of y; r = (mean x^2 + eps)^(-1/2). Adds dweight. weight null: identity.
template <class S>
void norm_backward(const S* x, S r, const S* weight, const S* dy, int n, S* dx, S* dweight) {
  const auto xr = row(x, n);
  const auto g = row(dy, n);
  if (weight == nullptr) {
    row(dx, n) = g;
    return;
  }
  const auto w = row(weight, n);
  row(dweight, n) += g * xr * r;
  S dot = (g * w * xr).sum() * r / S(n);
  if (STATELAB_FAULT(norm_backward_mean_missing)) dot = S(0);
  row(dx, n) = r * (g * w - xr * r * dot);
}

template <class S>
void run(const Call& call, int member, int block, S* scratch) {
  const auto& a = call.attrs<Attrs>();
  const Mamba3Inputs<S> in(call, member, 1);
  const Mamba3Columns col(a);
  const Shape& shape = *call.in[1].shape;
  const int T = shape[1], H = a.nheads, P = a.headdim, N = a.d_state, G = a.ngroups, n = a.nangles;
  const int d_inner = a.d_inner(), Q = std::min(a.chunk_size, T),
            nchunks = (T + a.chunk_size - 1) / a.chunk_size;
  const bool data_dependent = a.rotation == Rotation::kDataDependent && n > 0;
  const bool rotates = a.rotation != Rotation::kNone && n > 0;
  const S* dy = call.in[0].at<const S>(member);
  const S* o = call.in[9].at<const S>(member);
  const S* phi_saved = call.in[10].at<const S>(member);
  const S* states = call.in[11].at<const S>(member);
  S* dproj = call.out[0].at<S>(member);
  S* partial_memory = call.workspace.at<S>(member) + block * Partials<S>::elements(a);
  std::fill(partial_memory, partial_memory + Partials<S>::elements(a), S(0));
  const Partials<S> sum(partial_memory, a);

  ScratchArrays<S> s(scratch);
  S *bn = s.take(int64_t(Q) * G * N), *cn = s.take(int64_t(Q) * G * N), *rb = s.take(Q * G),
    *rc = s.take(Q * G);
  S *dbn = s.take(int64_t(Q) * G * N), *dcn = s.take(int64_t(Q) * G * N);
  S *kp = s.take(int64_t(Q) * N), *qp = s.take(int64_t(Q) * N), *kh = s.take(int64_t(Q) * N),
    *qh = s.take(int64_t(Q) * N);
  S *dk = s.take(int64_t(Q) * N), *dq = s.take(int64_t(Q) * N);
  S *diag = s.take(Q), *same = s.take(Q), *dw = s.take(Q), *ddiag = s.take(Q), *dalpha = s.take(Q);
  Mamba3Steps<S> steps(s, Q);
  const int n1 = std::max(n, 1);
  S *theta = s.take(int64_t(Q) * n1), *dtheta = s.take(int64_t(Q) * n1),
    *cosv = s.take(int64_t(Q) * n1), *sinv = s.take(int64_t(Q) * n1),
    *phi = s.take(int64_t(Q) * n1);
  S* dphi = s.take(int64_t(H) * n1);  // running reverse sum of dPhi, per head
  ChunkScratch<S> chunk_scratch(s.take(ChunkScratch<S>::elements(Q)), Q);
  S* dstate = s.take(int64_t(H) * P * N);
  S* dout = s.take(int64_t(Q) * d_inner);
  S *ds = s.take(int64_t(H) * T), *dgam_diag = s.take(int64_t(H) * T),
    *ddt = s.take(int64_t(H) * T), *lam_dt = s.take(int64_t(H) * T);

  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    const S* proj_b = in.proj + b * T * col.width;
    S* dproj_b = dproj + b * T * col.width;
    std::fill(dphi, dphi + int64_t(H) * n1, S(0));
    for (int ci = nchunks - 1; ci >= 0; --ci) {
      const int t0 = ci * a.chunk_size, L = std::min(a.chunk_size, T - t0);
      const S* proj_c = proj_b + int64_t(t0) * col.width;
      S* dproj_c = dproj_b + int64_t(t0) * col.width;
      for (int i = 0; i < L; ++i) {  // [norm and] gate
        const int64_t at = (b * T + t0 + i) * d_inner;
        const auto z = row(proj_c + i * int64_t(col.width) + col.z, d_inner);
        const auto g = row(dy + at, d_inner);
        auto dz = row(dproj_c + i * int64_t(col.width) + col.z, d_inner);
        auto d = row(dout + int64_t(i) * d_inner, d_inner);
        dz = S(1) / (S(1) + (-z).exp());  // sigmoid
        d = g * z * dz;                   // cotangent before the gate
        if (in.norm == nullptr) {
          dz = g * row(o + at, d_inner) * dz * (S(1) + z * (S(1) - dz));
        } else {
          for (int h = 0; h < H; ++h) {
            const int64_t c = int64_t(h) * P;
            const auto oh = row(o + at + c, P);
            const S r = S(1) / std::sqrt(oh.square().sum() / S(P) + S(a.eps));
            auto dzh = dz.segment(c, P);
            const auto zh = z.segment(c, P);
            dzh = g.segment(c, P) * oh * r * row(in.norm + c, P) * dzh * (S(1) + zh * (S(1) - dzh));
            norm_backward(o + at + c, r, in.norm + c, dout + int64_t(i) * d_inner + c, P,
                          dout + int64_t(i) * d_inner + c, sum.norm + c);
          }
        }
      }
      norm_rows(proj_c, col.width, col.B, in.B_norm, L, G, N, S(a.eps), bn, rb);
      norm_rows(proj_c, col.width, col.C, in.C_norm, L, G, N, S(a.eps), cn, rc);
      std::fill(dbn, dbn + int64_t(L) * G * N, S(0));
      std::fill(dcn, dcn + int64_t(L) * G * N, S(0));
      std::fill(dtheta, dtheta + int64_t(L) * n1, S(0));
      if (data_dependent) {
        for (int i = 0; i < L; ++i)
          row(theta + int64_t(i) * n, n) = row(proj_c + i * int64_t(col.width) + col.ang, n);
        row(theta, int64_t(L) * n) = S(std::numbers::pi) * row(theta, int64_t(L) * n).tanh();
      }
      for (int h = 0; h < H; ++h) {
        const int g = h / (H / G);
        steps.compute(a, col, proj_b, in.dt_bias, h, t0, L, T);
        if (rotates && (data_dependent || h == 0)) {
          if (data_dependent) {
            for (int i = 0; i < L; ++i) {
              std::memcpy(phi + int64_t(i) * n, phi_saved + ((b * T + t0 + i) * H + h) * n,
                          size_t(n) * sizeof(S));
            }
          } else {
            chunk_angles<S>(a, nullptr, nullptr, t0, L, nullptr, phi, n);
          }
          row(cosv, int64_t(L) * n) = row(phi, int64_t(L) * n).cos();
          row(sinv, int64_t(L) * n) = row(phi, int64_t(L) * n).sin();
        }
        for (int i = 0; i < L; ++i) {
          auto kr = row(kp + int64_t(i) * N, N), qr = row(qp + int64_t(i) * N, N);
          kr = row(bn + (int64_t(i) * G + g) * N, N);
          qr = row(cn + (int64_t(i) * G + g) * N, N);
          if (in.B_bias) kr += row(in.B_bias + int64_t(h) * N, N);
          if (in.C_bias) qr += row(in.C_bias + int64_t(h) * N, N);
          same[i] = (kr * qr).sum();
          diag[i] = steps.gam[i] * same[i] + in.D[h];
          row(kh + int64_t(i) * N, N) = kr;
          row(qh + int64_t(i) * N, N) = qr;
          if (rotates) {
            rotate_pairs(kp + int64_t(i) * N, cosv + int64_t(i) * n, sinv + int64_t(i) * n, n, S(1),
                         kh + int64_t(i) * N);
            rotate_pairs(qp + int64_t(i) * N, cosv + int64_t(i) * n, sinv + int64_t(i) * n, n, S(1),
                         qh + int64_t(i) * N);
          }
        }
        const S* state_in = states + ((b * H + h) * nchunks + ci) * int64_t(P) * N;
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
                             ci > 0 ? state_in : nullptr};
        const ChunkGradients<S> grad{dq,
                                     dk,
                                     dproj_c + col.x + int64_t(h) * P,
                                     col.width,
                                     dw,
                                     ddiag,
                                     dalpha,
                                     dstate + int64_t(h) * P * N,
                                     ci == nchunks - 1 || STATELAB_FAULT(chunk_dstate_dropped),
                                     ci > 0};
        if (a.chunked) {
          chunk_backward(chunk, chunk_scratch, dout + int64_t(h) * P, d_inner, grad);
        } else {
          recurrent_backward(chunk, dout + int64_t(h) * P, d_inner, grad);
        }
        S* dphi_h = dphi + int64_t(h) * n1;
        auto dBb = row(sum.B_bias + int64_t(h) * N, N), dCb = row(sum.C_bias + int64_t(h) * N, N);
        for (int i = L - 1; i >= 0; --i) {
          const int64_t at = int64_t(h) * T + t0 + i;
          S *dki = dk + int64_t(i) * N, *dqi = dq + int64_t(i) * N;
          const S *khi = kh + int64_t(i) * N, *qhi = qh + int64_t(i) * N;
          S ddt_i = S(0);
          if (data_dependent) {
            const S* th = theta + int64_t(i) * n;
            S* dth = dtheta + int64_t(i) * n;
            for (int j = 0; j < n; ++j) {
              dphi_h[j] += (dqi[2 * j + 1] * qhi[2 * j] - dqi[2 * j] * qhi[2 * j + 1]) +
                           (dki[2 * j + 1] * khi[2 * j] - dki[2 * j] * khi[2 * j + 1]);
              if (!STATELAB_FAULT(mamba3_dtheta_without_dt))
                dth[j] += steps.dt[i] * dphi_h[j];
              else
                dth[j] += dphi_h[j];
            }
            if (!STATELAB_FAULT(mamba3_ddt_without_angle))
              ddt_i = (row(th, n) * row(dphi_h, n)).sum();
          }
          if (rotates) {
            rotate_pairs(dki, cosv + int64_t(i) * n, sinv + int64_t(i) * n, n,
                         STATELAB_FAULT(mamba3_backward_rotation_sign) ? S(1) : S(-1), dki);
            rotate_pairs(dqi, cosv + int64_t(i) * n, sinv + int64_t(i) * n, n, S(-1), dqi);
          }
          const S dsame = STATELAB_FAULT(mamba3_dsame_missing) ? S(0) : steps.gam[i] * ddiag[i];
          auto dkr = row(dki, N), dqr = row(dqi, N);
          dkr += dsame * row(qp + int64_t(i) * N, N);
          dqr += dsame * row(kp + int64_t(i) * N, N);
          dBb += dkr;
          dCb += dqr;
          row(dbn + (int64_t(i) * G + g) * N, N) += dkr;
          row(dcn + (int64_t(i) * G + g) * N, N) += dqr;
          sum.D[h] += ddiag[i];
          const S da = steps.alpha[i] * dalpha[i];
          ddt_i += steps.A[i] * da;
          const S dA = steps.dt[i] * da;
          S fprime;
          if (a.heavy_tail) {
            const S v = steps.raw_A[i];
            fprime = v >= S(0) ? S(1) : S(1) / ((S(1) - v) * (S(1) - v));
          } else {
            fprime = sigmoid(steps.raw_A[i]);
          }
          dproj_c[i * int64_t(col.width) + col.dd_A + h] =
              steps.floored[i] != S(0) ? S(0) : -dA * fprime;
          ds[at] = dw[i];
          dgam_diag[at] = same[i] * ddiag[i];
          ddt[at] = ddt_i;
          lam_dt[at] = steps.lam[i];
        }
      }
      for (int i = 0; i < L; ++i) {
        S* d = dproj_c + i * int64_t(col.width);
        const S* p = proj_c + i * int64_t(col.width);
        for (int g = 0; g < G; ++g) {
          const int64_t at = (int64_t(i) * G + g) * N;
          norm_backward(p + col.B + int64_t(g) * N, rb[i * G + g], in.B_norm, dbn + at, N,
                        d + col.B + int64_t(g) * N, sum.B_norm);
          norm_backward(p + col.C + int64_t(g) * N, rc[i * G + g], in.C_norm, dcn + at, N,
                        d + col.C + int64_t(g) * N, sum.C_norm);
        }
        if (data_dependent) {
          const auto th = row(theta + int64_t(i) * n, n) / S(std::numbers::pi);
          row(d + col.ang, n) =
              row(dtheta + int64_t(i) * n, n) * S(std::numbers::pi) * (S(1) - th.square());
        } else {
          std::fill(d + col.ang, d + col.ang + n, S(0));
        }
      }
    }
    for (int h = 0; h < H; ++h) {  // step sizes and trapezoid, once ds of all tokens is known
      for (int t = 0; t < T; ++t) {
        const int64_t at = int64_t(h) * T + t;
        S* d = dproj_b + int64_t(t) * col.width;
        const S raw = proj_b[int64_t(t) * col.width + col.dd_dt + h] + in.dt_bias[h];
        const S dt = softplus(raw), lam = lam_dt[at];
        const S dgam = ds[at] + dgam_diag[at];
        S ddel = t > 0 ? ds[at - 1] : S(0);
        if (STATELAB_FAULT(mamba3_ddel_same_step)) ddel = ds[at];
        S ddt_t = ddt[at], dtrap = S(0);
        switch (a.discretization) {
          case Discretization::kTrapezoidal:
            dtrap = dt * (dgam - ddel) * lam * (S(1) - lam);
            [[fallthrough]];
          case Discretization::kHalf:
            ddt_t += lam * dgam + (S(1) - lam) * ddel;
            break;
          case Discretization::kEuler:
            ddt_t += dgam;
            break;
        }
        const S draw = ddt_t * sigmoid(raw);
        d[col.dd_dt + h] = draw;
        d[col.trap + h] = dtrap;
        sum.dt_bias[h] += draw;
      }
    }
  }
}

template <class S>
void finish(const Call& call, int member) {
  const auto& a = call.attrs<Attrs>();
  const int count = partition((*call.in[1].shape)[0]).parts;
  const int64_t lengths[] = {a.nheads,
                             int64_t(a.nheads) * a.d_state,
                             int64_t(a.nheads) * a.d_state,
                             a.d_state,
                             a.d_state,
                             a.nheads,
                             a.d_inner()};
  for (size_t i = 0; i < 7; ++i) {
    auto total = row(call.out[i + 1].at<S>(member), lengths[i]);
    total.setZero();
    for (int block = 0; block < count; ++block) {
      const Partials<S> p(call.workspace.at<S>(member) + block * Partials<S>::elements(a), a);
      const S* source[] = {p.dt_bias, p.B_bias, p.C_bias, p.B_norm, p.C_norm, p.D, p.norm};
      total += row(source[i], lengths[i]);
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> mamba3_scan_bwd_kernel() {
  return {blocks, workspace_elements, scratch_elements, run<S>, finish<S>};
}
template CpuKernel<float> mamba3_scan_bwd_kernel();
template CpuKernel<double> mamba3_scan_bwd_kernel();

}  // namespace statelab::cpu

// mamba3_scan_at, mamba2_scan_at and their gradients, token by token: equations in kernels/scan_at.h. A block takes a run of
// sequences. Of the backward pass's sums over tokens, those over (j, p] become sums over [0, i) of what each j contributes.
#include "kernels/scan_at.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/mamba3_pre.h"
#include "kernels/cpu/position.h"

namespace statelab::cpu {
namespace {

ScanAt dims_of(const Attributes& attributes) {
  const auto* mamba3 = std::get_if<Mamba3ScanAttrs>(&attributes);
  return mamba3 != nullptr ? ScanAt(*mamba3) : ScanAt(std::get<Mamba2ScanAttrs>(attributes));
}

Partition partition(int batch) { return Partition::of(batch, 32, 1); }
int blocks_fwd(const CallShapes& c) { return partition(c.in[0]->shape[0]).parts; }
int blocks_bwd(const CallShapes& c) { return partition(c.in[1]->shape[0]).parts; }

template <class S>
struct Inputs {
  const S *proj, *dt_bias, *B_bias, *C_bias, *B_norm, *C_norm, *A_log, *D, *norm;
  const int32_t* targets;
  Inputs(const Call& call, int member, bool mamba3, int first) {
    const ScanAtOperands at(mamba3);
    auto real = [&](int i) {
      return i < 0 ? nullptr : call.in[static_cast<size_t>(first + i)].at<const S>(member);
    };
    proj = real(0), dt_bias = real(at.dt_bias), B_bias = real(at.B_bias), C_bias = real(at.C_bias);
    B_norm = real(at.B_norm), C_norm = real(at.C_norm), A_log = real(at.A_log), D = real(at.D);
    norm = real(at.norm);
    targets = call.in[static_cast<size_t>(first + at.targets)].at<const int32_t>(member);
  }
};

/// A sequence up to its position p, and one head of it at a time.
template <class S>
struct Sequence {
  const ScanAt& a;
  const Inputs<S>& in;
  int p = 0;
  const S* rows = nullptr;  // of proj
  // (p + 1) of a head: step sizes, their raw values, rates (negative), log alpha summed over (j, p], trapezoid, weights
  S *dt, *raw, *rate, *slope, *decay, *lam, *weight;
  S *theta, *psi;             // (p + 1, nangles)
  S *q, *q_hat, *k, *turned;  // d_state

  static int64_t elements(const ScanAt& a, int seqlen) {
    return 7 * padded(seqlen) + 2 * padded(int64_t{seqlen} * std::max(a.nangles, 1)) +
           4 * padded(a.d_state);
  }
  Sequence(const ScanAt& dims, const Inputs<S>& inputs, int seqlen, ScratchArrays<S>& s)
      : a(dims), in(inputs) {
    for (S** array : {&dt, &raw, &rate, &slope, &decay, &lam, &weight}) *array = s.take(seqlen);
    for (S** array : {&theta, &psi}) *array = s.take(int64_t{seqlen} * std::max(a.nangles, 1));
    for (S** array : {&q, &q_hat, &k, &turned}) *array = s.take(a.d_state);
  }

  const S* row_of(int t) const { return rows + int64_t{t} * a.width; }
  int group_of(int h) const { return h / (a.nheads / a.ngroups); }

  void start(int64_t b, int seqlen) {
    p = supervised_position(in.targets + b * seqlen, seqlen);
    rows = in.proj + b * seqlen * a.width;
    if (a.rotation != ScanAt::Rotation::kDataDependent) return;
    for (int t = 0; t <= p; ++t) {
      for (int j = 0; j < a.nangles; ++j)
        theta[t * a.nangles + j] = S(std::numbers::pi) * std::tanh(row_of(t)[a.ang + j]);
    }
  }

  /// B or C of a group: normed, with the head's bias. Returns 1 / rms, 1 without a norm.
  S key(int t, int column, const S* norm, const S* bias, int h, S* to) const {
    const int N = a.d_state;
    const auto from = row(row_of(t) + column + int64_t{group_of(h)} * N, N);
    S inv(1);
    row(to, N) = from;
    if (norm != nullptr) {
      inv = S(1) / std::sqrt(from.square().sum() / S(N) + S(a.eps));
      row(to, N) *= inv * row(norm, N);
    }
    if (bias != nullptr) row(to, N) += row(bias + int64_t{h} * N, N);
    return inv;
  }

  void head(int h) {
    using D = ScanAt::Discretization;
    for (int t = 0; t <= p; ++t) {
      const S* r = row_of(t);
      raw[t] = r[a.dd_dt + h] + in.dt_bias[h];
      dt[t] = softplus(raw[t]);
      lam[t] = S(1);
      if (a.mamba3) {
        const S x = r[a.dd_A + h], floor = S(a.a_floor);
        const S f = !a.heavy_tail ? softplus(x) : x >= S(0) ? S(1) + x : S(1) / (S(1) - x);
        rate[t] = -std::max(f, floor);
        slope[t] = f < floor ? S(0) : !a.heavy_tail ? -sigmoid(x) : x >= S(0) ? S(-1) : -f * f;
        if (a.discretization == D::kTrapezoidal) lam[t] = sigmoid(r[a.trap + h]);
        if (a.discretization == D::kHalf) lam[t] = S(0.5);
      } else {
        rate[t] = -std::exp(in.A_log[h]);
      }
    }
    S sum(0);
    for (int t = p; t >= 0; --t) {
      decay[t] = sum;
      sum += rate[t] * dt[t];
      weight[t] = lam[t] * dt[t] + (t < p ? (S(1) - lam[t + 1]) * dt[t + 1] : S(0));
    }
    const int n = a.nangles;
    for (int j = 0; j < n; ++j) {
      S angle(0);
      for (int t = p; t >= 0; --t) {
        if (a.rotation == ScanAt::Rotation::kStandard)
          angle = static_cast<S>(wrap_angle(static_cast<double>(p - t) *
                                            std::pow(10000.0, -static_cast<double>(j) / n)));
        psi[t * n + j] = angle;
        if (a.rotation == ScanAt::Rotation::kDataDependent)
          angle = wrap_angle(angle + dt[t] * theta[t * n + j]);
      }
    }
    key(p, a.C, in.C_norm, in.C_bias, h, q);
  }

  /// q_hat = Rot(sign Psi_t) from.
  void turn(int t, const S* from, S sign, S* to) const {
    std::copy(from, from + a.d_state, to);
    if (a.rotation == ScanAt::Rotation::kNone) return;
    for (int j = 0; j < a.nangles; ++j) {
      const S c = std::cos(psi[t * a.nangles + j]), s = sign * std::sin(psi[t * a.nangles + j]);
      to[2 * j] = from[2 * j] * c - from[2 * j + 1] * s;
      to[2 * j + 1] = from[2 * j] * s + from[2 * j + 1] * c;
    }
  }
};

// ---- forward

int64_t scratch_fwd(const CallShapes& c) {
  const ScanAt a = dims_of(*c.attributes);
  return Sequence<float>::elements(a, c.in[0]->shape[1]);
}

template <class S>
void run_fwd(const Call& call, int member, int block, S* scratch) {
  const ScanAt a = dims_of(*call.attributes);
  const Inputs<S> in(call, member, a.mamba3, 0);
  const int T = (*call.in[0].shape)[1], P = a.headdim, inner = a.d_inner();
  ScratchArrays<S> s(scratch);
  Sequence<S> sequence(a, in, T, s);
  const Partition part = partition((*call.in[0].shape)[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    sequence.start(b, T);
    const int p = sequence.p;
    S* y = call.out[0].at<S>(member) + b * inner;
    S* o = call.out[1].at<S>(member) + b * inner;
    for (int h = 0; h < a.nheads; ++h) {
      sequence.head(h);
      auto oh = row(o + int64_t{h} * P, P);
      oh = in.D[h] * row(sequence.row_of(p) + a.x + int64_t{h} * P, P);
      for (int t = 0; t <= p; ++t) {
        sequence.key(t, a.B, in.B_norm, in.B_bias, h, sequence.k);
        sequence.turn(t, sequence.q, S(1), sequence.q_hat);
        const S score = (row(sequence.q_hat, a.d_state) * row(sequence.k, a.d_state)).sum();
        oh += std::exp(sequence.decay[t]) * sequence.weight[t] * score *
              row(sequence.row_of(t) + a.x + int64_t{h} * P, P);
      }
    }
    const auto z = row(sequence.row_of(p) + a.z, inner);
    auto out = row(y, inner);
    out = row(o, inner);
    // Mamba-3 norms each head and then gates, Mamba-2 gates and then norms each group.
    if (!a.mamba3) out *= z / (S(1) + (-z).exp());
    if (in.norm != nullptr) {
      const int parts = a.mamba3 ? a.nheads : a.ngroups, n = inner / parts;
      for (int i = 0; i < parts; ++i) {
        auto of = out.segment(int64_t{i} * n, n);
        of *= S(1) / std::sqrt(of.square().sum() / S(n) + S(a.eps)) *
              row(in.norm + int64_t{i} * n, n);
      }
    }
    if (a.mamba3) out *= z / (S(1) + (-z).exp());
  }
}

// ---- backward

/// Sums of one block over its sequences.
template <class S>
struct Sums {
  S *dt_bias, *B_bias, *C_bias, *B_norm, *C_norm, *A_log, *D, *norm;
  static int64_t elements(const ScanAt& a) {
    return 3 * padded(a.nheads) + 2 * padded(int64_t{a.nheads} * a.d_state) +
           2 * padded(a.d_state) + padded(a.d_inner());
  }
  Sums(S* p, const ScanAt& a) {
    ScratchArrays<S> s(p);
    for (S** array : {&dt_bias, &A_log, &D}) *array = s.take(a.nheads);
    for (S** array : {&B_bias, &C_bias}) *array = s.take(int64_t{a.nheads} * a.d_state);
    for (S** array : {&B_norm, &C_norm}) *array = s.take(a.d_state);
    norm = s.take(a.d_inner());
  }
};

int64_t workspace_bwd(const CallShapes& c) {
  return blocks_bwd(c) * Sums<float>::elements(dims_of(*c.attributes));
}

int64_t scratch_bwd(const CallShapes& c) {
  const ScanAt a = dims_of(*c.attributes);
  const int64_t T = c.in[1]->shape[1];
  return Sequence<float>::elements(a, static_cast<int>(T)) + padded(T * a.ngroups * a.d_state) +
         padded(int64_t{a.ngroups} * a.d_state) + padded(T * std::max(a.nangles, 1)) +
         3 * padded(T) + 2 * padded(a.d_state) + padded(std::max(a.nangles, 1)) +
         2 * padded(a.d_inner());
}

/// x r w back to x, r = (mean x^2 + eps)^(-1/2); w null: nothing happens to it.
template <class S>
void norm_back(const S* x, S r, const S* w, const S* dy, int n, S* dx, S* dw) {
  const auto from = row(x, n), g = row(dy, n);
  if (w == nullptr) {
    row(dx, n) = g;
    return;
  }
  row(dw, n) += g * from * r;
  const S dot = (g * row(w, n) * from).sum() * r / S(n);
  row(dx, n) = r * (g * row(w, n) - from * r * dot);
}

template <class S>
void run_bwd(const Call& call, int member, int block, S* scratch) {
  using Rotation = ScanAt::Rotation;
  using D = ScanAt::Discretization;
  const ScanAt a = dims_of(*call.attributes);
  const Inputs<S> in(call, member, a.mamba3, 1);
  const Shape& shape = *call.in[1].shape;
  const int T = shape[1], P = a.headdim, N = a.d_state, G = a.ngroups, n = a.nangles,
            inner = a.d_inner();
  S* const mine = call.workspace.at<S>(member) + block * Sums<S>::elements(a);
  std::fill(mine, mine + Sums<S>::elements(a), S(0));
  const Sums<S> sums(mine, a);
  ScratchArrays<S> s(scratch);
  Sequence<S> sequence(a, in, T, s);
  S *dB = s.take(int64_t{T} * G * N), *dC = s.take(int64_t{G} * N),
    *dtheta = s.take(int64_t{T} * std::max(n, 1));
  S *before = s.take(T), *dweight = s.take(T), *dpsi_row = s.take(std::max(n, 1));
  S *dq = s.take(N), *dk = s.take(N), *dout = s.take(inner), *gated = s.take(inner);
  S* dscore = s.take(T);
  const Partition part = partition(shape[0]);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    sequence.start(b, T);
    const int p = sequence.p;
    S* const drows = call.out[0].at<S>(member) + b * T * a.width;
    std::fill(drows, drows + int64_t{T} * a.width, S(0));
    std::fill(dB, dB + int64_t{p + 1} * G * N, S(0));
    std::fill(dC, dC + int64_t{G} * N, S(0));
    std::fill(dtheta, dtheta + int64_t{p + 1} * n, S(0));
    S* const dp = drows + int64_t{p} * a.width;
    {  // gate and norm
      const auto dy = row(call.in[0].at<const S>(member) + b * inner, inner);
      const int last = 1 + ScanAtOperands(a.mamba3).count();
      const S* const saved = call.in[static_cast<size_t>(last)].at<const S>(member) + b * inner;
      const auto o = row(saved, inner);
      const auto z = row(sequence.row_of(p) + a.z, inner);
      auto dz = row(dp + a.z, inner), d = row(dout, inner), m = row(gated, inner);
      const int parts = a.mamba3 ? a.nheads : G, width = inner / parts;
      for (int c = 0; c < inner; ++c) m[c] = z[c] * sigmoid(z[c]);
      if (a.mamba3) {
        d = dy * m;
        for (int i = 0; i < parts; ++i) {
          const int64_t at = int64_t{i} * width;
          const S r =
              in.norm == nullptr
                  ? S(1)
                  : S(1) / std::sqrt(o.segment(at, width).square().sum() / S(width) + S(a.eps));
          for (int64_t c = at; c < at + width; ++c)
            dz[c] = dy[c] * o[c] * (in.norm == nullptr ? S(1) : r * in.norm[c]) * dsilu(z[c]);
          norm_back(saved + at, r, in.norm == nullptr ? nullptr : in.norm + at, dout + at, width,
                    dout + at, sums.norm + at);
        }
      } else {
        m *= o;
        d = dy;
        for (int i = 0; i < parts; ++i) {
          const int64_t at = int64_t{i} * width;
          const S r = S(1) / std::sqrt(m.segment(at, width).square().sum() / S(width) + S(a.eps));
          norm_back(gated + at, r, in.norm + at, dout + at, width, dout + at, sums.norm + at);
        }
        for (int c = 0; c < inner; ++c) {
          dz[c] = d[c] * o[c] * dsilu(z[c]);
          d[c] *= z[c] * sigmoid(z[c]);
        }
      }
    }
    for (int h = 0; h < a.nheads; ++h) {
      sequence.head(h);
      const int g = sequence.group_of(h);
      const auto d = row(dout + int64_t{h} * P, P);
      row(dq, N).setZero();
      row(dpsi_row, std::max(n, 1)).setZero();
      S ddecay(0);  // of what the tokens before contribute
      sums.D[h] += (d * row(sequence.row_of(p) + a.x + int64_t{h} * P, P)).sum();
      for (int t = 0; t <= p; ++t) {
        const S* r = sequence.row_of(t);
        S* const dr = drows + int64_t{t} * a.width;
        sequence.key(t, a.B, in.B_norm, in.B_bias, h, sequence.k);
        sequence.turn(t, sequence.q, S(1), sequence.q_hat);
        sequence.turn(t, sequence.k, S(-1), sequence.turned);
        const auto x = row(r + a.x + int64_t{h} * P, P);
        const S score = (row(sequence.q_hat, N) * row(sequence.k, N)).sum(), value = (d * x).sum();
        const S shrunk = std::exp(sequence.decay[t]), c = shrunk * sequence.weight[t];
        row(dr + a.x + int64_t{h} * P, P) = (c * score + (t == p ? in.D[h] : S(0))) * d;
        row(dq, N) += c * value * row(sequence.turned, N);
        row(dk, N) = c * value * row(sequence.q_hat, N);
        row(dB + (int64_t{t} * G + g) * N, N) += row(dk, N);
        if (in.B_bias != nullptr) row(sums.B_bias + int64_t{h} * N, N) += row(dk, N);
        dweight[t] = shrunk * score * value;
        before[t] = ddecay;
        ddecay += c * score * value;
        if (a.rotation == Rotation::kDataDependent) {
          dscore[t] = S(0);
          for (int j = 0; j < n; ++j) {
            dtheta[t * n + j] += sequence.dt[t] * dpsi_row[j];
            dscore[t] += sequence.theta[t * n + j] * dpsi_row[j];  // d loss / d dt by the angles
            dpsi_row[j] += c * value *
                           (sequence.q_hat[2 * j] * sequence.k[2 * j + 1] -
                            sequence.q_hat[2 * j + 1] * sequence.k[2 * j]);
          }
        } else {
          dscore[t] = S(0);
        }
      }
      row(dC + int64_t{g} * N, N) += row(dq, N);
      if (in.C_bias != nullptr) row(sums.C_bias + int64_t{h} * N, N) += row(dq, N);
      for (int t = 0; t <= p; ++t) {
        S* const dr = drows + int64_t{t} * a.width;
        const S dt = sequence.dt[t], lam = sequence.lam[t], dgam = dweight[t],
                ddel = t > 0 ? dweight[t - 1] : S(0);
        S ddt = sequence.rate[t] * before[t] + dscore[t];
        if (a.mamba3) {
          dr[a.dd_A + h] = before[t] * dt * sequence.slope[t];
          if (a.discretization == D::kTrapezoidal)
            dr[a.trap + h] = dt * (dgam - ddel) * lam * (S(1) - lam);
        } else {
          sums.A_log[h] += before[t] * dt * sequence.rate[t];
        }
        ddt += lam * dgam + (S(1) - lam) * ddel;
        const S draw = ddt * sigmoid(sequence.raw[t]);
        dr[a.dd_dt + h] = draw;
        sums.dt_bias[h] += draw;
      }
    }
    for (int g = 0; g < G; ++g) {
      const int h = g * (a.nheads / G);
      for (int t = 0; t <= p; ++t) {
        const S inv = sequence.key(t, a.B, in.B_norm, nullptr, h, sequence.k);
        norm_back(sequence.row_of(t) + a.B + int64_t{g} * N, inv, in.B_norm,
                  dB + (int64_t{t} * G + g) * N, N,
                  drows + int64_t{t} * a.width + a.B + int64_t{g} * N, sums.B_norm);
      }
      const S inv = sequence.key(p, a.C, in.C_norm, nullptr, h, sequence.k);
      norm_back(sequence.row_of(p) + a.C + int64_t{g} * N, inv, in.C_norm, dC + int64_t{g} * N, N,
                dp + a.C + int64_t{g} * N, sums.C_norm);
    }
    if (a.rotation == Rotation::kDataDependent) {
      for (int t = 0; t <= p; ++t) {
        for (int j = 0; j < n; ++j) {
          const S tanh = sequence.theta[t * n + j] / S(std::numbers::pi);
          drows[int64_t{t} * a.width + a.ang + j] =
              dtheta[t * n + j] * S(std::numbers::pi) * (S(1) - tanh * tanh);
        }
      }
    }
  }
}

template <class S>
void finish_bwd(const Call& call, int member) {
  const ScanAt a = dims_of(*call.attributes);
  const int count = partition((*call.in[1].shape)[0]).parts;
  const ScanAtOperands at(a.mamba3);
  const int64_t H = a.nheads, N = a.d_state;
  auto add_up = [&](int operand, int64_t length, S* Sums<S>::*of) {
    if (operand < 0) return;
    auto total = row(call.out[static_cast<size_t>(operand)].at<S>(member), length);
    total.setZero();
    for (int block = 0; block < count; ++block)
      total +=
          row(Sums<S>(call.workspace.at<S>(member) + block * Sums<S>::elements(a), a).*of, length);
  };
  add_up(at.dt_bias, H, &Sums<S>::dt_bias);
  add_up(at.B_bias, H * N, &Sums<S>::B_bias);
  add_up(at.C_bias, H * N, &Sums<S>::C_bias);
  add_up(at.B_norm, N, &Sums<S>::B_norm);
  add_up(at.C_norm, N, &Sums<S>::C_norm);
  add_up(at.A_log, H, &Sums<S>::A_log);
  add_up(at.D, H, &Sums<S>::D);
  add_up(at.norm, a.d_inner(), &Sums<S>::norm);
}

}  // namespace

template <class S>
CpuKernel<S> scan_at_kernel() {
  return {.blocks = blocks_fwd, .scratch_elements = scratch_fwd, .run = run_fwd<S>};
}
template <class S>
CpuKernel<S> scan_at_bwd_kernel() {
  return {blocks_bwd, workspace_bwd, scratch_bwd, run_bwd<S>, finish_bwd<S>};
}
template CpuKernel<float> scan_at_kernel();
template CpuKernel<double> scan_at_kernel();
template CpuKernel<float> scan_at_bwd_kernel();
template CpuKernel<double> scan_at_bwd_kernel();

}  // namespace statelab::cpu

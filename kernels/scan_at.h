// What mamba3_scan_at and mamba2_scan_at have in common: the scans' result at one position of a sequence, where nothing else of it
// is read. There the recurrence is a sum over the tokens before, one query against their keys, and no state is needed:
//   o_p = (D + gam_p q.k_p) x_p + sum over j < p of exp(L_j) w_j (Rot(Psi_j) q . k_j) x_j
//   L_j = sum of log alpha over (j, p],  Psi_j = sum of dt theta over (j, p],  w_j = gam_j + del_{j+1}
// Source: models.md sections 3.2 - 3.4 and 6.2, unrolled.
#pragma once

#include "kernels/op.h"

namespace statelab {

/// Sizes, columns of proj and choices of either scan. Mamba-2 is the case without rotation, norms and biases of B and C, with
/// w = gam = dt, a rate A per head, and the gate before the norm.
struct ScanAt {
  using Rotation = Mamba3ScanAttrs::Rotation;
  using Discretization = Mamba3ScanAttrs::Discretization;
  int nheads, headdim, ngroups, d_state, nangles;
  int z, x, B, C, dd_dt, dd_A, trap, ang, width;  ///< first columns; dd_A, trap, ang of mamba3 only
  bool mamba3;
  Rotation rotation;  ///< kNone where nangles is 0
  Discretization discretization;
  bool heavy_tail;
  double a_floor, eps;

  explicit ScanAt(const Mamba3ScanAttrs& a)
      : ScanAt(a.nheads, a.headdim, a.ngroups, a.d_state, a.nangles, a.d_proj(), true) {
    rotation = a.nangles > 0 ? a.rotation : Rotation::kNone;
    discretization = a.discretization;
    heavy_tail = a.heavy_tail;
    a_floor = a.a_floor, eps = a.eps;
  }
  explicit ScanAt(const Mamba2ScanAttrs& a)
      : ScanAt(a.nheads, a.headdim, a.ngroups, a.d_state, 0, a.d_proj(), false) {
    eps = a.eps;
  }

  int d_inner() const { return nheads * headdim; }

 private:
  ScanAt(int heads, int channels, int groups, int states, int angles, int columns, bool is_mamba3)
      : nheads(heads),
        headdim(channels),
        ngroups(groups),
        d_state(states),
        nangles(angles),
        z(0),
        x(heads * channels),
        B(2 * x),
        C(B + groups * states),
        dd_dt(C + groups * states),
        dd_A(dd_dt + heads),
        trap(dd_A + heads),
        ang(trap + heads),
        width(columns),
        mamba3(is_mamba3),
        rotation(Rotation::kNone),
        discretization(Discretization::kEuler),
        heavy_tail(false),
        a_floor(0),
        eps(0) {}
};

/// Places of the operands after proj, in the forward op; backward each lies one further. -1: the scan has none.
struct ScanAtOperands {
  int dt_bias = 1, B_bias, C_bias, B_norm, C_norm, A_log, D, norm, targets;
  explicit ScanAtOperands(bool mamba3)
      : B_bias(mamba3 ? 2 : -1),
        C_bias(mamba3 ? 3 : -1),
        B_norm(mamba3 ? 4 : -1),
        C_norm(mamba3 ? 5 : -1),
        A_log(mamba3 ? -1 : 2),
        D(mamba3 ? 6 : 3),
        norm(mamba3 ? 7 : 4),
        targets(mamba3 ? 8 : 5) {}
  int count() const { return targets + 1; }
};

}  // namespace statelab

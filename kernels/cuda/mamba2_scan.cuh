// What the kernels of mamba2_scan are given, and the partial sums that their backward passes leave. Source: models.md section 6.
#pragma once

#include "kernels/cuda/scan.cuh"

namespace statelab::cuda {

struct Mamba2Args {
  ScanDims dims;
  int z, x, B, C, dd_dt;  // columns of proj
  bool vectors;           // two neighbouring reals load together
  float eps;
  MemberArray<const float> proj, dt_bias, A_log, D, norm;
  MemberArray<float> y, o, states;               // forward
  MemberArray<const float> dy, o_in, states_in;  // backward
  MemberArray<float> dproj, dout, partials, norm_partials;
  MemberArray<const int32_t> targets;  // absent: all positions are used; only kernels on tiles look
  MemberArray<float> carried;  // on tiles: what passes from chunk to chunk, (batch, H, P, N)
  int norm_blocks;             // rows of norm_partials

  Mamba2Args(const Mamba2ScanAttrs& a, const Shape& proj_shape)
      : dims(scan_dims(a, proj_shape)),
        z(0),
        x(a.d_inner()),
        B(2 * a.d_inner()),
        C(B + a.ngroups * a.d_state),
        dd_dt(C + a.ngroups * a.d_state),
        vectors(dims.width % 2 == 0 && dims.headdim % 2 == 0 && dims.d_state % 2 == 0),
        eps(static_cast<float>(a.eps)) {}
};

/// A block's partial sums over tokens.
struct Mamba2Partials {
  int dt_bias, A_log, D, width;
  __host__ __device__ explicit Mamba2Partials(int nheads)
      : dt_bias(0), A_log(nheads), D(2 * nheads), width(3 * nheads) {}
};

}  // namespace statelab::cuda

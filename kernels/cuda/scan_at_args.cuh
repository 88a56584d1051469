// What the kernels of the scans at one position are given, and where they hold what in shared memory.
#pragma once

#include "kernels/cuda/scan.cuh"
#include "kernels/scan_at.h"

namespace statelab::cuda {

constexpr int kAtMaxWarps = 8;
constexpr int kAtLanes = 8, kAtTokens = kWarp / kAtLanes;  // of a token; of a warp at once

/// A sequence's partial sums, in the order of the op's outputs after dproj.
struct ScanAtSums {
  int dt_bias, B_bias, C_bias, B_norm, C_norm, A_log, D, norm, width;
  explicit ScanAtSums(const ScanAt& a) {
    const int H = a.nheads, N = a.mamba3 ? a.d_state : 0;
    dt_bias = 0, B_bias = H, C_bias = B_bias + H * N, B_norm = C_bias + H * N;
    C_norm = B_norm + N, A_log = C_norm + N, D = A_log + (a.mamba3 ? 0 : H), norm = D + H;
    width = norm + a.d_inner();
  }
};

inline ScanAt scan_at_dims(const Attributes& attributes) {
  const auto* mamba3 = std::get_if<Mamba3ScanAttrs>(&attributes);
  return mamba3 != nullptr ? ScanAt(*mamba3) : ScanAt(std::get<Mamba2ScanAttrs>(attributes));
}

/// Angles of a token: of all heads, or of one where they do not depend on data.
inline int scan_at_angles(const ScanAt& a) {
  using R = ScanAt::Rotation;
  return a.rotation == R::kNone ? 0 : a.rotation == R::kStandard ? a.nangles : a.nheads * a.nangles;
}

/// Why such a sequence does not run, "" where it does.
std::string scan_at_limit(const ScanAt& a, int seqlen);

/// Shared memory in floats: what a kernel holds first. The host lays it out, so that a kernel finds each place among its constants.
/// Strides by token are odd: threads of neighbouring tokens hit other banks.
struct ScanAtMemory {
  int warps, tokens, psi_pitch, theta_pitch, chains;
  int theta, dt, lam, falls, decay, weight, totals, behind;  // first floats; psi is at 0
  int arrays;                                                // floats of all, a multiple of 4
  int state_pitch;
  ScanAtMemory(const ScanAt& a, int angles, int seqlen)
      : warps(seqlen <= 64 ? kAtMaxWarps / 2 : kAtMaxWarps),
        tokens((seqlen + kAtTokens - 1) / kAtTokens * kAtTokens),
        psi_pitch(angles | 1),
        theta_pitch(a.nangles | 1),
        chains(angles + a.nheads),
        theta(tokens * psi_pitch),
        dt(theta + tokens * theta_pitch),
        lam(dt + tokens * a.nheads),
        falls(lam + tokens * a.nheads),
        decay(falls + tokens * a.nheads),
        weight(decay + tokens * a.nheads),
        totals(weight + tokens * a.nheads),
        behind(totals + warps * chains),
        arrays(quads(behind + warps * chains)),
        state_pitch((a.d_state + 1) / 2 * 2) {}
  static int quads(int floats) { return (floats + 3) / 4 * 4; }
};

/// Of the forward kernel of any heads: behind the arrays the warps' queries and their sums of o.
inline int scan_at_floats(const ScanAt& a, const ScanAtMemory& memory) {
  return memory.arrays + memory.warps * a.nheads * (memory.state_pitch + a.headdim);
}

struct ScanAtArgs {
  ScanAt a;
  ScanAtMemory memory;
  int seqlen;
  bool vectors;  // rows of proj and dproj, and what heads have of them, start at even offsets
  int angles;    // columns of psi that a token has
  float a_floor, eps;
  ScanAtSums slot;
  MemberArray<const float> proj, dt_bias, B_bias, C_bias, B_norm, C_norm, A_log, D, norm;
  MemberArray<const int32_t> targets;
  MemberArray<float> y, o;            // forward
  MemberArray<const float> dy, o_in;  // backward
  MemberArray<float> dproj, partials;

  ScanAtArgs(const ScanAt& dims, const CudaCall& call, size_t first)
      : a(dims),
        memory(a, scan_at_angles(a), (*call.in[first].shape)[1]),
        seqlen((*call.in[first].shape)[1]),
        vectors(a.width % 2 == 0 && a.headdim % 2 == 0 && a.d_state % 2 == 0),
        angles(scan_at_angles(a)),
        a_floor(static_cast<float>(a.a_floor)),
        eps(static_cast<float>(a.eps)),
        slot(a) {
    const ScanAtOperands at(a.mamba3);
    auto real = [&](int i) {
      return i < 0 ? MemberArray<const float>{}
                   : member_array<const float>(call.in[first + static_cast<size_t>(i)]);
    };
    proj = real(0), dt_bias = real(at.dt_bias), B_bias = real(at.B_bias), C_bias = real(at.C_bias);
    B_norm = real(at.B_norm), C_norm = real(at.C_norm), A_log = real(at.A_log), D = real(at.D);
    norm = real(at.norm);
    targets = member_array<const int32_t>(call.in[first + static_cast<size_t>(at.targets)]);
  }
};

/// Calls f<parts of d_state, parts of headdim, kWhole>(), parts of 16 columns; heads of 64 channels with 64 states are whole.
template <class F>
void scan_at_sizes(const ScanAtArgs& args, F&& f) {
  auto channels = [&]<int kStates>() {
    args.a.headdim <= 64 ? f.template operator()<kStates, 4, false>()
                         : f.template operator()<kStates, 8, false>();
  };
  if (args.a.d_state == 64 && args.a.headdim == 64 && args.vectors) {
    f.template operator()<4, 4, true>();
  } else {
    args.a.d_state <= 64 ? channels.template operator()<4>() : channels.template operator()<8>();
  }
}

}  // namespace statelab::cuda

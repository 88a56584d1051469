// What both directions of mamba3_scan compute for a chunk of one head before the recurrence. Nothing of it is stored for the
// backward pass but the angles. Source: models.md section 3.2.
#pragma once

#include "kernels/cuda/scan_chunk.cuh"

namespace statelab::cuda {

/// Column offsets of proj.
struct Mamba3Columns {
  int z, x, B, C, dd_dt, dd_A, trap, ang;
  explicit Mamba3Columns(const Mamba3ScanAttrs& a)
      : z(0),
        x(a.d_inner()),
        B(2 * a.d_inner()),
        C(B + a.ngroups * a.d_state),
        dd_dt(C + a.ngroups * a.d_state),
        dd_A(dd_dt + a.nheads),
        trap(dd_A + a.nheads),
        ang(trap + a.nheads) {}
};

struct Mamba3Args {
  ScanDims dims;
  Mamba3Columns col;
  Mamba3ScanAttrs::Rotation rotation;
  Mamba3ScanAttrs::Discretization discretization;
  bool heavy_tail;
  bool vectors;  // rows of proj, o, y start at even offsets: two neighbouring reals load together
  int nangles;
  float a_floor, eps;
  MemberArray<const float> proj, dt_bias, B_bias, C_bias, B_norm, C_norm, D, norm;
  // forward
  MemberArray<float> y, o, phi, states;
  // backward
  MemberArray<const float> dy, o_in, phi_in, states_in;
  MemberArray<float> dproj, partials;
  MemberArray<const int32_t> targets;  // absent: all positions are used; only kernels on tiles look

  Mamba3Args(const Mamba3ScanAttrs& a, const Shape& proj_shape)
      : dims(scan_dims(a, proj_shape)),
        col(a),
        rotation(a.nangles > 0 ? a.rotation : Mamba3ScanAttrs::Rotation::kNone),
        discretization(a.discretization),
        heavy_tail(a.heavy_tail),
        vectors(dims.width % 2 == 0 && dims.headdim % 2 == 0 && dims.d_state % 2 == 0 &&
                a.nangles % 2 == 0),
        nangles(a.nangles),
        a_floor(static_cast<float>(a.a_floor)),
        eps(static_cast<float>(a.eps)) {}
};

/// Floats of the shared tiles of a head: `rows` tokens of a chunk, each tile padded.
struct Mamba3Memory {
  int rows, pitch_n, pitch_p, pitch_q;
  __host__ __device__ Mamba3Memory(int rows, int headdim, int d_state)
      : rows(rows),
        pitch_n(pitch(round16(d_state))),
        pitch_p(pitch(round16(headdim))),
        pitch_q(pitch(rows)) {}
  __host__ __device__ static int larger(int a, int b) { return a > b ? a : b; }
  /// Scores; before that, the angles of the chunk.
  __host__ __device__ int score(int nangles) const {
    return larger(rows * pitch_q, (rows * nangles + 3) / 4 * 4);
  }
  __host__ __device__ int state(int headdim) const { return round16(headdim) * pitch_n; }
};

/// A block's partial sums of the backward pass, in the order of the op's outputs after dproj.
struct Mamba3Partials {
  int dt_bias, B_bias, C_bias, B_norm, C_norm, D, norm, width;
  __host__ __device__ Mamba3Partials(int nheads, int headdim, int d_state)
      : dt_bias(0),
        B_bias(nheads),
        C_bias(B_bias + nheads * d_state),
        B_norm(C_bias + nheads * d_state),
        C_norm(B_norm + d_state),
        D(C_norm + d_state),
        norm(D + nheads),
        width(norm + nheads * headdim) {}
};

constexpr float kPi = 3.14159265358979323846f;

/// x reduced to about [-pi, pi). 2 pi is subtracted in two parts, so that many turns do not add up its rounding.
__device__ __forceinline__ float wrap_angle(float x) {
  constexpr float kTwoPiHigh = 6.2831854820251465f, kTwoPiLow = -1.7484556000744882e-7f;
  const float turns = floorf((x + kPi) * 0.15915494309189535f);
  return fmaf(-turns, kTwoPiLow, fmaf(-turns, kTwoPiHigh, x));
}

/// Of an angle in about [-pi, pi): the general sincosf carries a reduction for huge arguments that costs more code than the rest.
__device__ __forceinline__ void sincos_wrapped(float x, float& sine, float& cosine) {
  sincospif(x * 0.31830988618379067f, &sine, &cosine);
}

/// Turns per token of pair j of the rotation that does not depend on data: 10000^(-j / S) / (2 pi).
__device__ __forceinline__ double standard_turns(int j, int nangles) {
  return exp2(-13.287712379549449 * j / nangles) * 0.15915494309189533577;  // log2(10000)
}
__device__ __forceinline__ float angle_of_turns(double turns) {
  return static_cast<float>((turns - floor(turns + 0.5)) * 6.283185307179586477);
}
/// Angle of pair j at token t of that rotation.
__device__ __forceinline__ float standard_angle(int t, int j, int nangles) {
  return angle_of_turns(t * standard_turns(j, nangles));
}

/// Step quantities of a chunk's tokens, and of the one after it while that exists.
struct Mamba3Tokens {
  float *dt, *log_alpha, *gam, *del, *w;  // kTokens each; log_alpha (rows), 0 past the last token
  static constexpr int kFloats = 5 * kTokens;
  __device__ explicit Mamba3Tokens(float* p)
      : dt(p),
        log_alpha(p + kTokens),
        gam(p + 2 * kTokens),
        del(p + 3 * kTokens),
        w(p + 4 * kTokens) {}

  /// What a token's thread keeps for the end of the backward pass.
  struct Raw {
    float dt = 0, A = 0, lam = 0;  // dt with its bias; before activation
  };

  /// Threads 0..rows. `proj_b`: the sequence's first row. A barrier is needed before weights().
  __device__ Raw compute(const Mamba3Args& a, const float* proj_b, float bias, int h, int t0,
                         int length) {
    using D = Mamba3ScanAttrs::Discretization;
    const int i = static_cast<int>(threadIdx.x);
    Raw raw;
    if (i > a.dims.rows) return raw;
    float step = 0, decay = 0;
    if (i <= length && t0 + i < a.dims.seqlen) {
      const float* row = proj_b + static_cast<int64_t>(t0 + i) * a.dims.width;
      raw.dt = __ldg(row + a.col.dd_dt + h) + bias;
      raw.A = __ldg(row + a.col.dd_A + h);
      raw.lam = __ldg(row + a.col.trap + h);
      step = softplusf(raw.dt);
      const float f =
          a.heavy_tail ? (raw.A >= 0 ? 1 + raw.A : __fdividef(1.0f, 1 - raw.A)) : softplusf(raw.A);
      decay = -fmaxf(f, a.a_floor) * step;
      raw.lam = a.discretization == D::kTrapezoidal ? sigmoidf(raw.lam)
                : a.discretization == D::kEuler     ? 1.0f
                                                    : 0.5f;
    }
    dt[i] = step;
    log_alpha[i] = i < length ? decay : 0.0f;
    gam[i] = i < length ? raw.lam * step : 0.0f;
    del[i] = (1 - raw.lam) * step;
    return raw;
  }
  /// The lookahead weights s_i = gam_i + del_{i+1} (models.md 3.4), and the diagonal gam_i c_i + D. Threads 0..rows-1.
  __device__ void weights(int rows, int length, const float* same, float D, float* diag) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= rows) return;
    w[i] = i < length ? gam[i] + del[i + 1] : 0.0f;
    diag[i] = i < length ? gam[i] * same[i] + D : 0.0f;
  }
};

/// Norm weights and biases of B and C of one head, in the columns of this lane.
template <int kParts>
struct Mamba3Lane {
  float2 norm_k[kParts], norm_q[kParts], bias_k[kParts], bias_q[kParts];
  bool has_norm_k, has_norm_q;
  __device__ Mamba3Lane(const Mamba3Args& a, int member, int h) {
    const int N = a.dims.d_state;
    const float *nk = a.B_norm.at(member), *nq = a.C_norm.at(member), *bk = a.B_bias.at(member),
                *bq = a.C_bias.at(member);
    has_norm_k = nk != nullptr, has_norm_q = nq != nullptr;
    auto value = [&](const float* from, int c, float otherwise) {
      return from != nullptr && c < N ? from[c] : otherwise;
    };
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int c = LanePairs<kParts>::column(part);
      norm_k[part] = make_float2(value(nk, c, 1), value(nk, c + 1, 1));
      norm_q[part] = make_float2(value(nq, c, 1), value(nq, c + 1, 1));
      if (bk != nullptr) bk += part == 0 ? h * N : 0;
      if (bq != nullptr) bq += part == 0 ? h * N : 0;
      bias_k[part] = make_float2(value(bk, c, 0), value(bk, c + 1, 0));
      bias_q[part] = make_float2(value(bq, c, 0), value(bq, c + 1, 0));
    }
  }
};

/// One token's rows of B and C on their way through norm, bias and rotation. All lanes of a warp.
template <int kParts>
struct Mamba3Row {
  LanePairs<kParts> k, q;
  float inv_k, inv_q, same;  // 1 / rms of the raw rows, 1 without a norm; k'.q'

  /// Raw rows in, k' and q' out.
  __device__ __forceinline__ void norm_and_bias(const Mamba3Lane<kParts>& lane, int N, float eps) {
    float square_k = 0, square_q = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      square_k += k.v[part].x * k.v[part].x + k.v[part].y * k.v[part].y;
      square_q += q.v[part].x * q.v[part].x + q.v[part].y * q.v[part].y;
    }
    const float inverse_n = __fdividef(1.0f, static_cast<float>(N));
    inv_k = lane.has_norm_k ? rsqrtf(warp_sum(square_k) * inverse_n + eps) : 1.0f;
    inv_q = lane.has_norm_q ? rsqrtf(warp_sum(square_q) * inverse_n + eps) : 1.0f;
    same = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      float2 &a = k.v[part], &b = q.v[part];
      a.x = a.x * inv_k * lane.norm_k[part].x + lane.bias_k[part].x;
      a.y = a.y * inv_k * lane.norm_k[part].y + lane.bias_k[part].y;
      b.x = b.x * inv_q * lane.norm_q[part].x + lane.bias_q[part].x;
      b.y = b.y * inv_q * lane.norm_q[part].y + lane.bias_q[part].y;
      same += a.x * b.x + a.y * b.y;
    }
    same = warp_sum(same);
  }

  /// angle[part]: of this lane's pair; pairs from nangles on stay.
  __device__ __forceinline__ void rotate(const float (&angle)[kParts], int nangles) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (LanePairs<kParts>::column(part) / 2 >= nangles) continue;
      float sine, cosine;
      sincos_wrapped(angle[part], sine, cosine);
      auto turn = [&](float2& x) {
        x = make_float2(x.x * cosine - x.y * sine, x.x * sine + x.y * cosine);
      };
      turn(k.v[part]), turn(q.v[part]);
    }
  }
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int part = 0; part < kParts; ++part) k.v[part] = q.v[part] = make_float2(0, 0);
    inv_k = inv_q = same = 0;
  }
};

}  // namespace statelab::cuda

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
  bool
      vectors;  // rows of proj, o and y start at even offsets: two neighbouring reals load together
  int nangles;
  float a_floor, eps;
  MemberArray<const float> proj, dt_bias, B_bias, C_bias, B_norm, C_norm, D, norm;
  // forward
  MemberArray<float> y, o, phi, states;
  // backward
  MemberArray<const float> dy, o_in, phi_in, states_in;
  MemberArray<float> dproj, partials;

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

/// Floats of shared memory for a head of these sizes; `carries`: more than one chunk.
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

constexpr float kPi = 3.14159265358979323846f;

/// x reduced to about [-pi, pi). 2 pi is subtracted in two parts, so that many turns do not add up its rounding.
__device__ __forceinline__ float wrap_angle(float x) {
  constexpr float kTwoPiHigh = 6.2831854820251465f, kTwoPiLow = -1.7484556000744882e-7f;
  const float turns = floorf((x + kPi) * 0.15915494309189535f);
  return fmaf(-turns, kTwoPiLow, fmaf(-turns, kTwoPiHigh, x));
}

/// Angle of pair j at token t of the rotation that does not depend on data: t * 10000^(-j / S).
__device__ __forceinline__ float standard_angle(int t, int j, int nangles) {
  const double turns =
      t * exp2(-13.287712379549449 * j / nangles) * 0.15915494309189533577;  // log2(10000)
  return static_cast<float>((turns - floor(turns + 0.5)) * 6.283185307179586477);
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

  /// Threads 0..rows. `proj_b`: the sequence's first row. A barrier is needed before weights().
  __device__ void compute(const Mamba3Args& a, const float* proj_b, float bias, int h, int t0,
                          int length) {
    using D = Mamba3ScanAttrs::Discretization;
    const int i = static_cast<int>(threadIdx.x);
    if (i > a.dims.rows) return;
    float step = 0, decay = 0, lam = 0;
    if (i <= length && t0 + i < a.dims.seqlen) {
      const float* row = proj_b + static_cast<int64_t>(t0 + i) * a.dims.width;
      step = softplusf(row[a.col.dd_dt + h] + bias);
      const float raw = row[a.col.dd_A + h];
      const float f = a.heavy_tail ? (raw >= 0 ? 1 + raw : 1 / (1 - raw)) : softplusf(raw);
      decay = -fmaxf(f, a.a_floor) * step;
      lam = a.discretization == D::kTrapezoidal ? sigmoidf(row[a.col.trap + h])
            : a.discretization == D::kEuler     ? 1.0f
                                                : 0.5f;
    }
    dt[i] = step;
    log_alpha[i] = i < length ? decay : 0.0f;
    gam[i] = i < length ? lam * step : 0.0f;
    del[i] = (1 - lam) * step;
  }
  /// The lookahead weights s_i = gam_i + del_{i+1} (models.md 3.4). Threads 0..rows-1.
  __device__ void weights(int rows, int length) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < rows) w[i] = i < length ? gam[i] + del[i + 1] : 0.0f;
  }
};

/// Rows of B and C of one head: normed, biased, rotated. Lane l of a warp holds columns 2 l, 2 l + 1 and 64 more of each:
/// the pairs that turn together.
struct Mamba3Row {
  float k[4], q[4];    // k' and q' before rotation
  float inv_k, inv_q;  // 1 / rms of the raw rows; 1 without a norm
  __device__ static int column(int l, int part) { return 2 * l + 64 * part; }
};

/// The constants that a lane multiplies and adds, read once.
struct Mamba3Lane {
  float norm_k[4], norm_q[4], bias_k[4], bias_q[4];
  bool has_norm_k, has_norm_q;
  __device__ Mamba3Lane(const Mamba3Args& a, int member, int h) {
    const int N = a.dims.d_state;
    const float *nk = a.B_norm.at(member), *nq = a.C_norm.at(member), *bk = a.B_bias.at(member),
                *bq = a.C_bias.at(member);
    has_norm_k = nk != nullptr, has_norm_q = nq != nullptr;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int c = Mamba3Row::column(lane_id(), e / 2) + e % 2;
      const bool in = c < N;
      norm_k[e] = in && nk != nullptr ? nk[c] : 1.0f;
      norm_q[e] = in && nq != nullptr ? nq[c] : 1.0f;
      bias_k[e] = in && bk != nullptr ? bk[h * N + c] : 0.0f;
      bias_q[e] = in && bq != nullptr ? bq[h * N + c] : 0.0f;
    }
  }
};

/// All lanes of a warp, for one token. `row`: its row of proj; g: the head's group.
__device__ __forceinline__ Mamba3Row mamba3_row(const Mamba3Args& a, const Mamba3Lane& lane,
                                                const float* row, int g) {
  const int N = a.dims.d_state;
  Mamba3Row out;
  float square_k = 0, square_q = 0;
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const int c = Mamba3Row::column(lane_id(), part);
    float2 k = make_float2(0, 0), q = make_float2(0, 0);
    const float *from_k = row + a.col.B + g * N + c, *from_q = row + a.col.C + g * N + c;
    if (c + 1 < N) {
      k = load2(from_k, a.vectors), q = load2(from_q, a.vectors);
    } else if (c < N) {
      k.x = from_k[0], q.x = from_q[0];
    }
    out.k[2 * part] = k.x, out.k[2 * part + 1] = k.y;
    out.q[2 * part] = q.x, out.q[2 * part + 1] = q.y;
    square_k += k.x * k.x + k.y * k.y, square_q += q.x * q.x + q.y * q.y;
  }
  out.inv_k = lane.has_norm_k ? 1.0f / sqrtf(warp_sum(square_k) / N + a.eps) : 1.0f;
  out.inv_q = lane.has_norm_q ? 1.0f / sqrtf(warp_sum(square_q) / N + a.eps) : 1.0f;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    out.k[e] = out.k[e] * out.inv_k * lane.norm_k[e] + lane.bias_k[e];
    out.q[e] = out.q[e] * out.inv_q * lane.norm_q[e] + lane.bias_q[e];
  }
  return out;
}

/// Writes the row's rotated k and q at `k`, `q` (shared memory, zero beyond d_state up to a multiple of 16). angle(j): of pair
/// j < nangles; asked only when something turns.
template <class Angle>
__device__ __forceinline__ void rotate_and_store(const Mamba3Args& a, const Mamba3Row& row,
                                                 Angle&& angle, float* k, float* q) {
  const int padded = round16(a.dims.d_state);
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const int c = Mamba3Row::column(lane_id(), part);
    if (c >= padded) continue;
    float k0 = row.k[2 * part], k1 = row.k[2 * part + 1], q0 = row.q[2 * part],
          q1 = row.q[2 * part + 1];
    if (a.rotation != Mamba3ScanAttrs::Rotation::kNone && c / 2 < a.nangles) {
      float s, co;
      sincosf(angle(c / 2), &s, &co);
      const float k_turned = k0 * s + k1 * co, q_turned = q0 * s + q1 * co;
      k0 = k0 * co - k1 * s, q0 = q0 * co - q1 * s;
      k1 = k_turned, q1 = q_turned;
    }
    k[c] = k0, k[c + 1] = k1;
    q[c] = q0, q[c + 1] = q1;
  }
}

/// Zeroes the padded columns of a row past the last token. All lanes of a warp.
__device__ __forceinline__ void zero_row(float* row, int columns) {
  for (int c = lane_id(); c < columns; c += kWarp) row[c] = 0;
}

}  // namespace statelab::cuda

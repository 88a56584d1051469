// mamba3_scan, backward: one block takes a sequence, head after head, each from the last chunk to the first. Everything but o,
// Phi and the chunks' incoming states is recomputed. Source: models.md sections 3.9 and 3.10.
//
// What heads share - the gradients of B, C and the angles - is summed in dproj itself, by the same thread head after head.
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mamba3_scan.cuh"
#include "kernels/cuda/scan_limits.h"

namespace statelab::cuda {
namespace {

using Rotation = Mamba3ScanAttrs::Rotation;
using Discretization = Mamba3ScanAttrs::Discretization;

/// x, and in the same place the incoming state once x is no longer needed.
__host__ __device__ int x_floats(const ScanDims& d, const Mamba3Memory& m) {
  const int x = d.rows * m.pitch_p;
  return d.nchunks > 1 ? Mamba3Memory::larger(x, m.state(d.headdim)) : x;
}

__host__ __device__ int backward_floats(const ScanDims& d, int nangles) {
  const Mamba3Memory m(d.rows, d.headdim, d.d_state);
  return 2 * d.rows * m.pitch_n + x_floats(d, m) + d.rows * m.pitch_p + m.score(nangles) +
         (d.nchunks > 1 ? m.state(d.headdim) : 0) + Mamba3Tokens::kFloats + Decay<false>::kFloats +
         5 * kTokens + 12 * kMaxChunk + 16 + 4 * kMaxBlocks * round16(d.d_state);
}

/// A block's partial sums, in the order of the op's outputs after dproj.
struct Partials {
  int dt_bias, B_bias, C_bias, B_norm, C_norm, D, norm, width;
  __host__ __device__ Partials(int nheads, int headdim, int d_state)
      : dt_bias(0),
        B_bias(nheads),
        C_bias(B_bias + nheads * d_state),
        B_norm(C_bias + nheads * d_state),
        C_norm(B_norm + d_state),
        D(C_norm + d_state),
        norm(D + nheads),
        width(norm + nheads * headdim) {}
};

/// What is still missing of a chunk's first token: the weight of the token before it belongs to the chunk before.
struct Pending {
  float ddt, dgam, lam, dt, raw;
};

template <Precision kPrecision, int kP, int kN>
__global__ void __launch_bounds__(kScanThreads, kN > 0 ? 2 : 1)
    mamba3_bwd_kernel(const __grid_constant__ Mamba3Args a) {
  extern __shared__ float4 shared[];
  const ScanDims& d = a.dims;
  const int P = kP > 0 ? kP : d.headdim, N = kN > 0 ? kN : d.d_state, S = a.nangles;
  const int Pp = round16(P), Np = round16(N), rows = d.rows, H = d.nheads;
  const Mamba3Memory m(rows, P, N);
  float* next = reinterpret_cast<float*>(shared);
  auto take = [&](int floats) {
    float* out = next;
    next += floats;
    return out;
  };
  float *q = take(rows * m.pitch_n), *k = take(rows * m.pitch_n), *x = take(x_floats(d, m));
  float *dout = take(rows * m.pitch_p), *square = take(m.score(S));
  float* dstate = d.nchunks > 1 ? take(m.state(P)) : nullptr;
  Mamba3Tokens token(take(Mamba3Tokens::kFloats));
  float* decay = take(Decay<false>::kFloats);
  float *same = take(kTokens), *inv_k = take(kTokens), *inv_q = take(kTokens),
        *ddiag = take(kTokens), *diag = take(kTokens);
  float *row_x = take(2 * kMaxChunk), *column_x = take(4 * kMaxChunk),
        *f_part = take(2 * kMaxChunk), *e_part = take(2 * kMaxChunk),
        *dw_part = take(2 * kMaxChunk);
  float *warp_part = take(8), *pending_memory = take(8);
  float* column_sums = take(4 * kMaxBlocks * Np);  // B_bias, C_bias, B_norm, C_norm by row tile
  float* dphi = square;                            // (rows, S), when the square is done with
  float *dot_k = row_x, *dot_q = column_x, *ddt_angle = f_part + kMaxChunk;
  Pending& pending = *reinterpret_cast<Pending*>(pending_memory);

  ScanChunk<false> c{.rows = rows,
                     .padded_n = Np,
                     .padded_p = Pp,
                     .pitch_n = m.pitch_n,
                     .pitch_p = m.pitch_p,
                     .pitch_q = m.pitch_q,
                     .q = q,
                     .k = k,
                     .x = x,
                     .square = square,
                     .state = x,
                     .w = token.w,
                     .diag = diag,
                     .decay = Decay<false>(decay),
                     .first = false,
                     .last = false,
                     .dout = dout,
                     .dstate = dstate,
                     .ddiag = ddiag,
                     .row_x = row_x,
                     .column_x = column_x,
                     .f_part = f_part,
                     .e_part = e_part,
                     .dw_part = dw_part,
                     .unweighted = nullptr};

  const int member = blockIdx.y, b = blockIdx.x, d_inner = H * P;
  const int warp = warp_id(), row_tile = warp / 2, row0 = row_tile * 16;
  const int g = lane_id() / 4, t = lane_id() % 4, thread = static_cast<int>(threadIdx.x);
  const bool turns = a.rotation != Rotation::kNone,
             learned = a.rotation == Rotation::kDataDependent;
  constexpr int kOwnedN = owned_blocks(kN), kOwnedP = owned_blocks(kP);
  const int blocks_n = Np / 16, n0 = warp % 2 * (Np / 2);
  const int64_t first_token = static_cast<int64_t>(b) * d.seqlen;
  const float* proj_b = a.proj.at(member) + first_token * d.width;
  float* dproj_b = a.dproj.at(member) + first_token * d.width;
  const float *dy = a.dy.at(member), *o = a.o_in.at(member), *phi = a.phi_in.at(member),
              *states = a.states_in.at(member), *norm = a.norm.at(member),
              *B_norm = a.B_norm.at(member), *C_norm = a.C_norm.at(member);
  const Partials slot(H, P, N);
  float* partial = a.partials.at(member) + static_cast<int64_t>(b) * slot.width;
  for (int at = thread; at < 4 * kMaxBlocks * Np; at += kScanThreads) column_sums[at] = 0;

  for (int h = 0; h < H; ++h) {
    const int heads_per_group = H / d.ngroups, group = h / heads_per_group;
    const bool first_of_group = h % heads_per_group == 0,
               last_of_group = h % heads_per_group == heads_per_group - 1;
    const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h];
    const Mamba3Lane lane(a, member, h);
    float running_dphi = 0;            // of pair `thread`, over the tokens done
    float sum_D = 0, sum_dt_bias = 0;  // of token `thread` of all chunks
    float sum_norm[4] = {0, 0, 0, 0};  // of channel lane + 32 e
    for (int chunk = d.nchunks - 1; chunk >= 0; --chunk) {
      const int t0 = chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
      c.first = chunk == 0, c.last = chunk == d.nchunks - 1;
      const float* proj_c = proj_b + static_cast<int64_t>(t0) * d.width;
      float* dproj_c = dproj_b + static_cast<int64_t>(t0) * d.width;

      // ---- tokens, rows, gate
      token.compute(a, proj_b, bias, h, t0, length);
      __syncthreads();
      token.weights(rows, length);
      c.decay.build(token.log_alpha, rows);
      for (int i = thread; i < 2 * kMaxChunk; i += kScanThreads) row_x[i] = 0;
      for (int i = thread; i < 4 * kMaxChunk; i += kScanThreads) column_x[i] = 0;
      for (int i = warp; i < rows; i += kScanWarps) {
        if (i >= length) {
          zero_row(q + i * m.pitch_n, Np), zero_row(k + i * m.pitch_n, Np);
          zero_row(x + i * m.pitch_p, Pp), zero_row(dout + i * m.pitch_p, Pp);
          if (lane_id() == 0) same[i] = inv_k[i] = inv_q[i] = diag[i] = 0;
          continue;
        }
        const float* row = proj_c + static_cast<int64_t>(i) * d.width;
        const Mamba3Row r = mamba3_row(a, lane, row, group);
        float product = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) product += r.k[e] * r.q[e];
        product = warp_sum(product);
        if (lane_id() == 0) {
          same[i] = product, diag[i] = token.gam[i] * product + D;
          inv_k[i] = r.inv_k, inv_q[i] = r.inv_q;
        }
        rotate_and_store(
            a, r,
            [&](int j) {
              return learned ? phi[((first_token + t0 + i) * H + h) * S + j]
                             : standard_angle(t0 + i, j, S);
            },
            k + i * m.pitch_n, q + i * m.pitch_n);
        const int64_t at = (first_token + t0 + i) * d_inner + h * P;
        const float* z_row = row + a.col.z + h * P;
        float* dz_row = dproj_c + static_cast<int64_t>(i) * d.width + a.col.z + h * P;
        float o_e[4], dy_e[4], z_e[4], square_o = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int p = lane_id() + kWarp * e;
          const bool in = p < P;
          o_e[e] = in ? o[at + p] : 0, dy_e[e] = in ? dy[at + p] : 0, z_e[e] = in ? z_row[p] : 0;
          square_o += o_e[e] * o_e[e];
        }
        float inverse = 1, dot = 0;
        if (norm != nullptr) {
          inverse = 1.0f / sqrtf(warp_sum(square_o) / P + a.eps);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int p = lane_id() + kWarp * e;
            if (p < P) dot += dy_e[e] * z_e[e] * sigmoidf(z_e[e]) * norm[h * P + p] * o_e[e];
          }
          dot = warp_sum(dot) * inverse / P;
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int p = lane_id() + kWarp * e;
          if (p >= Pp) continue;
          const float sig = sigmoidf(z_e[e]), gated = dy_e[e] * z_e[e] * sig;
          float value = gated, through = o_e[e];
          if (norm != nullptr && p < P) {
            const float weight = norm[h * P + p];
            value = inverse * (gated * weight - o_e[e] * inverse * dot);
            through = o_e[e] * inverse * weight;
            sum_norm[e] += gated * o_e[e] * inverse;
          }
          dout[i * m.pitch_p + p] = value;
          x[i * m.pitch_p + p] = p < P ? row[a.col.x + h * P + p] : 0.0f;
          if (p < P) dz_row[p] = dy_e[e] * through * sig * (1 + z_e[e] * (1 - sig));
        }
      }
      __syncthreads();

      chunk_square<kPrecision>(c);
      __syncthreads();

      float dk[kOwnedN][4] = {};
      if (c.owns_rows()) {
        chunk_dk<kPrecision>(c, dk);
        chunk_dx<kPrecision, kOwnedP>(c, dproj_c + a.col.x + h * P, d.width, length, P, a.vectors);
      }
      __syncthreads();  // x has been read

      float across = 0;
      if (!c.first) {
        across = chunk_load_state(
            c, states + ((static_cast<int64_t>(b) * H + h) * d.nchunks + chunk) * P * N, P, N);
      }
      store_block_part(warp_part, across);
      __syncthreads();

      float dq[kOwnedN][4] = {};
      if (c.owns_rows()) chunk_dq<kPrecision>(c, dq);
      if (!c.first) chunk_dstate<kPrecision, kOwnedN>(c);
      __syncthreads();  // the square and the incoming state have been read

      combine_parts(c);
      __syncthreads();  // row_x and column_x are dot_k and dot_q from here

      // ---- through rotation, bias and norm of B and C
      if (c.owns_rows()) {
        float low_k = 0, low_q = 0, high_k = 0, high_q = 0;
#pragma unroll
        for (int n = 0; n < kOwnedN; ++n) {
          if (n >= blocks_n) continue;
          const int column = n0 + n * 8 + 2 * t;
          float sum_k[2] = {0, 0}, sum_q[2] = {0, 0};
#pragma unroll
          for (int high = 0; high < 2; ++high) {
            const int i = row0 + g + 8 * high;
            float &dk0 = dk[n][2 * high], &dk1 = dk[n][2 * high + 1], &dq0 = dq[n][2 * high],
                  &dq1 = dq[n][2 * high + 1];
            float k0 = k[i * m.pitch_n + column], k1 = k[i * m.pitch_n + column + 1],
                  q0 = q[i * m.pitch_n + column], q1 = q[i * m.pitch_n + column + 1];
            dk0 *= token.w[i], dk1 *= token.w[i];
            if (turns && column / 2 < S && i < length) {
              const float angle = learned ? phi[((first_token + t0 + i) * H + h) * S + column / 2]
                                          : standard_angle(t0 + i, column / 2, S);
              float s, co;
              sincosf(angle, &s, &co);
              if (learned) dphi[i * S + column / 2] = (dq1 * q0 - dq0 * q1) + (dk1 * k0 - dk0 * k1);
              auto back = [&](float& first, float& second) {
                const float turned = first * co + second * s;
                second = second * co - first * s;
                first = turned;
              };
              back(dk0, dk1), back(dq0, dq1), back(k0, k1), back(q0, q1);
            }
            const float dsame = token.gam[i] * ddiag[i];
            dk0 += dsame * q0, dk1 += dsame * q1;
            dq0 += dsame * k0, dq1 += dsame * k1;
            sum_k[0] += dk0, sum_k[1] += dk1, sum_q[0] += dq0, sum_q[1] += dq1;
            if (i >= length || column >= N) continue;
            // Earlier heads of the group have left their sums here.
            const float* raw = proj_c + static_cast<int64_t>(i) * d.width + group * N + column;
            float* to = dproj_c + static_cast<int64_t>(i) * d.width + group * N + column;
            const bool two = column + 1 < N;
            if (!first_of_group) {
              dk0 += to[a.col.B], dq0 += to[a.col.C];
              if (two) dk1 += to[a.col.B + 1], dq1 += to[a.col.C + 1];
            }
            if (!last_of_group || B_norm == nullptr) {
              to[a.col.B] = dk0;
              if (two) to[a.col.B + 1] = dk1;
            }
            if (!last_of_group || C_norm == nullptr) {
              to[a.col.C] = dq0;
              if (two) to[a.col.C + 1] = dq1;
            }
            if (last_of_group && B_norm != nullptr) {
              float dot = dk0 * B_norm[column] * raw[a.col.B];
              if (two) dot += dk1 * B_norm[column + 1] * raw[a.col.B + 1];
              (high ? high_k : low_k) += dot;
            }
            if (last_of_group && C_norm != nullptr) {
              float dot = dq0 * C_norm[column] * raw[a.col.C];
              if (two) dot += dq1 * C_norm[column + 1] * raw[a.col.C + 1];
              (high ? high_q : low_q) += dot;
            }
          }
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            sum_k[e] = column_sum(sum_k[e]), sum_q[e] = column_sum(sum_q[e]);
            if (g == 0) {
              column_sums[row_tile * Np + column + e] += sum_k[e];
              column_sums[(kMaxBlocks + row_tile) * Np + column + e] += sum_q[e];
            }
          }
        }
        store_row_parts(c, dot_k, low_k, high_k);
        store_row_parts(c, dot_q, low_q, high_q);
      }
      __syncthreads();
      if (c.owns_rows() && last_of_group && (B_norm != nullptr || C_norm != nullptr)) {
#pragma unroll
        for (int n = 0; n < kOwnedN; ++n) {
          if (n >= blocks_n) continue;
          const int column = n0 + n * 8 + 2 * t;
          float sum_k[2] = {0, 0}, sum_q[2] = {0, 0};
#pragma unroll
          for (int high = 0; high < 2; ++high) {
            const int i = row0 + g + 8 * high;
            if (i >= length) continue;
            const float* raw = proj_c + static_cast<int64_t>(i) * d.width + group * N + column;
            float* to = dproj_c + static_cast<int64_t>(i) * d.width + group * N + column;
            const float r_k = inv_k[i], r_q = inv_q[i];
            const float mean_k = (dot_k[i] + dot_k[kMaxChunk + i]) * r_k / N,
                        mean_q = (dot_q[i] + dot_q[kMaxChunk + i]) * r_q / N;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (column + e >= N) continue;
              if (B_norm != nullptr) {
                const float value = dk[n][2 * high + e], xhat = raw[a.col.B + e] * r_k;
                to[a.col.B + e] = r_k * (value * B_norm[column + e] - xhat * mean_k);
                sum_k[e] += value * xhat;
              }
              if (C_norm != nullptr) {
                const float value = dq[n][2 * high + e], xhat = raw[a.col.C + e] * r_q;
                to[a.col.C + e] = r_q * (value * C_norm[column + e] - xhat * mean_q);
                sum_q[e] += value * xhat;
              }
            }
          }
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            sum_k[e] = column_sum(sum_k[e]), sum_q[e] = column_sum(sum_q[e]);
            if (g == 0) {
              column_sums[(2 * kMaxBlocks + row_tile) * Np + column + e] += sum_k[e];
              column_sums[(3 * kMaxBlocks + row_tile) * Np + column + e] += sum_q[e];
            }
          }
        }
      }

      // ---- angles: dphi_t = sum over the tokens from t on
      if (learned) {
        if (thread < S) {
          for (int i = length - 1; i >= 0; --i) {
            running_dphi += dphi[i * S + thread];
            dphi[i * S + thread] = running_dphi;
          }
        }
        __syncthreads();
      }
      for (int i = warp; i < length; i += kScanWarps) {
        const float* row = proj_c + static_cast<int64_t>(i) * d.width + a.col.ang;
        float* to = dproj_c + static_cast<int64_t>(i) * d.width + a.col.ang;
        float through = 0;
        for (int j = lane_id(); j < S; j += kWarp) {
          if (!learned) {
            to[j] = 0;
            continue;
          }
          const float tanh_j = tanhf(row[j]);
          through += kPi * tanh_j * dphi[i * S + j];
          float dtheta = token.dt[i] * dphi[i * S + j];
          if (h > 0) dtheta += to[j];
          to[j] = h + 1 < H ? dtheta : dtheta * kPi * (1 - tanh_j * tanh_j);
        }
        through = warp_sum(through);
        if (lane_id() == 0) ddt_angle[i] = through;
      }
      __syncthreads();

      // ---- step sizes, decay, trapezoid
      auto finish = [&](const Pending& p, int at, float ddel) {
        float ddt = p.ddt, dtrap = 0;
        if (a.discretization == Discretization::kEuler) {
          ddt += p.dgam;
        } else {
          ddt += p.lam * p.dgam + (1 - p.lam) * ddel;
          if (a.discretization == Discretization::kTrapezoidal)
            dtrap = p.dt * (p.dgam - ddel) * p.lam * (1 - p.lam);
        }
        const float draw = ddt * sigmoidf(p.raw);
        float* to = dproj_b + static_cast<int64_t>(at) * d.width;
        to[a.col.dd_dt + h] = draw;
        to[a.col.trap + h] = dtrap;
        sum_dt_bias += draw;
      };
      if (thread < length) {
        const int i = thread;
        const float da = log_alpha_cotangent(c, i, length, block_sum(warp_part));
        const float* row = proj_c + static_cast<int64_t>(i) * d.width;
        const float raw_A = row[a.col.dd_A + h], dt = token.dt[i];
        const float f =
            a.heavy_tail ? (raw_A >= 0 ? 1 + raw_A : 1 / (1 - raw_A)) : softplusf(raw_A);
        const float slope = a.heavy_tail ? (raw_A >= 0 ? 1.0f : f * f) : sigmoidf(raw_A);
        const float A = -fmaxf(f, a.a_floor);
        dproj_c[static_cast<int64_t>(i) * d.width + a.col.dd_A + h] =
            f < a.a_floor ? 0.0f : -dt * da * slope;
        const float lam = a.discretization == Discretization::kTrapezoidal
                              ? sigmoidf(row[a.col.trap + h])
                          : a.discretization == Discretization::kEuler ? 1.0f
                                                                       : 0.5f;
        const Pending own = {A * da + (learned ? ddt_angle[i] : 0.0f),
                             dw_part[i] + same[i] * ddiag[i], lam, dt, row[a.col.dd_dt + h] + bias};
        sum_D += ddiag[i];
        if (i > 0) finish(own, t0 + i, dw_part[i - 1]);
        if (i == 0) {
          if (!c.last) finish(pending, t0 + length, dw_part[length - 1]);
          pending = own;
          if (c.first) finish(own, 0, 0.0f);
        }
      }
      __syncthreads();
    }

    // ---- the head's sums over tokens
    float* sums = e_part;
    if (thread < kMaxChunk) sums[thread] = sum_D, sums[kMaxChunk + thread] = sum_dt_bias;
    if (norm != nullptr) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int p = lane_id() + kWarp * e;
        if (p < P) dout[warp * P + p] = sum_norm[e];
      }
    }
    __syncthreads();
    if (thread < 2) {
      float total = 0;
      for (int i = 0; i < kMaxChunk; ++i) total += sums[thread * kMaxChunk + i];
      partial[(thread == 0 ? slot.D : slot.dt_bias) + h] = total;
    }
    for (int p = thread; p < P; p += kScanThreads) {
      float total = 0;
      if (norm != nullptr) {
        for (int w = 0; w < kScanWarps; ++w) total += dout[w * P + p];
      }
      partial[slot.norm + h * P + p] = total;
    }
    for (int at = thread; at < 2 * Np; at += kScanThreads) {
      const int which = at / Np, n = at % Np;
      float total = 0;
      for (int tile = 0; tile < kMaxBlocks; ++tile) {
        float& sum = column_sums[(which * kMaxBlocks + tile) * Np + n];
        total += sum;
        sum = 0;
      }
      if (n < N) partial[(which == 0 ? slot.B_bias : slot.C_bias) + h * N + n] = total;
    }
    __syncthreads();
  }
  for (int at = thread; at < 2 * Np; at += kScanThreads) {
    const int which = at / Np, n = at % Np;
    float total = 0;
    for (int tile = 0; tile < kMaxBlocks; ++tile)
      total += column_sums[((2 + which) * kMaxBlocks + tile) * Np + n];
    if (n < N) partial[(which == 0 ? slot.B_norm : slot.C_norm) + n] = total;
  }
}

template <Precision kPrecision, int kP, int kN>
void launch_sized(const Mamba3Args& a, int members, CUstream_st* stream) {
  const int bytes = backward_floats(a.dims, a.nangles) * static_cast<int>(sizeof(float));
  const auto kernel = mamba3_bwd_kernel<kPrecision, kP, kN>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "mamba3_scan_bwd");
  const dim3 grid(static_cast<unsigned>(a.dims.batch), static_cast<unsigned>(members));
  kernel<<<grid, kScanThreads, static_cast<size_t>(bytes), stream>>>(a);
  check_launch("mamba3_scan_bwd");
}

template <Precision kPrecision>
void launch_precision(const Mamba3Args& a, int members, CUstream_st* stream) {
  if (a.dims.headdim == 64 && a.dims.d_state == 64) {
    launch_sized<kPrecision, 64, 64>(a, members, stream);
  } else {
    launch_sized<kPrecision, 0, 0>(a, members, stream);
  }
}

int64_t workspace_bytes(const CallShapes& c) {
  const auto& a = c.attrs<Mamba3ScanAttrs>();
  const Partials slot(a.nheads, a.headdim, a.d_state);
  return static_cast<int64_t>(c.in[1]->shape[0]) * slot.width * 4;
}

void launch(const CudaCall& call, CUstream_st* stream) {
  const auto& attrs = call.attrs<Mamba3ScanAttrs>();
  Mamba3Args a(attrs, *call.in[1].shape);
  a.dy = member_array<const float>(call.in[0]);
  a.proj = member_array<const float>(call.in[1]);
  a.dt_bias = member_array<const float>(call.in[2]);
  a.B_bias = member_array<const float>(call.in[3]);
  a.C_bias = member_array<const float>(call.in[4]);
  a.B_norm = member_array<const float>(call.in[5]);
  a.C_norm = member_array<const float>(call.in[6]);
  a.D = member_array<const float>(call.in[7]);
  a.norm = member_array<const float>(call.in[8]);
  a.o_in = member_array<const float>(call.in[9]);
  a.phi_in = member_array<const float>(call.in[10]);
  a.states_in = member_array<const float>(call.in[11]);
  a.dproj = member_array<float>(call.out[0]);
  a.partials = member_array<float>(call.workspace);
  switch (call.precision) {
    case Precision::kFp32:
      launch_precision<Precision::kFp32>(a, call.members, stream);
      break;
    case Precision::kTf32:
      launch_precision<Precision::kTf32>(a, call.members, stream);
      break;
    case Precision::kBf16:
      launch_precision<Precision::kBf16>(a, call.members, stream);
      break;
  }
  const Partials slot(attrs.nheads, attrs.headdim, attrs.d_state);
  const int begins[] = {slot.dt_bias, slot.B_bias, slot.C_bias, slot.B_norm,
                        slot.C_norm,  slot.D,      slot.norm,   slot.width};
  launch_partial_sums(call, a.partials.data, a.dims.batch, begins, 7, 1, stream);
}

std::string limit(const CallShapes& c) {
  const auto& a = c.attrs<Mamba3ScanAttrs>();
  return scan_limit(a.headdim, a.d_state, a.chunk_size);
}

}  // namespace

CudaKernel mamba3_scan_bwd_kernel() { return {workspace_bytes, launch, limit}; }

std::string scan_limit(int headdim, int d_state, int chunk_size) {
  auto text = [](const char* name, int value, const char* rule) {
    return std::string(name) + " " + rule + " on a CUDA device, is " + std::to_string(value);
  };
  if (headdim > 128) return text("headdim", headdim, "must be at most 128");
  if (d_state > 128) return text("d_state", d_state, "must be at most 128");
  const int fits = cuda_chunk_size(headdim, d_state, kMaxChunk);
  if (chunk_size > fits) {
    return text(
        "chunk_size", chunk_size,
        ("must be at most " + std::to_string(fits) + " for this headdim and d_state").c_str());
  }
  return {};
}

}  // namespace statelab::cuda

namespace statelab {

int cuda_chunk_size(int headdim, int d_state, int chunk_size) {
  constexpr int64_t kSharedBytes = 227 * 1024;  // of a block on compute capability 9.0
  int size = cuda::kMaxChunk;
  for (; size > 16; size /= 2) {
    cuda::ScanDims d{};
    d.headdim = headdim, d.d_state = d_state, d.rows = size, d.nchunks = 2;
    const int64_t bytes = 4 * int64_t{cuda::backward_floats(d, d_state / 2)};
    if (size <= chunk_size && bytes <= kSharedBytes) break;
  }
  return size;
}

}  // namespace statelab

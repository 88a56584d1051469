// mamba3_scan, backward: one block takes a sequence, head after head, each from the last chunk to the first. Everything but o,
// Phi and the chunks' incoming states is recomputed. Source: models.md sections 3.9 and 3.10.
//
// What heads share - the gradients of B, C and the angles - is summed in dproj itself, by the same thread head after head.
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mamba3_tiles.h"
#include "kernels/cuda/scan_limits.h"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

using Rotation = Mamba3ScanAttrs::Rotation;
using Discretization = Mamba3ScanAttrs::Discretization;

/// Rows that a warp reads at once, so that their loads are in flight together (and code stays within the instruction cache).
constexpr int kRowsAtOnce = 2;

/// x, and in the same place the incoming state once x is no longer needed.
__host__ __device__ int x_floats(const ScanDims& d, const Mamba3Memory& m) {
  const int x = d.rows * m.pitch_p;
  return d.nchunks > 1 ? Mamba3Memory::larger(x, m.state(d.headdim)) : x;
}

__host__ __device__ int backward_floats(const ScanDims& d, int nangles) {
  const Mamba3Memory m(d.rows, d.headdim, d.d_state);
  return 2 * d.rows * m.pitch_n + x_floats(d, m) + d.rows * m.pitch_p + m.score(nangles) +
         (d.nchunks > 1 ? m.state(d.headdim) : 0) + Mamba3Tokens::kFloats + Decay<false>::kFloats +
         4 * kTokens + 12 * kMaxChunk + 16 + 4 * kMaxBlocks * round16(d.d_state);
}

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
  SharedFloats memory(shared);
  ScanChunk<false> c = sized_chunk<false>(rows, P, N);
  float *q = memory.take(rows * m.pitch_n), *k = memory.take(rows * m.pitch_n);
  float *x = memory.take(x_floats(d, m)), *dout = memory.take(rows * m.pitch_p);
  float* square = memory.take(m.score(S));
  c.q = q, c.k = k, c.x = x, c.state = x, c.dout = dout, c.square = square;
  c.dstate = d.nchunks > 1 ? memory.take(m.state(P)) : nullptr;
  Mamba3Tokens token(memory.take(Mamba3Tokens::kFloats));
  c.decay = Decay<false>(memory.take(Decay<false>::kFloats));
  float *same = memory.take(kTokens), *inv_k = memory.take(kTokens), *inv_q = memory.take(kTokens),
        *ddiag = memory.take(kTokens);
  float *row_x = memory.take(2 * kMaxChunk), *column_x = memory.take(4 * kMaxChunk),
        *f_part = memory.take(2 * kMaxChunk), *e_part = memory.take(2 * kMaxChunk),
        *dw_part = memory.take(2 * kMaxChunk);
  float *warp_part = memory.take(8), *pending_memory = memory.take(8);
  float* column_sums =
      memory.take(4 * kMaxBlocks * Np);  // B_bias, C_bias, B_norm, C_norm by row tile
  float* diag = dw_part;                 // read before the first of those is written
  float* dphi = square;                  // (rows, S), when the square is done with
  float *dot_k = row_x, *dot_q = column_x, *ddt_angle = f_part + kMaxChunk;
  Pending& pending = *reinterpret_cast<Pending*>(pending_memory);
  c.w = token.w, c.diag = diag, c.ddiag = ddiag, c.row_x = row_x, c.column_x = column_x;
  c.f_part = f_part, c.e_part = e_part, c.dw_part = dw_part;

  const int member = blockIdx.y, b = blockIdx.x, d_inner = H * P;
  const int warp = warp_id(), row_tile = warp / 2, row0 = row_tile * 16;
  const int g = lane_id() / 4, t = lane_id() % 4, thread = static_cast<int>(threadIdx.x);
  const bool turns = a.rotation != Rotation::kNone,
             learned = a.rotation == Rotation::kDataDependent;
  constexpr int kOwnedN = owned_blocks(kN), kOwnedP = owned_blocks(kP);
  constexpr int kPartsN = lane_parts(kN), kPartsP = lane_parts(kP);
  const bool vectors = kN > 0 || a.vectors;  // the sized kernels are launched with vectors only
  const int blocks_n = Np / 16, n0 = warp % 2 * (Np / 2);
  const int64_t first_token = static_cast<int64_t>(b) * d.seqlen;
  const float* proj_b = a.proj.at(member) + first_token * d.width;
  float* dproj_b = a.dproj.at(member) + first_token * d.width;
  const float *dy = a.dy.at(member), *o = a.o_in.at(member), *phi = a.phi_in.at(member),
              *states = a.states_in.at(member), *norm = a.norm.at(member),
              *B_norm = a.B_norm.at(member), *C_norm = a.C_norm.at(member);
  const Mamba3Partials slot(H, P, N);
  float* partial = a.partials.at(member) + static_cast<int64_t>(b) * slot.width;
  for (int at = thread; at < 4 * kMaxBlocks * Np; at += kScanThreads) column_sums[at] = 0;

  for (int h = 0; h < H; ++h) {
    const int heads_per_group = H / d.ngroups, group = h / heads_per_group;
    const bool first_of_group = h % heads_per_group == 0,
               last_of_group = h % heads_per_group == heads_per_group - 1;
    const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h];
    const Mamba3Lane<kPartsN> lane(a, member, h);
    float running_dphi = 0;            // of pair `thread`, over the tokens done
    float sum_D = 0, sum_dt_bias = 0;  // of token `thread` of all chunks
    LanePairs<kPartsP> sum_norm{};     // of this lane's channels
    for (int chunk = d.nchunks - 1; chunk >= 0; --chunk) {
      const int t0 = chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
      c.first = chunk == 0, c.last = chunk == d.nchunks - 1;
      const float* proj_c = proj_b + static_cast<int64_t>(t0) * d.width;
      float* dproj_c = dproj_b + static_cast<int64_t>(t0) * d.width;

      // ---- tokens, rows, gate
      const Mamba3Tokens::Raw own_raw = token.compute(a, proj_b, bias, h, t0, length);
      for (int i = thread; i < 2 * kMaxChunk; i += kScanThreads) row_x[i] = 0;
      for (int i = thread; i < 4 * kMaxChunk; i += kScanThreads) column_x[i] = 0;
      for (int base = warp; base < rows; base += kScanWarps * kRowsAtOnce) {
        Mamba3Row<kPartsN> r[kRowsAtOnce];
        LanePairs<kPartsP> x_row[kRowsAtOnce], z[kRowsAtOnce], g_row[kRowsAtOnce],
            o_row[kRowsAtOnce];
        float angle[kRowsAtOnce][kPartsN];
#pragma unroll
        for (int u = 0; u < kRowsAtOnce; ++u) {
          const int i = min(base + u * kScanWarps, length - 1);
          const float* row = proj_c + static_cast<int64_t>(i) * d.width;
          const int64_t at = (first_token + t0 + i) * d_inner + h * P;
          r[u].k.load(row + a.col.B + group * N, N, vectors);
          r[u].q.load(row + a.col.C + group * N, N, vectors);
          x_row[u].load(row + a.col.x + h * P, P, vectors);
          z[u].load(row + a.col.z + h * P, P, vectors);
          g_row[u].load(dy + at, P, vectors);
          o_row[u].load(o + at, P, vectors);
#pragma unroll
          for (int part = 0; part < kPartsN; ++part) {
            const int j = min(LanePairs<kPartsN>::column(part) / 2, S - 1);
            angle[u][part] = 0;
            if (learned) {
              angle[u][part] = __ldg(phi + ((first_token + t0 + i) * H + h) * S + j);
            } else if (turns) {
              angle[u][part] = standard_angle(t0 + i, j, S);
            }
          }
        }
#pragma unroll
        for (int u = 0; u < kRowsAtOnce; ++u) {
          const int i = base + u * kScanWarps;
          if (i >= rows) continue;
          r[u].norm_and_bias(lane, N, a.eps);
          if (turns) r[u].rotate(angle[u], S);
          float inverse = 1, dot = 0;
          if (norm != nullptr) {
            float square_o = 0;
#pragma unroll
            for (int part = 0; part < kPartsP; ++part)
              square_o +=
                  o_row[u].v[part].x * o_row[u].v[part].x + o_row[u].v[part].y * o_row[u].v[part].y;
            inverse = rsqrtf(warp_sum(square_o) / P + a.eps);
          }
          auto weight_of = [&](int p) { return norm != nullptr && p < P ? norm[h * P + p] : 1.0f; };
          LanePairs<kPartsP> dz, gated;
#pragma unroll
          for (int part = 0; part < kPartsP; ++part) {
            const int p = LanePairs<kPartsP>::column(part);
            const float w0 = weight_of(p), w1 = weight_of(p + 1);
            const float2 gate = z[u].v[part], dy2 = g_row[u].v[part], o2 = o_row[u].v[part];
            const float s0 = sigmoidf(gate.x), s1 = sigmoidf(gate.y);
            gated.v[part] = make_float2(dy2.x * gate.x * s0, dy2.y * gate.y * s1);
            dz.v[part] = make_float2(dy2.x * o2.x * inverse * w0 * s0 * (1 + gate.x * (1 - s0)),
                                     dy2.y * o2.y * inverse * w1 * s1 * (1 + gate.y * (1 - s1)));
            dot += gated.v[part].x * w0 * o2.x + gated.v[part].y * w1 * o2.y;
          }
          if (norm != nullptr) {
            dot = warp_sum(dot) * inverse / P;
#pragma unroll
            for (int part = 0; part < kPartsP; ++part) {
              const int p = LanePairs<kPartsP>::column(part);
              const float2 o2 = o_row[u].v[part];
              float2& value = gated.v[part];
              if (i < length) {
                sum_norm.v[part].x += value.x * o2.x * inverse;
                sum_norm.v[part].y += value.y * o2.y * inverse;
              }
              value.x = inverse * (value.x * weight_of(p) - o2.x * inverse * dot);
              value.y = inverse * (value.y * weight_of(p + 1) - o2.y * inverse * dot);
            }
          }
          if (i < length) {
            float* dz_row = dproj_c + static_cast<int64_t>(i) * d.width + a.col.z + h * P;
#pragma unroll
            for (int part = 0; part < kPartsP; ++part) {
              const int p = LanePairs<kPartsP>::column(part);
              if (p + 1 < P) {
                store2(dz_row + p, dz.v[part].x, dz.v[part].y, vectors);
              } else if (p < P) {
                dz_row[p] = dz.v[part].x;
              }
            }
          } else {
            r[u].clear();
#pragma unroll
            for (int part = 0; part < kPartsP; ++part)
              gated.v[part] = x_row[u].v[part] = make_float2(0, 0);
          }
          r[u].k.template store<kPrecision>(k + i * m.pitch_n, Np);
          r[u].q.template store<kPrecision>(q + i * m.pitch_n, Np);
          x_row[u].template store<kPrecision>(x + i * m.pitch_p, Pp);
          gated.template store<kPrecision>(dout + i * m.pitch_p, Pp);
          if (lane_id() == 0) {
            same[i] = r[u].same, inv_k[i] = r[u].inv_k, inv_q[i] = r[u].inv_q;
          }
        }
      }
      __syncthreads();
      token.weights(rows, length, same, D, diag);
      c.decay.build(token.log_alpha, rows);
      __syncthreads();

      chunk_square<kPrecision>(c);
      __syncthreads();

      float dk[kOwnedN][4] = {};
      if (c.owns_rows()) {
        chunk_dk<kPrecision>(c, dk);
        chunk_dx<kPrecision, kOwnedP>(c, dproj_c + a.col.x + h * P, d.width, length, P, vectors);
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

      // ---- through rotation, bias and norm of B and C; all loads of a step before its arithmetic
      const bool norms = last_of_group && (B_norm != nullptr || C_norm != nullptr);
      /// f(n, high, token, column) for this lane's pairs of columns.
      auto each_pair = [&](auto&& f) {
#pragma unroll
        for (int n = 0; n < kOwnedN; ++n) {
          if (n >= blocks_n) continue;
#pragma unroll
          for (int high = 0; high < 2; ++high) f(n, high, row0 + g + 8 * high, n0 + n * 8 + 2 * t);
        }
      };
      // Offsets of this lane's first pair in its two rows of B; row `high`, block n: n * 8 columns on.
      const int column_first = n0 + 2 * t;
      int64_t offset[2];
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        offset[high] = static_cast<int64_t>(min(row0 + g + 8 * high, length - 1)) * d.width +
                       a.col.B + group * N + column_first;
      }
      const int to_C = a.col.C - a.col.B;
      /// Two neighbours of a row, zero past the ends; `fresh`: not written by this kernel.
      auto pair_at = [&](const float* base, int high, int n, bool fresh) {
        const float* from = base + offset[high] + n * 8;
        const int column = column_first + n * 8;
        float2 out = make_float2(0, 0);
        if (kN > 0 || column + 1 < N) {
          if (fresh) {
            out = load2(from, vectors);
          } else if (vectors) {
            out = *reinterpret_cast<const float2*>(from);
          } else {
            out = make_float2(from[0], from[1]);
          }
        } else if (column < N) {
          out.x = *from;
        }
        return out;
      };
      const bool in[2] = {row0 + g < length, row0 + g + 8 < length};
      auto store_pair = [&](float* base, int high, int n, float first, float second) {
        if (!in[high]) return;
        float* to = base + offset[high] + n * 8;
        const int column = column_first + n * 8;
        if (kN > 0 || column + 1 < N) {
          store2(to, first, second, vectors);
        } else if (column < N) {
          *to = first;
        }
      };
      float* const to_k = dproj_c;
      float* const to_q = dproj_c + to_C;
      if (c.owns_rows()) {
        float angle[kOwnedN][2];
        const float* angles[2];
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int i = min(row0 + g + 8 * high, length - 1);
          angles[high] = phi + ((first_token + t0 + i) * H + h) * S + column_first / 2;
        }
        each_pair([&](int n, int high, int i, int column) {
          angle[n][high] = 0;
          if (learned && column / 2 < S) angle[n][high] = __ldg(angles[high] + n * 4);
          if (turns && !learned) angle[n][high] = standard_angle(t0 + i, column / 2, S);
        });
        each_pair([&](int n, int high, int i, int column) {
          float &dk0 = dk[n][2 * high], &dk1 = dk[n][2 * high + 1], &dq0 = dq[n][2 * high],
                &dq1 = dq[n][2 * high + 1];
          const float2 k2 = *reinterpret_cast<const float2*>(k + i * m.pitch_n + column),
                       q2 = *reinterpret_cast<const float2*>(q + i * m.pitch_n + column);
          float k0 = k2.x, k1 = k2.y, q0 = q2.x, q1 = q2.y;
          dk0 *= token.w[i], dk1 *= token.w[i];
          if (turns && column / 2 < S) {
            float sine, cosine;
            sincos_wrapped(angle[n][high], sine, cosine);
            if (learned && i < length)
              dphi[i * S + column / 2] = (dq1 * q0 - dq0 * q1) + (dk1 * k0 - dk0 * k1);
            auto back = [&](float& first, float& second) {
              const float turned = first * cosine + second * sine;
              second = second * cosine - first * sine;
              first = turned;
            };
            back(dk0, dk1), back(dq0, dq1), back(k0, k1), back(q0, q1);
          }
          const float dsame = token.gam[i] * ddiag[i];
          dk0 += dsame * q0, dk1 += dsame * q1;
          dq0 += dsame * k0, dq1 += dsame * k1;
        });
#pragma unroll
        for (int n = 0; n < kOwnedN; ++n) {
          if (n >= blocks_n) continue;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float sum_k = column_sum(dk[n][e] + dk[n][2 + e]),
                        sum_q = column_sum(dq[n][e] + dq[n][2 + e]);
            if (g == 0) {
              const int column = n0 + n * 8 + 2 * t + e;
              column_sums[row_tile * Np + column] += sum_k;
              column_sums[(kMaxBlocks + row_tile) * Np + column] += sum_q;
            }
          }
        }
        if (!first_of_group) {  // earlier heads of the group have left their sums in dproj
          float2 old[kOwnedN][2];
          each_pair(
              [&](int n, int high, int, int) { old[n][high] = pair_at(to_k, high, n, false); });
          each_pair([&](int n, int high, int, int) {
            dk[n][2 * high] += old[n][high].x, dk[n][2 * high + 1] += old[n][high].y;
          });
          each_pair(
              [&](int n, int high, int, int) { old[n][high] = pair_at(to_q, high, n, false); });
          each_pair([&](int n, int high, int, int) {
            dq[n][2 * high] += old[n][high].x, dq[n][2 * high + 1] += old[n][high].y;
          });
        }
        if (!last_of_group || B_norm == nullptr) {
          each_pair([&](int n, int high, int, int) {
            store_pair(to_k, high, n, dk[n][2 * high], dk[n][2 * high + 1]);
          });
        }
        if (!last_of_group || C_norm == nullptr) {
          each_pair([&](int n, int high, int, int) {
            store_pair(to_q, high, n, dq[n][2 * high], dq[n][2 * high + 1]);
          });
        }
        if (norms) {
          auto dots = [&](const float* weight, int column0, const float(&dv)[kOwnedN][4],
                          float* part) {
            if (weight == nullptr) return;
            float2 raw[kOwnedN][2];
            each_pair([&](int n, int high, int, int) {
              raw[n][high] = pair_at(proj_c + column0, high, n, true);
            });
            float low = 0, high_sum = 0;
            each_pair([&](int n, int high, int, int column) {
              float dot =
                  kN > 0 || column < N ? dv[n][2 * high] * weight[column] * raw[n][high].x : 0.0f;
              if (kN > 0 || column + 1 < N)
                dot += dv[n][2 * high + 1] * weight[column + 1] * raw[n][high].y;
              (high ? high_sum : low) += dot;
            });
            store_row_parts(c, part, low, high_sum);
          };
          dots(B_norm, 0, dk, dot_k);
          dots(C_norm, to_C, dq, dot_q);
        }
      }
      __syncthreads();
      if (c.owns_rows() && norms) {
        auto through_norm = [&](const float* weight, int column0, const float(&dv)[kOwnedN][4],
                                const float* part, const float* inverse, float* to, int slot_of) {
          if (weight == nullptr) return;
          float2 raw[kOwnedN][2];
          each_pair([&](int n, int high, int, int) {
            raw[n][high] = pair_at(proj_c + column0, high, n, true);
          });
          const float inv[2] = {inverse[row0 + g], inverse[row0 + g + 8]};
          const float mean[2] = {
              (part[row0 + g] + part[kMaxChunk + row0 + g]) * inv[0] / N,
              (part[row0 + g + 8] + part[kMaxChunk + row0 + g + 8]) * inv[1] / N};
#pragma unroll
          for (int n = 0; n < kOwnedN; ++n) {
            if (n >= blocks_n) continue;
            const int column = n0 + n * 8 + 2 * t;
            const float w0 = kN > 0 || column < N ? weight[column] : 0.0f,
                        w1 = kN > 0 || column + 1 < N ? weight[column + 1] : 0.0f;
            float sum0 = 0, sum1 = 0;
#pragma unroll
            for (int high = 0; high < 2; ++high) {
              const float v0 = dv[n][2 * high], v1 = dv[n][2 * high + 1];
              const float x0 = raw[n][high].x * inv[high], x1 = raw[n][high].y * inv[high];
              store_pair(to, high, n, inv[high] * (v0 * w0 - x0 * mean[high]),
                         inv[high] * (v1 * w1 - x1 * mean[high]));
              sum0 += v0 * x0, sum1 += v1 * x1;  // rows past the last token: v = 0
            }
            sum0 = column_sum(sum0), sum1 = column_sum(sum1);
            if (g == 0) {
              column_sums[(slot_of * kMaxBlocks + row_tile) * Np + column] += sum0;
              column_sums[(slot_of * kMaxBlocks + row_tile) * Np + column + 1] += sum1;
            }
          }
        };
        through_norm(B_norm, 0, dk, dot_k, inv_k, to_k, 2);
        through_norm(C_norm, to_C, dq, dot_q, inv_q, to_q, 3);
      }

      // ---- angles: dphi_t = sum over the tokens from t on
      if (learned) {
        if (thread < S) {
          for (int i0 = (length - 1) / 16 * 16; i0 >= 0; i0 -= 16) {
            float own[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) own[i] = dphi[min(i0 + i, length - 1) * S + thread];
#pragma unroll
            for (int i = 15; i >= 0; --i) {
              if (i0 + i >= length) continue;
              running_dphi += own[i];
              dphi[(i0 + i) * S + thread] = running_dphi;
            }
          }
        }
        __syncthreads();
      }
      for (int base = warp; base < length && S > 0; base += kScanWarps * kRowsAtOnce) {
        for (int j0 = 0; j0 < S; j0 += kWarp) {
          const int j = min(j0 + lane_id(), S - 1);
          const bool in = j0 + lane_id() < S;
          float tanh_j[kRowsAtOnce], old[kRowsAtOnce];
#pragma unroll
          for (int u = 0; u < kRowsAtOnce; ++u) {
            const int64_t at =
                static_cast<int64_t>(min(base + u * kScanWarps, length - 1)) * d.width + a.col.ang +
                j;
            tanh_j[u] = tanhf(__ldg(proj_c + at));
            old[u] = learned && h > 0 ? dproj_c[at] : 0.0f;
          }
#pragma unroll
          for (int u = 0; u < kRowsAtOnce; ++u) {
            const int i = base + u * kScanWarps;
            if (i >= length) continue;
            const float angle_sum = learned ? dphi[i * S + j] : 0.0f;
            const float through = warp_sum(in ? kPi * tanh_j[u] * angle_sum : 0.0f);
            const float dtheta = old[u] + token.dt[i] * angle_sum;
            if (in) {
              dproj_c[static_cast<int64_t>(i) * d.width + a.col.ang + j] =
                  h + 1 < H ? dtheta : dtheta * kPi * (1 - tanh_j[u] * tanh_j[u]);
            }
            if (lane_id() == 0) ddt_angle[i] = j0 == 0 ? through : ddt_angle[i] + through;
          }
        }
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
        const float dt = token.dt[i], raw_A = own_raw.A;
        const float f = a.heavy_tail ? (raw_A >= 0 ? 1 + raw_A : __fdividef(1.0f, 1 - raw_A))
                                     : softplusf(raw_A);
        const float slope = a.heavy_tail ? (raw_A >= 0 ? 1.0f : f * f) : sigmoidf(raw_A);
        const float A = -fmaxf(f, a.a_floor);
        dproj_c[static_cast<int64_t>(i) * d.width + a.col.dd_A + h] =
            f < a.a_floor ? 0.0f : -dt * da * slope;
        const Pending own = {A * da + (learned ? ddt_angle[i] : 0.0f),
                             dw_part[i] + same[i] * ddiag[i], own_raw.lam, dt, own_raw.dt};
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
      sum_norm.template store<Precision::kFp32>(dout + warp * Pp, Pp);
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
        for (int w = 0; w < kScanWarps; ++w) total += dout[w * Pp + p];
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
  if (a.vectors && a.dims.headdim == 64 && a.dims.d_state == 64) {
    launch_sized<kPrecision, 64, 64>(a, members, stream);
  } else {
    launch_sized<kPrecision, 0, 0>(a, members, stream);
  }
}

void launch_at(const Mamba3Args& a, const CudaCall& call, CUstream_st* stream) {
  switch (call.precision) {
    case Precision::kFp32:
      return launch_precision<Precision::kFp32>(a, call.members, stream);
    case Precision::kTf32:
      return launch_precision<Precision::kTf32>(a, call.members, stream);
    case Precision::kBf16:
      return launch_precision<Precision::kBf16>(a, call.members, stream);
  }
}

int64_t workspace_bytes(const CallShapes& c) {
  const auto& a = c.attrs<Mamba3ScanAttrs>();
  const Mamba3Partials slot(a.nheads, a.headdim, a.d_state);
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
  if (call.in.size() > 12) a.targets = member_array<const int32_t>(call.in[12]);
  if (tiled(attrs, call.precision)) {
    launch_tiled_backward(a, call.precision == Precision::kTf32, call.members, stream);
  } else {
    launch_at(a, call, stream);
  }
  const Mamba3Partials slot(attrs.nheads, attrs.headdim, attrs.d_state);
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

int cuda_chunk_size(int headdim, int d_state, int chunk_size, int device) {
  const int shared_bytes = cuda::shared_bytes_per_block(device);
  int size = cuda::kMaxChunk;
  for (; size > 16; size /= 2) {
    cuda::ScanDims d{};
    d.headdim = headdim, d.d_state = d_state, d.rows = size, d.nchunks = 2;
    // Mamba-2 with signed decays needs less for its rows and a second square.
    const int64_t bytes = 4 * (int64_t{cuda::backward_floats(d, d_state / 2)} +
                               size * cuda::pitch(size) + cuda::kMaxBlocks * 256);
    if (size <= chunk_size && bytes <= shared_bytes) break;
  }
  return size;
}

}  // namespace statelab

// The chunk of a gated linear recurrence in shared memory, shared by the Mamba-3 and Mamba-2 scans; the device's counterpart of
// kernels/cpu/scan_chunk.h, whose equations these are:
//   o_i   = T_i S_in q_i + sum_{j < i} T_ij w_j (q_i . k_j) x_j + diag_i x_i
//   S_out = T_last S_in + sum_j T_{last,j} w_j x_j k_j^T            (S is P x N)
// Source: models.md sections 3.6 and 3.9.
//
// Backward names: M_ij = do_i.x_j, K_ij = q_i.k_j, X_ij = T_ij w_j K_ij M_ij, Sb the cotangent of S_out. The triangles T M
// (below the diagonal) and (T w K)^T (on and above it) share one square.
#pragma once

#include "kernels/cuda/scan.cuh"

namespace statelab::cuda {

/// q, k, x, dout and square hold operands as stored_operand() leaves them.
template <bool kSigned>
struct ScanChunk {
  int rows, padded_n, padded_p;  // of shared tiles
  int pitch_n, pitch_p, pitch_q;
  float *q, *k;           // (rows, N)
  float* x;               // (rows, P)
  float* square;          // (rows, rows)
  float* state;           // (P, N) incoming; backward: in the place of x, once that has been read
  const float *w, *diag;  // (rows)
  Decay<kSigned> decay;
  bool first, last;  // of the sequence's chunks: S_in = 0; Sb = 0
  // backward
  float* dout;    // (rows, P)
  float* dstate;  // (P, N) Sb in, cotangent of S_in out
  float* ddiag;   // (rows)
  // Sums over a row's two halves of columns (2, 64); over a column's tiles of rows (4, 64).
  float *row_x, *column_x;  // of X; must hold zeros before chunk_square()
  float *f_part, *e_part, *dw_part;
  float* unweighted;  // kSigned: (rows, rows), Y_ij = w_j K_ij M_ij below the diagonal

  __device__ int row0() const { return warp_id() / 2 * 16; }
  __device__ bool owns_rows() const { return row0() < rows; }
  __device__ int n0() const { return warp_id() % 2 * (padded_n / 2); }
  __device__ int p0() const { return warp_id() % 2 * (padded_p / 2); }
  __device__ int half() const { return warp_id() % 2; }
};

/// Hands out consecutive arrays of a block's dynamic shared memory; every size a multiple of 4 floats, so that all are aligned.
class SharedFloats {
 public:
  __device__ explicit SharedFloats(float4* memory) : next_(reinterpret_cast<float*>(memory)) {}
  __device__ __forceinline__ float* take(int floats) {
    float* out = next_;
    next_ += floats;
    return out;
  }

 private:
  float* next_;
};

/// A chunk's extents; its pointers are still to be set.
template <bool kSigned>
__device__ __forceinline__ ScanChunk<kSigned> sized_chunk(int rows, int headdim, int d_state) {
  return {.rows = rows,
          .padded_n = round16(d_state),
          .padded_p = round16(headdim),
          .pitch_n = pitch(round16(d_state)),
          .pitch_p = pitch(round16(headdim)),
          .pitch_q = pitch(rows),
          .decay = Decay<kSigned>(nullptr)};
}

/// Calls f(block, element, row, column) for every accumulator of `blocks` column blocks; row and column are relative.
template <int kNt, class F>
__device__ __forceinline__ void each_element(int blocks, F&& f) {
  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int n = 0; n < kNt; ++n) {
    if (n >= blocks) continue;
#pragma unroll
    for (int e = 0; e < 4; ++e) f(n, e, g + e / 2 * 8, n * 8 + 2 * t + e % 2);
  }
}

/// Multiplies the rows g and g + 8 of an accumulator.
template <int kNt>
__device__ __forceinline__ void scale_rows(float (&acc)[kNt][4], float low, float high) {
#pragma unroll
  for (int n = 0; n < kNt; ++n) {
    acc[n][0] *= low, acc[n][1] *= low;
    acc[n][2] *= high, acc[n][3] *= high;
  }
}

/// Stores one number per row of the tile, of this half of the columns, at part[half][row].
template <bool kSigned>
__device__ __forceinline__ void store_row_parts(const ScanChunk<kSigned>& c, float* part, float low,
                                                float high) {
  low = row_sum(low), high = row_sum(high);
  if (lane_id() % 4 != 0) return;
  part[c.half() * kMaxChunk + c.row0() + lane_id() / 4] = low;
  part[c.half() * kMaxChunk + c.row0() + lane_id() / 4 + 8] = high;
}

// ---- forward

/// square[i][j] = T_ij w_j q_i.k_j below the diagonal, diag_i on it, 0 above (within the row's tile of 16).
template <Precision kPrecision, bool kSigned>
__device__ __forceinline__ void chunk_scores(const ScanChunk<kSigned>& c) {
  const int row0 = c.row0(), column0 = c.half() * (c.rows / 2), nt = c.rows / 16;
  if (row0 >= c.rows || column0 >= row0 + 16) return;
  float acc[kMaxBlocks][4] = {};
  warp_product<kPrecision, Stored::kBoth, true>(
      acc, nt, 0, c.padded_n, [&](int r, int n) { return c.q[(row0 + r) * c.pitch_n + n]; },
      [&](int n, int j) { return c.k[min(column0 + j, c.rows - 1) * c.pitch_n + n]; });
  each_element<kMaxBlocks>(nt, [&](int n, int e, int row, int column) {
    const int i = row0 + row, j = column0 + column;
    float value = 0;
    if (j < i) value = c.decay(i, j) * c.w[j] * acc[n][e];
    if (j == i) value = c.diag[i];
    if (j < c.rows) c.square[i * c.pitch_q + j] = stored_operand<kPrecision>(value);
  });
}

/// o of the warp's rows and half of the channels.
template <Precision kPrecision, bool kSigned, int kNt>
__device__ __forceinline__ void chunk_output(const ScanChunk<kSigned>& c, float (&acc)[kNt][4]) {
  const int row0 = c.row0(), p0 = c.p0(), nt = c.padded_p / 16, g = lane_id() / 4;
  if (!c.first) {
    warp_product < kPrecision, Stored::kA,
        kNt<8>(
            acc, nt, 0, c.padded_n, [&](int r, int n) { return c.q[(row0 + r) * c.pitch_n + n]; },
            [&](int n, int p) { return c.state[(p0 + p) * c.pitch_n + n]; });
    scale_rows(acc, c.decay.from_start[row0 + g], c.decay.from_start[row0 + g + 8]);
  }
  warp_product < kPrecision, Stored::kBoth,
      kNt<8>(
          acc, nt, 0, row0 + 16, [&](int r, int j) { return c.square[(row0 + r) * c.pitch_q + j]; },
          [&](int j, int p) { return c.x[j * c.pitch_p + p0 + p]; });
}

/// state = S_out, in place. Nobody may read the state meanwhile.
template <Precision kPrecision, int kNt, bool kSigned>
__device__ __forceinline__ void chunk_next_state(const ScanChunk<kSigned>& c) {
  const int blocks = c.padded_n / 16;
  for (int item = warp_id(); item < c.padded_p / 16 * 2; item += kScanWarps) {
    const int p0 = item / 2 * 16, n0 = item % 2 * (c.padded_n / 2);
    float sum[kNt][4] = {};
    warp_product < kPrecision, Stored::kB,
        kNt<8>(
            sum, blocks, 0, c.rows,
            [&](int r, int j) {
              return c.x[j * c.pitch_p + p0 + r] * (c.decay.to_end[j] * c.w[j]);
            },
            [&](int j, int n) { return c.k[j * c.pitch_n + n0 + n]; });
    each_element<kNt>(blocks, [&](int n, int e, int row, int column) {
      float& s = c.state[(p0 + row) * c.pitch_n + n0 + column];
      s = (c.first ? 0.0f : *c.decay.whole * s) + sum[n][e];
    });
  }
}

// ---- backward

/// The square's two triangles, ddiag and the sums of X (kSigned: Y instead of the sums).
template <Precision kPrecision, bool kSigned>
__device__ __forceinline__ void chunk_square(const ScanChunk<kSigned>& c) {
  const int row0 = c.row0(), column0 = c.half() * (c.rows / 2), nt = c.rows / 16;
  if (row0 >= c.rows || column0 >= row0 + 16) return;
  float score[kMaxBlocks][4] = {}, cross[kMaxBlocks][4] = {};
  warp_product<kPrecision, Stored::kBoth, true>(
      score, nt, 0, c.padded_n, [&](int r, int n) { return c.q[(row0 + r) * c.pitch_n + n]; },
      [&](int n, int j) { return c.k[min(column0 + j, c.rows - 1) * c.pitch_n + n]; });
  warp_product<kPrecision, Stored::kBoth, true>(
      cross, nt, 0, c.padded_p, [&](int r, int p) { return c.dout[(row0 + r) * c.pitch_p + p]; },
      [&](int p, int j) { return c.x[min(column0 + j, c.rows - 1) * c.pitch_p + p]; });
  float row_low = 0, row_high = 0;
  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int n = 0; n < kMaxBlocks; ++n) {
    if (n >= nt) continue;
    float column[2] = {0, 0};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = row0 + g + e / 2 * 8, j = column0 + n * 8 + 2 * t + e % 2;
      if (j < i) {
        const float T = c.decay(i, j), weighted = c.w[j] * score[n][e];
        c.square[i * c.pitch_q + j] = stored_operand<kPrecision>(T * cross[n][e]);
        c.square[j * c.pitch_q + i] = stored_operand<kPrecision>(T * weighted);
        if constexpr (kSigned) {
          c.unweighted[i * c.pitch_q + j] = weighted * cross[n][e];
        } else {
          const float X = T * weighted * cross[n][e];
          (e < 2 ? row_low : row_high) += X;
          column[e % 2] += X;
        }
      } else if (j == i) {
        c.ddiag[i] = cross[n][e];
        c.square[i * c.pitch_q + i] = stored_operand<kPrecision>(c.diag[i]);
      }
    }
    if constexpr (!kSigned) {
      column[0] = column_sum(column[0]), column[1] = column_sum(column[1]);
      if (g == 0) {
        float* to = c.column_x + warp_id() / 2 * kMaxChunk + column0 + n * 8 + 2 * t;
        to[0] = column[0], to[1] = column[1];
      }
    }
  }
  if constexpr (!kSigned) store_row_parts(c, c.row_x, row_low, row_high);
}

/// Row sums of acc * (tile of q or k), for the warp's rows and half of the columns.
template <bool kSigned, int kNt>
__device__ __forceinline__ void store_row_dots(const ScanChunk<kSigned>& c,
                                               const float (&acc)[kNt][4], const float* tile,
                                               float* part) {
  float low = 0, high = 0;
  each_element<kNt>(c.padded_n / 16, [&](int n, int e, int row, int column) {
    const float product = acc[n][e] * tile[(c.row0() + row) * c.pitch_n + c.n0() + column];
    (e < 2 ? low : high) += product;
  });
  store_row_parts(c, part, low, high);
}

/// What reaches q or k through a state (P, N): rows of x or dout times it, decayed, in acc. part: its row sums with `tile`, taken
/// after the decay unless kSigned.
template <Precision kPrecision, bool kSigned, int kNt>
__device__ __forceinline__ void through_state(const ScanChunk<kSigned>& c, float (&acc)[kNt][4],
                                              const float* rows, const float* state,
                                              const float* decay, const float* tile, float* part) {
  const int row0 = c.row0(), n0 = c.n0(), g = lane_id() / 4;
  warp_product<kPrecision, Stored::kA, (kNt < 8)>(
      acc, c.padded_n / 16, 0, c.padded_p,
      [&](int r, int p) { return rows[(row0 + r) * c.pitch_p + p]; },
      [&](int p, int n) { return state[p * c.pitch_n + n0 + n]; });
  if constexpr (kSigned) store_row_dots(c, acc, tile, part);
  scale_rows(acc, decay[row0 + g], decay[row0 + g + 8]);
  if constexpr (!kSigned) store_row_dots(c, acc, tile, part);
}

/// dk / w of the warp's rows and half of the columns. f_part: x_j^T Sb k_j, decayed to the chunk's end unless kSigned;
/// dw_part: the cotangent of w_j.
template <Precision kPrecision, bool kSigned, int kNt>
__device__ __forceinline__ void chunk_dk(const ScanChunk<kSigned>& c, float (&dk)[kNt][4]) {
  const int row0 = c.row0(), n0 = c.n0(), nt = c.padded_n / 16;
  if (!c.last) {
    through_state<kPrecision>(c, dk, c.x, c.dstate, c.decay.to_end, c.k, c.f_part);
  } else {
    store_row_parts(c, c.f_part, 0, 0);
  }
  warp_product < kPrecision, Stored::kBoth,
      kNt<8>(
          dk, nt, row0, c.rows,
          [&](int r, int i) { return i > row0 + r ? c.square[i * c.pitch_q + row0 + r] : 0.0f; },
          [&](int i, int n) { return c.q[i * c.pitch_n + n0 + n]; });
  store_row_dots(c, dk, c.k, c.dw_part);
}

/// dx of the warp's rows and half of the channels, written at dproj_x (row stride `width`) for rows below `length`.
template <Precision kPrecision, int kNt, bool kSigned>
__device__ __forceinline__ void chunk_dx(const ScanChunk<kSigned>& c, float* dproj_x, int64_t width,
                                         int length, int P, bool vectors) {
  const int row0 = c.row0(), p0 = c.p0(), nt = c.padded_p / 16;
  const int g = lane_id() / 4, t = lane_id() % 4;
  float dx[kNt][4] = {};
  if (!c.last) {
    warp_product < kPrecision, Stored::kA,
        kNt<8>(
            dx, nt, 0, c.padded_n, [&](int r, int n) { return c.k[(row0 + r) * c.pitch_n + n]; },
            [&](int n, int p) { return c.dstate[(p0 + p) * c.pitch_n + n]; });
    scale_rows(dx, c.decay.to_end[row0 + g] * c.w[row0 + g],
               c.decay.to_end[row0 + g + 8] * c.w[row0 + g + 8]);
  }
  warp_product < kPrecision, Stored::kBoth,
      kNt<8>(
          dx, nt, row0, c.rows,
          [&](int r, int i) { return i >= row0 + r ? c.square[(row0 + r) * c.pitch_q + i] : 0.0f; },
          [&](int i, int p) { return c.dout[i * c.pitch_p + p0 + p]; });
#pragma unroll
  for (int n = 0; n < kNt; ++n) {
    const int p = p0 + n * 8 + 2 * t;
    if (n >= nt || p >= P) continue;
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int i = row0 + g + 8 * high;
      if (i >= length) continue;
      float* to = dproj_x + i * width + p;
      if (p + 1 < P) {
        store2(to, dx[n][2 * high], dx[n][2 * high + 1], vectors);
      } else {
        *to = dx[n][2 * high];
      }
    }
  }
}

/// Brings S_in (P, N) from global memory into c.state; returns this thread's part of <Sb, S_in>.
template <bool kSigned>
__device__ __forceinline__ float chunk_load_state(const ScanChunk<kSigned>& c, const float* from,
                                                  int P, int N) {
  float across = 0;
#pragma unroll 8
  for (int at = threadIdx.x; at < c.padded_p * c.padded_n; at += kScanThreads) {
    const int p = at / c.padded_n, n = at % c.padded_n;
    const float value = p < P && n < N ? __ldg(from + p * N + n) : 0.0f;
    c.state[p * c.pitch_n + n] = value;
    if (!c.last) across += value * c.dstate[p * c.pitch_n + n];
  }
  return across;
}

/// dq of the warp's rows and half of the columns. e_part: q_i^T (do_i^T S_in), decayed from the chunk's start unless kSigned.
template <Precision kPrecision, bool kSigned, int kNt>
__device__ __forceinline__ void chunk_dq(const ScanChunk<kSigned>& c, float (&dq)[kNt][4]) {
  const int row0 = c.row0(), n0 = c.n0(), nt = c.padded_n / 16;
  if (!c.first) {
    through_state<kPrecision>(c, dq, c.dout, c.state, c.decay.from_start, c.q, c.e_part);
  } else {
    store_row_parts(c, c.e_part, 0, 0);
  }
  warp_product < kPrecision, Stored::kB,
      kNt<8>(
          dq, nt, 0, row0 + 16,
          [&](int r, int j) {
            return j < row0 + r ? c.square[(row0 + r) * c.pitch_q + j] * c.w[j] : 0.0f;
          },
          [&](int j, int n) { return c.k[j * c.pitch_n + n0 + n]; });
}

/// dstate = cotangent of S_in, in place.
template <Precision kPrecision, int kNt, bool kSigned>
__device__ __forceinline__ void chunk_dstate(const ScanChunk<kSigned>& c) {
  const int blocks = c.padded_n / 16;
  for (int item = warp_id(); item < c.padded_p / 16 * 2; item += kScanWarps) {
    const int p0 = item / 2 * 16, n0 = item % 2 * (c.padded_n / 2);
    float sum[kNt][4] = {};
    warp_product < kPrecision, Stored::kB,
        kNt<8>(
            sum, blocks, 0, c.rows,
            [&](int r, int i) { return c.dout[i * c.pitch_p + p0 + r] * c.decay.from_start[i]; },
            [&](int i, int n) { return c.q[i * c.pitch_n + n0 + n]; });
    each_element<kNt>(blocks, [&](int n, int e, int row, int column) {
      float& s = c.dstate[(p0 + row) * c.pitch_n + n0 + column];
      s = (c.last ? 0.0f : *c.decay.whole * s) + sum[n][e];
    });
  }
}

/// Sum over the block of one number per thread, through warp_part (8); every thread gets it after a barrier of its own.
__device__ __forceinline__ void store_block_part(float* warp_part, float value) {
  value = warp_sum(value);
  if (lane_id() == 0) warp_part[warp_id()] = value;
}
__device__ __forceinline__ float block_sum(const float* warp_part) {
  float total = 0;
  for (int w = 0; w < kScanWarps; ++w) total += warp_part[w];
  return total;
}

/// Not kSigned: the cotangents of log alpha, from sums per token. Call with all parts complete; a barrier must follow before
/// cotangent() is asked. In place of the first halves of e_part, f_part and dw_part.
__device__ __forceinline__ void combine_parts(const ScanChunk<false>& c) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= c.rows) return;
  float dc = c.e_part[i] + c.e_part[kMaxChunk + i] + c.row_x[i] + c.row_x[kMaxChunk + i];
  for (int tile = 0; tile < kMaxBlocks; ++tile) dc -= c.column_x[tile * kMaxChunk + i];
  c.e_part[i] = dc;
  c.f_part[i] = c.w[i] * (c.f_part[i] + c.f_part[kMaxChunk + i]);
  c.dw_part[i] = c.dw_part[i] + c.dw_part[kMaxChunk + i];
}
/// Of log alpha_i; `across`: <Sb, S_in>.
__device__ __forceinline__ float log_alpha_cotangent(const ScanChunk<false>& c, int i, int length,
                                                     float across) {
  float da = 0;
#pragma unroll
  for (int quad = 0; quad < kMaxChunk / 4; ++quad) {
    if (quad * 4 >= c.rows) continue;
    const float4 e4 = *reinterpret_cast<const float4*>(c.e_part + quad * 4),
                 f4 = *reinterpret_cast<const float4*>(c.f_part + quad * 4);
    const float e[4] = {e4.x, e4.y, e4.z, e4.w}, f[4] = {f4.x, f4.y, f4.z, f4.w};
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int j = quad * 4 + part;
      if (j >= i && j < length) da += e[part];
      if (j < i) da += f[part];
    }
  }
  return c.first || c.last ? da : da + *c.decay.whole * across;
}

}  // namespace statelab::cuda

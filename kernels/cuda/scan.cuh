// What the scans' kernels share: the chunk's geometry, its decays, and loads.
//
// A chunk has at most 64 tokens. Rows (tokens) and columns are padded to multiples of 16 with zeros, which add nothing to any
// product. Eight warps: for results with a row per token, warps 2 r and 2 r + 1 own rows 16 r .. 16 r + 15 and half of the
// columns each; for results with a row per channel they take such halves in turn.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/product.cuh"

namespace statelab::cuda {

constexpr int kScanThreads = 256, kScanWarps = kScanThreads / kWarp;
constexpr int kMaxChunk = 64;
constexpr int kTokens =
    kMaxChunk + 4;  // floats of a per-token array; one more token than a chunk has fits
constexpr int kMaxBlocks = kMaxChunk / 16;

__host__ __device__ constexpr int round16(int n) { return (n + 15) / 16 * 16; }
/// Floats from row to row of a tile with n columns: lanes 4 g + t of row g, column t hit different banks.
__host__ __device__ constexpr int pitch(int n) { return n + 4; }
/// Column blocks (of 8) that a warp owns of n columns, for arrays: n = 0 means known at run time, at most 128.
__host__ __device__ constexpr int owned_blocks(int n) { return n > 0 ? round16(n) / 16 : 8; }

/// One member's array: a base pointer and the floats from member to member.
template <class T>
struct MemberArray {
  T* data = nullptr;
  int64_t stride = 0;
  __device__ __forceinline__ T* at(int64_t member) const {
    return data == nullptr ? nullptr : data + member * stride;
  }
};

template <class T>
MemberArray<T> member_array(const Operand& x) {
  return {x.at<T>(0), x.stride_bytes / static_cast<int64_t>(sizeof(T))};
}

/// Positions of a sequence that anybody reads: up to its last target, one at least; all where there are no targets. All lanes of a
/// warp.
__device__ __forceinline__ int used_tokens(const MemberArray<const int32_t>& targets, int sequence,
                                           int seqlen) {
  if (targets.data == nullptr) return seqlen;
  const int32_t* of = targets.at(blockIdx.y) + static_cast<int64_t>(sequence) * seqlen;
  constexpr int kAtOnce = 4;
  int last = 0;
#pragma unroll 1
  for (int from = 0; from < seqlen; from += kAtOnce * kWarp) {
    int t[kAtOnce], target[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      t[u] = min(from + u * kWarp + lane_id(), seqlen - 1);
      target[u] = __ldg(of + t[u]);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) last = target[u] >= 0 ? t[u] : last;
  }
  return __reduce_max_sync(0xFFFFFFFFu, last) + 1;
}

struct ScanDims {
  int batch, seqlen, nheads, headdim, ngroups, d_state;
  int chunk, nchunks;
  int rows;   // of a chunk, padded
  int width;  // columns of proj
};

template <class Attrs>
ScanDims scan_dims(const Attrs& a, const Shape& proj) {
  const int seqlen = proj[1], chunk = a.chunk_size;
  return {proj[0],
          seqlen,
          a.nheads,
          a.headdim,
          a.ngroups,
          a.d_state,
          chunk,
          (seqlen + chunk - 1) / chunk,
          round16(seqlen < chunk ? seqlen : chunk),
          proj[2]};
}

/// Zeros in rows begin .. end - 1 of `width` floats. All threads of a block.
__device__ __forceinline__ void clear_rows(float* rows, int width, int begin, int end) {
  float* const from = rows + static_cast<int64_t>(begin) * width;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < (end - begin) * width;
       i += static_cast<int>(blockDim.x))
    from[i] = 0;
}

/// Two neighbouring reals of memory that the kernel does not write.
__device__ __forceinline__ float2 load2(const float* from, bool together) {
  if (together) return __ldg(reinterpret_cast<const float2*>(from));
  return make_float2(__ldg(from), __ldg(from + 1));
}
__device__ __forceinline__ void store2(float* to, float first, float second, bool together) {
  if (together) {
    *reinterpret_cast<float2*>(to) = make_float2(first, second);
  } else {
    to[0] = first, to[1] = second;
  }
}

/// A lane's share of a row of n columns: columns 2 l, 2 l + 1 and, with two parts, 64 more of each; zero from column n on.
/// kParts is known, and n too where speed counts: then there is no branch between the loads of several rows.
template <int kParts>
struct LanePairs {
  float2 v[kParts];
  __device__ __forceinline__ static int column(int part) { return 2 * lane_id() + 64 * part; }
  __device__ __forceinline__ void load(const float* row, int n, bool together) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int c = column(part);
      v[part] = make_float2(0, 0);
      if (c + 1 < n) {
        v[part] = load2(row + c, together);
      } else if (c < n) {
        v[part].x = __ldg(row + c);
      }
    }
  }
  /// Into shared memory as operands of products, `columns` of them (even).
  template <Precision kPrecision>
  __device__ __forceinline__ void store(float* row, int columns) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (column(part) < columns) {
        *reinterpret_cast<float2*>(row + column(part)) = make_float2(
            stored_operand<kPrecision>(v[part].x), stored_operand<kPrecision>(v[part].y));
      }
    }
  }
};
/// Parts of a row with n columns, n = 0: known at run time, at most 128.
__host__ __device__ constexpr int lane_parts(int n) { return n > 0 && n <= 64 ? 1 : 2; }

__device__ __forceinline__ float softplusf(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
__device__ __forceinline__ float sigmoidf(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

/// T_ij = alpha_{j+1} ... alpha_i, j <= i, of a chunk, as factors per block of 16 tokens: between blocks two products of array
/// elements, within a block the exponential of a short sum of logarithms, or a table where alpha may be negative or zero.
/// Nothing is a difference of long sums.
template <bool kSigned>
struct Decay {
  float *prefix,
      *suffix;  ///< (rows): from the block's first token to i; from the one after i to the block's last
  float *from_start,
      *to_end;  ///< (rows): T_i of the chunk's entry; from the one after i to the chunk's last token
  float* between;  ///< (4, 4): whole blocks strictly between
  float* whole;    ///< (1)
  float* within;   ///< (rows) sums of log alpha in a block; kSigned: (4, 16, 16) products

  static constexpr int kFloats = 4 * kMaxChunk + 20 + (kSigned ? kMaxBlocks * 256 : kMaxChunk);
  __device__ explicit Decay(float* p)
      : prefix(p),
        suffix(p + kMaxChunk),
        from_start(p + 2 * kMaxChunk),
        to_end(p + 3 * kMaxChunk),
        between(p + 4 * kMaxChunk),
        whole(p + 4 * kMaxChunk + 16),
        within(p + 4 * kMaxChunk + 20) {}

  /// Of log alpha (or alpha, kSigned) per row; rows past the last token hold 0 (1). Needs a barrier before and after.
  __device__ void build(const float* alpha, int rows) {
    const float neutral = kSigned ? 1.0f : 0.0f;
    auto join = [](float x, float y) { return kSigned ? x * y : x + y; };
    auto value = [](float x) { return kSigned ? x : expf(x); };
    const int i = static_cast<int>(threadIdx.x);
    if (i < rows) {
      const int first = i / 16 * 16, end = first + 16;
      float here = neutral, rest = neutral, before = neutral, after = neutral;
#pragma unroll
      for (int quad = 0; quad < kMaxChunk / 4;
           ++quad) {  // every load at once: a loop to i would wait for each
        if (quad * 4 >= rows) continue;
        const float4 four = *reinterpret_cast<const float4*>(alpha + quad * 4);
        const float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int m = quad * 4 + e;
          if (m < first) before = join(before, x[e]);
          if (m >= first && m <= i) here = join(here, x[e]);
          if (m > i && m < end) rest = join(rest, x[e]);
          if (m >= end) after = join(after, x[e]);
        }
      }
      prefix[i] = value(here), suffix[i] = value(rest);
      from_start[i] = value(join(before, here)), to_end[i] = value(join(rest, after));
      if constexpr (kSigned) {
        float product = 1;
        float* column = within + first * 16 + i % 16;
        for (int m = i; m < end; ++m) {
          if (m > i) product *= alpha[m];
          column[(m - first) * 16] = product;
        }
      } else {
        within[i] = here;
      }
    } else if (i >= 64 && i < 80) {
      const int last = (i - 64) / 4, first = (i - 64) % 4;
      float sum = neutral;
      for (int m = (first + 1) * 16; m < last * 16 && m < rows; ++m) sum = join(sum, alpha[m]);
      between[i - 64] = value(sum);
    } else if (i == 80) {
      float sum = neutral;
      for (int m = 0; m < rows; ++m) sum = join(sum, alpha[m]);
      *whole = value(sum);
    }
  }

  /// T_ij for j <= i.
  __device__ __forceinline__ float operator()(int i, int j) const {
    const int bi = i / 16, bj = j / 16;
    if (bi != bj) return prefix[i] * between[bi * 4 + bj] * suffix[j];
    if constexpr (kSigned) {
      return within[bi * 256 + i % 16 * 16 + j % 16];
    } else {
      return expf(within[i] - within[j]);
    }
  }
};

/// Reduction of the blocks' partial sums: out[i] = sum over `count` of parts[block][i], in a fixed order.
struct PartialSum {
  float* out;
  int64_t out_stride;  // by member
  int begin, size;     // columns of a partial
};
constexpr int kMaxPartialSums = 8;
struct PartialSums {
  const float* parts;
  int64_t member_stride;  // floats
  int width, count;       // floats of a partial; number of partials
  int outputs;
  PartialSum sums[kMaxPartialSums];
};

/// Grid (ceil(width / 32), members), 32 x 8 threads: eight runs of partials side by side, then their sums in order.
static __global__ void sum_partials(const PartialSums p) {
  __shared__ float run[8][33];
  const int column = static_cast<int>(blockIdx.x * 32 + threadIdx.x % 32), part = threadIdx.x / 32;
  const int size = (p.count + 7) / 8;
  const float* from = p.parts + blockIdx.y * p.member_stride;
  float sum = 0;
  if (column < p.width) {
    const int end = min(p.count, (part + 1) * size);
#pragma unroll 16
    for (int i = part * size; i < end; ++i) sum += from[static_cast<int64_t>(i) * p.width + column];
  }
  run[part][threadIdx.x % 32] = sum;
  __syncthreads();
  if (part != 0 || column >= p.width) return;
  float total = 0;
  for (int r = 0; r < 8; ++r) total += run[r][threadIdx.x];
  for (int s = 0; s < p.outputs; ++s) {
    const PartialSum& to = p.sums[s];
    if (column >= to.begin && column < to.begin + to.size && to.out != nullptr)
      to.out[blockIdx.y * to.out_stride + column - to.begin] = total;
  }
}

/// Of `count` partials of the call's workspace, from `parts` on, into outputs first .. first + outputs - 1; begins[i],
/// begins[i + 1]: the columns of output first + i.
inline PartialSums partial_sums(const CudaCall& call, const float* parts, int count,
                                const int* begins, int outputs, int first) {
  PartialSums p{};
  p.parts = parts;
  p.member_stride = call.workspace.stride_bytes / 4;
  p.width = begins[outputs], p.count = count, p.outputs = outputs;
  for (int i = 0; i < outputs; ++i) {
    const Operand& to = call.out[static_cast<size_t>(first + i)];
    p.sums[i] = {to.at<float>(0), to.stride_bytes / 4, begins[i], begins[i + 1] - begins[i]};
  }
  return p;
}
inline void launch_partial_sums(const CudaCall& call, const float* parts, int count,
                                const int* begins, int outputs, int first, CUstream_st* stream) {
  const PartialSums p = partial_sums(call, parts, count, begins, outputs, first);
  const dim3 grid(static_cast<unsigned>((p.width + 31) / 32), static_cast<unsigned>(call.members));
  sum_partials<<<grid, 256, 0, stream>>>(p);
  check_launch("sum_partials");
}

}  // namespace statelab::cuda

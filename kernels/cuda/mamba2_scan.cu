// mamba2_scan: recurrence and gated RMSNorm (gate first) in both directions. The recurrence is one kernel per direction, built
// from the chunk that Mamba-3 uses, or on tiles (mamba2_tiles.h); the norm runs over the channels of all heads of a group and is a
// kernel of its own (mamba2_gate.h).
// Source: models.md sections 6.2 - 6.4.
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mamba2_gate.h"
#include "kernels/cuda/mamba2_tiles.h"
#include "kernels/cuda/scan_chunk.cuh"
#include "kernels/cuda/scan_limits.h"

namespace statelab::cuda {
namespace {

using Attrs = Mamba2ScanAttrs;

/// Floats of shared memory. Signed decays need a second square.
template <bool kSigned>
__host__ __device__ int scan_floats(const ScanDims& d, bool backward) {
  const int pitch_n = pitch(round16(d.d_state)), pitch_p = pitch(round16(d.headdim));
  const int square = d.rows * pitch(d.rows), state = round16(d.headdim) * pitch_n;
  const int carried = d.nchunks > 1 ? state : 0, x = d.rows * pitch_p;
  const int common = 2 * d.rows * pitch_n + square + Decay<kSigned>::kFloats + 6 * kTokens;
  if (!backward) return common + x + carried;
  return common + (x > carried ? x : carried) + d.rows * pitch_p + carried +
         (kSigned ? square : 0) + 12 * kMaxChunk + 8 + kTokens;
}

/// Step quantities of a chunk's tokens.
template <bool kSigned>
struct Tokens {
  float *raw, *dt, *decay, *alpha, *same,
      *diag;  // kTokens each; alpha: its logarithm unless kSigned
  __device__ explicit Tokens(float* p)
      : raw(p),
        dt(p + kTokens),
        decay(p + 2 * kTokens),
        alpha(p + 3 * kTokens),
        same(p + 4 * kTokens),
        diag(p + 5 * kTokens) {}

  /// Threads 0..rows-1; rows past the last token change nothing.
  __device__ void compute(const Mamba2Args& a, const float* proj_c, float bias, float A, int h,
                          int length) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= a.dims.rows) return;
    if (i >= length) {
      raw[i] = dt[i] = 0, decay[i] = 1, alpha[i] = kSigned ? 1.0f : 0.0f;
      return;
    }
    raw[i] = __ldg(proj_c + static_cast<int64_t>(i) * a.dims.width + a.dd_dt + h) + bias;
    dt[i] = softplusf(raw[i]);
    decay[i] = expf(dt[i] * A);
    alpha[i] = kSigned ? 2 * decay[i] - 1 : dt[i] * A;
  }
};

/// B, C and x of a chunk (with `dout` the cotangent of o too) into shared memory, and the same-step product of each token. A
/// warp takes some rows at once, so that their loads are in flight together.
template <Precision kPrecision, int kP, int kN, bool kSigned>
__device__ __forceinline__ void load_rows(const Mamba2Args& a, const ScanChunk<kSigned>& c,
                                          const Tokens<kSigned>& token, const float* proj_c, int h,
                                          int length, const float* dout) {
  constexpr int kRowsAtOnce = 4, kPartsN = lane_parts(kN), kPartsP = lane_parts(kP);
  const int N = kN > 0 ? kN : a.dims.d_state, P = kP > 0 ? kP : a.dims.headdim;
  const bool vectors = kN > 0 || a.vectors;  // the sized kernels are launched with vectors only
  const int group = h / (a.dims.nheads / a.dims.ngroups), d_inner = a.dims.nheads * P;
  for (int base = warp_id(); base < c.rows; base += kScanWarps * kRowsAtOnce) {
    LanePairs<kPartsN> k[kRowsAtOnce], q[kRowsAtOnce];
    LanePairs<kPartsP> x[kRowsAtOnce], g[kRowsAtOnce];
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const int i = min(base + u * kScanWarps, length - 1);
      const float* row = proj_c + static_cast<int64_t>(i) * a.dims.width;
      k[u].load(row + a.B + group * N, N, vectors);
      q[u].load(row + a.C + group * N, N, vectors);
      x[u].load(row + a.x + h * P, P, vectors);
      if (dout != nullptr) g[u].load(dout + static_cast<int64_t>(i) * d_inner + h * P, P, vectors);
    }
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const int i = base + u * kScanWarps;
      if (i >= c.rows) continue;
      if (i >= length) k[u] = q[u] = {}, x[u] = g[u] = {};
      float same = 0;
#pragma unroll
      for (int part = 0; part < kPartsN; ++part)
        same += k[u].v[part].x * q[u].v[part].x + k[u].v[part].y * q[u].v[part].y;
      k[u].template store<kPrecision>(c.k + i * c.pitch_n, c.padded_n);
      q[u].template store<kPrecision>(c.q + i * c.pitch_n, c.padded_n);
      x[u].template store<kPrecision>(c.x + i * c.pitch_p, c.padded_p);
      if (dout != nullptr) g[u].template store<kPrecision>(c.dout + i * c.pitch_p, c.padded_p);
      same = warp_sum(same);
      if (lane_id() == 0) token.same[i] = same;
    }
  }
}

/// The diagonal dt_i c_i + D. Threads 0..rows-1, after load_rows() and a barrier.
template <bool kSigned>
__device__ __forceinline__ void set_diagonal(const Tokens<kSigned>& token, int rows, int length,
                                             float D) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < rows) token.diag[i] = i < length ? token.dt[i] * token.same[i] + D : 0.0f;
}

template <Precision kPrecision, int kP, int kN, bool kSigned>
__global__ void __launch_bounds__(kScanThreads, kN > 0 ? 2 : 1)
    mamba2_fwd_kernel(const __grid_constant__ Mamba2Args a) {
  extern __shared__ float4 shared[];
  const ScanDims& d = a.dims;
  const int P = kP > 0 ? kP : d.headdim, N = kN > 0 ? kN : d.d_state;
  float* next = reinterpret_cast<float*>(shared);
  auto take = [&](int floats) {
    float* out = next;
    next += floats;
    return out;
  };
  ScanChunk<kSigned> c{.rows = d.rows,
                       .padded_n = round16(N),
                       .padded_p = round16(P),
                       .pitch_n = pitch(round16(N)),
                       .pitch_p = pitch(round16(P)),
                       .pitch_q = pitch(d.rows),
                       .decay = Decay<kSigned>(nullptr)};
  c.q = take(c.rows * c.pitch_n), c.k = take(c.rows * c.pitch_n), c.x = take(c.rows * c.pitch_p);
  c.square = take(c.rows * c.pitch_q);
  c.state = d.nchunks > 1 ? take(c.padded_p * c.pitch_n) : nullptr;
  c.decay = Decay<kSigned>(take(Decay<kSigned>::kFloats));
  const Tokens<kSigned> token(take(6 * kTokens));
  c.w = token.dt, c.diag = token.diag;
  const int member = blockIdx.y, b = blockIdx.x / d.nheads, h = blockIdx.x % d.nheads;
  const int d_inner = d.nheads * P, g = lane_id() / 4, t = lane_id() % 4;
  const float* proj_b = a.proj.at(member) + static_cast<int64_t>(b) * d.seqlen * d.width;
  const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h],
              A = -expf(a.A_log.at(member)[h]);
  float *o = a.o.at(member), *states = a.states.at(member);
  for (int chunk = 0; chunk < d.nchunks; ++chunk) {
    const int t0 = chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
    const float* proj_c = proj_b + static_cast<int64_t>(t0) * d.width;
    c.first = chunk == 0, c.last = chunk + 1 == d.nchunks;
    Tokens<kSigned>(token).compute(a, proj_c, bias, A, h, length);
    load_rows<kPrecision, kP, kN>(a, c, token, proj_c, h, length, nullptr);
    if (states != nullptr) {  // the state that enters the chunk
      float* to = states + ((static_cast<int64_t>(b) * d.nheads + h) * d.nchunks + chunk) * P * N;
      for (int at = threadIdx.x; at < P * N; at += kScanThreads)
        to[at] = chunk > 0 ? c.state[at / N * c.pitch_n + at % N] : 0.0f;
    }
    __syncthreads();
    c.decay.build(token.alpha, c.rows);
    set_diagonal(token, c.rows, length, D);
    __syncthreads();
    chunk_scores<kPrecision>(c);
    __syncthreads();
    if (c.owns_rows()) {
      constexpr int kOwned = owned_blocks(kP);
      float acc[kOwned][4] = {};
      chunk_output<kPrecision>(c, acc);
#pragma unroll
      for (int n = 0; n < kOwned; ++n) {
        const int p = c.p0() + n * 8 + 2 * t;
        if (n >= c.padded_p / 16 || p >= P) continue;
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int i = c.row0() + g + 8 * high;
          if (i >= length) continue;
          float* to = o + (static_cast<int64_t>(b) * d.seqlen + t0 + i) * d_inner + h * P + p;
          if (p + 1 < P) {
            store2(to, acc[n][2 * high], acc[n][2 * high + 1], a.vectors);
          } else {
            *to = acc[n][2 * high];
          }
        }
      }
    }
    if (c.last) break;
    __syncthreads();  // the state has been read
    chunk_next_state<kPrecision, owned_blocks(kN)>(c);
    __syncthreads();
  }
}

/// Signed decays: the cotangents of alpha by the recurrence T_ij = alpha_i T_{i-1,j} run backwards, a thread per column j, the
/// chunk's entry being one more column: no division, so alpha may be zero. On return dalpha[i] for i < rows; barriers inside.
__device__ __forceinline__ void signed_alpha_cotangent(const ScanChunk<true>& c, const float* alpha,
                                                       float across, float* dalpha, float* entry) {
  const int j = static_cast<int>(threadIdx.x), rows = c.rows;
  float* y = c.unweighted;
  if (j < rows) {
    float product = 1;  // T_{i-1,j}, kept above the diagonal
    for (int i = j + 1; i < rows; ++i) {
      y[j * c.pitch_q + i] = product;
      product *= alpha[i];
    }
    float below =
        c.w[j] * (c.f_part[j] + c.f_part[kMaxChunk + j]);  // through the state that leaves
    for (int i = rows - 1; i > j; --i) {
      below = y[i * c.pitch_q + j] + (i + 1 < rows ? alpha[i + 1] * below : below);
      y[i * c.pitch_q + j] = below * y[j * c.pitch_q + i];
    }
  } else if (j == kMaxChunk) {
    float below = across;
    for (int i = rows - 1; i >= 0; --i) {
      const float own = c.e_part[i] + c.e_part[kMaxChunk + i];
      below = own + (i + 1 < rows ? alpha[i + 1] * below : below);
      entry[i] = below * (i > 0 ? c.decay.from_start[i - 1] : 1.0f);
    }
  }
  __syncthreads();
  if (j < rows) {
    float sum = c.first ? 0.0f : entry[j];
    for (int i = 0; i < j; ++i) sum += y[j * c.pitch_q + i];
    dalpha[j] = sum;
  }
}

template <Precision kPrecision, int kP, int kN, bool kSigned>
__global__ void __launch_bounds__(kScanThreads, kN > 0 ? 2 : 1)
    mamba2_bwd_kernel(const __grid_constant__ Mamba2Args a) {
  extern __shared__ float4 shared[];
  const ScanDims& d = a.dims;
  const int P = kP > 0 ? kP : d.headdim, N = kN > 0 ? kN : d.d_state, H = d.nheads;
  float* next = reinterpret_cast<float*>(shared);
  auto take = [&](int floats) {
    float* out = next;
    next += floats;
    return out;
  };
  ScanChunk<kSigned> c{.rows = d.rows,
                       .padded_n = round16(N),
                       .padded_p = round16(P),
                       .pitch_n = pitch(round16(N)),
                       .pitch_p = pitch(round16(P)),
                       .pitch_q = pitch(d.rows),
                       .decay = Decay<kSigned>(nullptr)};
  const int carried = d.nchunks > 1 ? c.padded_p * c.pitch_n : 0;
  c.q = take(c.rows * c.pitch_n), c.k = take(c.rows * c.pitch_n);
  c.x = take(max(c.rows * c.pitch_p, carried)), c.state = c.x;
  c.dout = take(c.rows * c.pitch_p), c.square = take(c.rows * c.pitch_q);
  c.dstate = carried > 0 ? take(carried) : nullptr;
  c.unweighted = kSigned ? take(c.rows * c.pitch_q) : nullptr;
  c.decay = Decay<kSigned>(take(Decay<kSigned>::kFloats));
  Tokens<kSigned> token(take(6 * kTokens));
  c.w = token.dt, c.diag = token.diag, c.ddiag = take(kTokens);
  c.row_x = take(2 * kMaxChunk), c.column_x = take(4 * kMaxChunk);
  c.f_part = take(2 * kMaxChunk), c.e_part = take(2 * kMaxChunk), c.dw_part = take(2 * kMaxChunk);
  float *warp_part = take(8), *dalpha = c.row_x, *entry = c.column_x;

  const int member = blockIdx.y, b = blockIdx.x, d_inner = H * P;
  const int g = lane_id() / 4, t = lane_id() % 4, thread = static_cast<int>(threadIdx.x);
  constexpr int kOwnedN = owned_blocks(kN), kOwnedP = owned_blocks(kP);
  const int64_t first_token = static_cast<int64_t>(b) * d.seqlen;
  const float* proj_b = a.proj.at(member) + first_token * d.width;
  float* dproj_b = a.dproj.at(member) + first_token * d.width;
  const float *dout = a.dout.at(member), *states = a.states_in.at(member);
  const Mamba2Partials slot(H);
  float* partial = a.partials.at(member) + static_cast<int64_t>(b) * slot.width;
  for (int h = 0; h < H; ++h) {
    const int heads_per_group = H / d.ngroups, group = h / heads_per_group;
    const bool first_of_group = h % heads_per_group == 0;
    const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h],
                A = -expf(a.A_log.at(member)[h]);
    float sum_D = 0, sum_dt_bias = 0, sum_A_log = 0;  // of token `thread` of all chunks
    for (int chunk = d.nchunks - 1; chunk >= 0; --chunk) {
      const int t0 = chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
      const float* proj_c = proj_b + static_cast<int64_t>(t0) * d.width;
      float* dproj_c = dproj_b + static_cast<int64_t>(t0) * d.width;
      c.first = chunk == 0, c.last = chunk == d.nchunks - 1;
      token.compute(a, proj_c, bias, A, h, length);
      for (int i = thread; i < 2 * kMaxChunk; i += kScanThreads) c.row_x[i] = 0;
      for (int i = thread; i < 4 * kMaxChunk; i += kScanThreads) c.column_x[i] = 0;
      load_rows<kPrecision, kP, kN>(a, c, token, proj_c, h, length,
                                    dout + (first_token + t0) * d_inner);
      __syncthreads();
      c.decay.build(token.alpha, c.rows);
      set_diagonal(token, c.rows, length, D);
      __syncthreads();
      chunk_square<kPrecision>(c);
      __syncthreads();
      float dk[kOwnedN][4] = {}, dq[kOwnedN][4] = {};
      if (c.owns_rows()) {
        chunk_dk<kPrecision>(c, dk);
        chunk_dx<kPrecision, kOwnedP>(c, dproj_c + a.x + h * P, d.width, length, P, a.vectors);
      }
      __syncthreads();  // x has been read
      float across = 0;
      if (!c.first) {
        across = chunk_load_state(
            c, states + ((static_cast<int64_t>(b) * H + h) * d.nchunks + chunk) * P * N, P, N);
      }
      store_block_part(warp_part, across);
      __syncthreads();
      if (c.owns_rows()) chunk_dq<kPrecision>(c, dq);
      if (!c.first) chunk_dstate<kPrecision, kOwnedN>(c);
      if (c.owns_rows()) {
#pragma unroll
        for (int n = 0; n < kOwnedN; ++n) {
          if (n >= c.padded_n / 16) continue;
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int i = c.row0() + g + e / 2 * 8, column = c.n0() + n * 8 + 2 * t + e % 2;
            if (i >= length || column >= N) continue;
            const float dsame = token.dt[i] * c.ddiag[i];
            float dB = dk[n][e] * token.dt[i] + dsame * c.q[i * c.pitch_n + column],
                  dC = dq[n][e] + dsame * c.k[i * c.pitch_n + column];
            // Earlier heads of the group have left their sums here.
            float* to = dproj_c + static_cast<int64_t>(i) * d.width + group * N + column;
            if (!first_of_group) dB += to[a.B], dC += to[a.C];
            to[a.B] = dB, to[a.C] = dC;
          }
        }
      }
      __syncthreads();
      if constexpr (kSigned) {
        signed_alpha_cotangent(c, token.alpha, c.last ? 0.0f : block_sum(warp_part), dalpha, entry);
      } else {
        combine_parts(c);
        __syncthreads();
      }
      if (thread < length) {
        const int i = thread;
        float dw, de;  // of w = dt; of the decay's logarithm
        if constexpr (kSigned) {
          dw = c.dw_part[i] + c.dw_part[kMaxChunk + i];
          de = 2 * dalpha[i] * token.decay[i];
        } else {
          dw = c.dw_part[i];
          de = log_alpha_cotangent(c, i, length, block_sum(warp_part));
        }
        const float ddt = dw + token.same[i] * c.ddiag[i] + A * de;
        const float draw = ddt * sigmoidf(token.raw[i]);
        dproj_c[static_cast<int64_t>(i) * d.width + a.dd_dt + h] = draw;
        sum_dt_bias += draw, sum_A_log += A * token.dt[i] * de, sum_D += c.ddiag[i];
      }
      __syncthreads();
    }
    float* sums = c.square;  // 3 kMaxChunk floats: rows * pitch_q >= 16 * 20
    if (thread < kMaxChunk) {
      sums[thread] = sum_dt_bias, sums[kMaxChunk + thread] = sum_A_log;
      sums[2 * kMaxChunk + thread] = sum_D;
    }
    __syncthreads();
    if (thread < 3) {
      float total = 0;
      for (int i = 0; i < kMaxChunk; ++i) total += sums[thread * kMaxChunk + i];
      partial[(thread == 0 ? slot.dt_bias : thread == 1 ? slot.A_log : slot.D) + h] = total;
    }
    __syncthreads();
  }
}

// ---- launches

template <class Kernel>
void start(Kernel kernel, const Mamba2Args& a, int blocks, int members, int floats,
           CUstream_st* stream) {
  const int bytes = floats * static_cast<int>(sizeof(float));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "mamba2_scan");
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(members));
  kernel<<<grid, kScanThreads, static_cast<size_t>(bytes), stream>>>(a);
  check_launch("mamba2_scan");
}

/// kernel<precision, headdim, d_state, signed> for these attributes, by way of a generic lambda.
template <class F>
void for_kernel(const Mamba2Args& a, Precision precision, bool negative, F&& f) {
  auto sized = [&](auto prec) {
    constexpr Precision kPrecision = decltype(prec)::value;
    if (negative) {
      f(std::integral_constant<Precision, kPrecision>(), std::integral_constant<int, 0>(),
        std::true_type());
    } else if (a.vectors && a.dims.headdim == 64 && a.dims.d_state == 64) {
      f(std::integral_constant<Precision, kPrecision>(), std::integral_constant<int, 64>(),
        std::false_type());
    } else {
      f(std::integral_constant<Precision, kPrecision>(), std::integral_constant<int, 0>(),
        std::false_type());
    }
  };
  switch (precision) {
    case Precision::kFp32:
      return sized(std::integral_constant<Precision, Precision::kFp32>());
    case Precision::kTf32:
      return sized(std::integral_constant<Precision, Precision::kTf32>());
    case Precision::kBf16:
      return sized(std::integral_constant<Precision, Precision::kBf16>());
  }
}

/// Grid (first_blocks + those of the second, members), 32 columns x 32 runs of partials: both sets of sums in one launch.
__global__ void __launch_bounds__(1024)
    sum_both_partials(const __grid_constant__ PartialSums first,
                      const __grid_constant__ PartialSums second, int first_blocks) {
  __shared__ float runs[32][33];
  const int block = static_cast<int>(blockIdx.x);
  const PartialSums& p = block < first_blocks ? first : second;
  const int lane = lane_id(), run = warp_id(),
            column = (block < first_blocks ? block : block - first_blocks) * 32 + lane;
  const float* from = p.parts + blockIdx.y * p.member_stride + column;
  float sum = 0;
  if (column < p.width) {
    const int size = (p.count + 31) / 32, end = min(p.count, (run + 1) * size);
#pragma unroll 8
    for (int i = run * size; i < end; ++i) sum += from[static_cast<int64_t>(i) * p.width];
  }
  runs[run][lane] = sum;
  __syncthreads();
  if (run != 0 || column >= p.width) return;
  float total = 0;
#pragma unroll
  for (int r = 0; r < 32; ++r) total += runs[r][lane];
  for (int s = 0; s < p.outputs; ++s) {
    const PartialSum& to = p.sums[s];
    if (column >= to.begin && column < to.begin + to.size && to.out != nullptr)
      to.out[blockIdx.y * to.out_stride + column - to.begin] = total;
  }
}

/// Of a call's workspace, from float `at` on.
MemberArray<float> member_array_at(const Operand& workspace, int64_t at) {
  MemberArray<float> out = member_array<float>(workspace);
  out.data += at;
  return out;
}

/// What tiles carry from chunk to chunk.
int64_t carried_floats(const Attrs& a, const Shape& proj) {
  const bool carries = tiled_heads(a) && proj[1] > a.chunk_size;
  return carries ? int64_t{proj[0]} * a.nheads * a.headdim * a.d_state : 0;
}

void launch_fwd(const CudaCall& call, CUstream_st* stream) {
  const auto& attrs = call.attrs<Attrs>();
  Mamba2Args a(attrs, *call.in[0].shape);
  a.proj = member_array<const float>(call.in[0]);
  a.dt_bias = member_array<const float>(call.in[1]);
  a.A_log = member_array<const float>(call.in[2]);
  a.D = member_array<const float>(call.in[3]);
  a.norm = member_array<const float>(call.in[4]);
  a.y = member_array<float>(call.out[0]);
  a.o = member_array<float>(call.out[1].data != nullptr ? call.out[1] : call.workspace);
  a.states = member_array<float>(call.out[2]);
  const bool on_tiles = tiled(attrs, call.precision);
  if (on_tiles) {
    if (a.states.data == nullptr)
      a.carried = member_array_at(call.workspace, call.in[0].shape->rows() * attrs.d_inner());
    const bool gates = tiled_forward_gates(a.dims);
    if (gates) a.o = member_array<float>(call.out[1]);
    launch_tiled_forward(a, call.precision == Precision::kTf32, call.members, stream);
    if (gates) return;
  } else {
    for_kernel(a, call.precision, attrs.negative_eigenvalues,
               [&](auto prec, auto size, auto negative) {
                 start(mamba2_fwd_kernel<prec.value, size.value, size.value, negative.value>, a,
                       a.dims.batch * a.dims.nheads, call.members,
                       scan_floats<negative.value>(a.dims, false), stream);
               });
  }
  launch_gate_forward(a, on_tiles, call.members, stream);
}

/// When nobody wants o, the norm still reads it; tiles need a place for states that nobody wants.
int64_t workspace_fwd(const CallShapes& c) {
  return (c.out[1].shape.size() + carried_floats(c.attrs<Attrs>(), c.in[0]->shape)) * 4;
}

/// The cotangent of o, the heads' states' cotangents on tiles, the gate's partial sums, the scan's partial sums; in floats.
struct BackwardWorkspace {
  int64_t dout, carried, gate, scan;
  int64_t gate_at() const { return dout + carried; }
  int64_t scan_at() const { return gate_at() + gate; }
};
BackwardWorkspace backward_workspace(const Attrs& a, const Shape& proj) {
  const int64_t rows = proj.rows();
  return {rows * a.d_inner(), carried_floats(a, proj),
          (gate_blocks(rows) * a.d_inner() + 15) / 16 * 16,
          int64_t{proj[0]} * Mamba2Partials(a.nheads).width};
}

int64_t workspace_bwd(const CallShapes& c) {
  const BackwardWorkspace w = backward_workspace(c.attrs<Attrs>(), c.in[1]->shape);
  return (w.dout + w.carried + w.gate + w.scan) * 4;
}

void launch_bwd(const CudaCall& call, CUstream_st* stream) {
  const auto& attrs = call.attrs<Attrs>();
  Mamba2Args a(attrs, *call.in[1].shape);
  a.dy = member_array<const float>(call.in[0]);
  a.proj = member_array<const float>(call.in[1]);
  a.dt_bias = member_array<const float>(call.in[2]);
  a.A_log = member_array<const float>(call.in[3]);
  a.D = member_array<const float>(call.in[4]);
  a.norm = member_array<const float>(call.in[5]);
  a.o_in = member_array<const float>(call.in[6]);
  a.states_in = member_array<const float>(call.in[7]);
  a.dproj = member_array<float>(call.out[0]);
  const BackwardWorkspace w = backward_workspace(attrs, *call.in[1].shape);
  a.dout = member_array<float>(call.workspace);
  a.carried = member_array_at(call.workspace, w.dout);
  a.norm_partials = member_array_at(call.workspace, w.gate_at());
  a.partials = member_array_at(call.workspace, w.scan_at());
  a.norm_blocks = static_cast<int>(gate_blocks(call.in[1].shape->rows()));
  const bool on_tiles = tiled(attrs, call.precision);
  launch_gate_backward(a, on_tiles, call.members, stream);
  const Mamba2Partials slot(attrs.nheads);
  const int begins[] = {slot.dt_bias, slot.A_log, slot.D, slot.width},
            norm_begins[] = {0, attrs.d_inner()};
  if (on_tiles) {
    launch_tiled_backward(a, call.precision == Precision::kTf32, call.members, stream);
    const PartialSums scan = partial_sums(call, a.partials.data, a.dims.batch, begins, 3, 1),
                      gate = partial_sums(call, a.norm_partials.data, a.norm_blocks, norm_begins, 1,
                                          4);
    const int scan_blocks = (scan.width + 31) / 32;
    const dim3 grid(static_cast<unsigned>(scan_blocks + (gate.width + 31) / 32),
                    static_cast<unsigned>(call.members));
    sum_both_partials<<<grid, 1024, 0, stream>>>(scan, gate, scan_blocks);
    return check_launch("mamba2_scan_bwd sums");
  }
  for_kernel(a, call.precision, attrs.negative_eigenvalues,
             [&](auto prec, auto size, auto negative) {
               start(mamba2_bwd_kernel<prec.value, size.value, size.value, negative.value>, a,
                     a.dims.batch, call.members, scan_floats<negative.value>(a.dims, true), stream);
             });
  launch_partial_sums(call, a.partials.data, a.dims.batch, begins, 3, 1, stream);
  launch_partial_sums(call, a.norm_partials.data, a.norm_blocks, norm_begins, 1, 4, stream);
}

std::string limit(const CallShapes& c) {
  const auto& a = c.attrs<Attrs>();
  if (a.d_inner() > 6144) return "expand * d_model must be at most 6144 on a CUDA device";
  return scan_limit(a.headdim, a.d_state, a.chunk_size);
}

}  // namespace

CudaKernel mamba2_scan_kernel() { return {workspace_fwd, launch_fwd, limit}; }
CudaKernel mamba2_scan_bwd_kernel() { return {workspace_bwd, launch_bwd, limit}; }

}  // namespace statelab::cuda

// mamba3_scan, forward: one block takes a head of a sequence and walks it chunk by chunk. Everything between in_proj and
// out_proj happens here: step sizes, decay, angles, norms and biases of B and C, rotation, trapezoid, skip, norm and gate.
// Source: models.md sections 3.2 - 3.6; the chunk is that of kernels/cpu/scan_chunk.h.
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/mamba3_tiles.h"
#include "kernels/cuda/scan_limits.h"

namespace statelab::cuda {
namespace {

using Rotation = Mamba3ScanAttrs::Rotation;

/// Rows that a warp reads at once, so that their loads are in flight together.
constexpr int kRowsAtOnce = 4;

/// Shared memory of the forward kernel, in floats.
__host__ __device__ int forward_floats(const ScanDims& d, int nangles) {
  const Mamba3Memory m(d.rows, d.headdim, d.d_state);
  return 2 * d.rows * m.pitch_n + d.rows * m.pitch_p + m.score(nangles) +
         (d.nchunks > 1 ? m.state(d.headdim) : 0) + Mamba3Tokens::kFloats + Decay<false>::kFloats +
         2 * kTokens + 2 * kMaxChunk;
}

template <Precision kPrecision, int kP, int kN>
__global__ void __launch_bounds__(kScanThreads, kN > 0 ? 2 : 1)
    mamba3_fwd_kernel(const __grid_constant__ Mamba3Args a) {
  extern __shared__ float4 shared[];
  const ScanDims& d = a.dims;
  const int P = kP > 0 ? kP : d.headdim, N = kN > 0 ? kN : d.d_state, S = a.nangles;
  const int Pp = round16(P), Np = round16(N), rows = d.rows;
  const Mamba3Memory m(rows, P, N);
  SharedFloats memory(shared);
  float *q = memory.take(rows * m.pitch_n), *k = memory.take(rows * m.pitch_n);
  float *x = memory.take(rows * m.pitch_p), *score = memory.take(m.score(S));
  float* state = d.nchunks > 1 ? memory.take(m.state(P)) : nullptr;
  Mamba3Tokens token(memory.take(Mamba3Tokens::kFloats));
  ScanChunk<false> c = sized_chunk<false>(rows, P, N);
  c.decay = Decay<false>(memory.take(Decay<false>::kFloats));
  float *diag = memory.take(kTokens), *same = memory.take(kTokens),
        *part = memory.take(2 * kMaxChunk);
  float* phi = score;  // (rows, S), until the scores are written
  c.q = q, c.k = k, c.x = x, c.square = score, c.state = state, c.w = token.w, c.diag = diag;

  const int member = blockIdx.y, b = blockIdx.x / d.nheads, h = blockIdx.x % d.nheads;
  const int group = h / (d.nheads / d.ngroups), d_inner = d.nheads * P;
  const int warp = warp_id(), g = lane_id() / 4, t = lane_id() % 4;
  const bool turns = a.rotation != Rotation::kNone,
             learned = a.rotation == Rotation::kDataDependent;
  const float* proj_b = a.proj.at(member) + static_cast<int64_t>(b) * d.seqlen * d.width;
  const float* norm = a.norm.at(member);
  const float bias = a.dt_bias.at(member)[h], D = a.D.at(member)[h];
  float *y = a.y.at(member), *o = a.o.at(member), *phi_out = a.phi.at(member),
        *states = a.states.at(member);
  if (!learned && phi_out != nullptr && blockIdx.x == 0 && threadIdx.x == 0) phi_out[0] = 0;
  constexpr int kPartsN = lane_parts(kN), kPartsP = lane_parts(kP);
  const bool vectors = kN > 0 || a.vectors;  // the sized kernels are launched with vectors only
  const Mamba3Lane<kPartsN> lane(a, member, h);
  float angle = 0;  // of pair threadIdx.x, after the last chunk

  for (int chunk = 0; chunk < d.nchunks; ++chunk) {
    const int t0 = chunk * d.chunk, length = min(d.chunk, d.seqlen - t0);
    c.first = chunk == 0, c.last = chunk + 1 == d.nchunks;
    token.compute(a, proj_b, bias, h, t0, length);
    __syncthreads();
    if (learned) {
#pragma unroll 4
      for (int at = threadIdx.x; at < length * S; at += kScanThreads) {
        const int i = at / S, j = at % S;
        const float* row = proj_b + static_cast<int64_t>(t0 + i) * d.width;
        phi[at] = token.dt[i] * (kPi * tanhf(__ldg(row + a.col.ang + j)));
      }
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < S) {
        for (int i0 = 0; i0 < length; i0 += 16) {
          float step[16];
#pragma unroll
          for (int i = 0; i < 16; ++i) step[i] = phi[min(i0 + i, length - 1) * S + threadIdx.x];
#pragma unroll
          for (int i = 0; i < 16; ++i) {
            if (i0 + i >= length) continue;
            angle = wrap_angle(angle + step[i]);
            phi[(i0 + i) * S + threadIdx.x] = angle;
          }
        }
      }
    } else if (turns) {
      for (int at = threadIdx.x; at < length * S; at += kScanThreads)
        phi[at] = standard_angle(t0 + at / S, at % S, S);
    }
    __syncthreads();
    for (int base = warp; base < rows; base += kScanWarps * kRowsAtOnce) {
      Mamba3Row<kPartsN> r[kRowsAtOnce];
      LanePairs<kPartsP> x_row[kRowsAtOnce];
#pragma unroll
      for (int u = 0; u < kRowsAtOnce; ++u) {
        const int i = min(base + u * kScanWarps, length - 1);
        const float* row = proj_b + static_cast<int64_t>(t0 + i) * d.width;
        r[u].k.load(row + a.col.B + group * N, N, vectors);
        r[u].q.load(row + a.col.C + group * N, N, vectors);
        x_row[u].load(row + a.col.x + h * P, P, vectors);
      }
#pragma unroll
      for (int u = 0; u < kRowsAtOnce; ++u) {
        const int i = base + u * kScanWarps;
        if (i >= rows) continue;
        r[u].norm_and_bias(lane, N, a.eps);
        if (i >= length) {
          r[u].clear();
#pragma unroll
          for (int part = 0; part < kPartsP; ++part) x_row[u].v[part] = make_float2(0, 0);
        } else if (turns) {
          float pair_angle[kPartsN];
#pragma unroll
          for (int part = 0; part < kPartsN; ++part)
            pair_angle[part] = phi[i * S + min(LanePairs<kPartsN>::column(part) / 2, S - 1)];
          r[u].rotate(pair_angle, S);
        }
        r[u].k.template store<kPrecision>(k + i * m.pitch_n, Np);
        r[u].q.template store<kPrecision>(q + i * m.pitch_n, Np);
        x_row[u].template store<kPrecision>(x + i * m.pitch_p, Pp);
        if (lane_id() == 0) same[i] = r[u].same;
      }
    }
    if (learned && phi_out != nullptr) {
      float* to = phi_out + ((static_cast<int64_t>(b) * d.seqlen + t0) * d.nheads + h) * S;
      for (int at = threadIdx.x; at < length * S; at += kScanThreads)
        to[static_cast<int64_t>(at / S) * d.nheads * S + at % S] = phi[at];
    }
    if (states != nullptr) {  // the state that enters the chunk
      float* to = states + ((static_cast<int64_t>(b) * d.nheads + h) * d.nchunks + chunk) * P * N;
      for (int at = threadIdx.x; at < P * N; at += kScanThreads)
        to[at] = chunk > 0 ? state[at / N * m.pitch_n + at % N] : 0.0f;
    }
    __syncthreads();
    token.weights(rows, length, same, D, diag);
    c.decay.build(token.log_alpha, rows);
    __syncthreads();

    chunk_scores<kPrecision>(c);
    __syncthreads();
    // o, then norm and gate.
    constexpr int kOwned = owned_blocks(kP);
    const int row0 = c.row0(), column0 = c.p0(), nt = Pp / 16;
    float2 z[kOwned][2];  // on their way while the products run
#pragma unroll
    for (int n = 0; n < kOwned; ++n) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int i = min(row0 + g + 8 * high, length - 1), p = column0 + n * 8 + 2 * t;
        const float* from = proj_b + static_cast<int64_t>(t0 + i) * d.width + a.col.z + h * P + p;
        z[n][high] = make_float2(0, 0);
        if (p + 1 < P) {
          z[n][high] = load2(from, vectors);
        } else if (p < P) {
          z[n][high].x = __ldg(from);
        }
      }
    }
    float acc[kOwned][4] = {};
    if (c.owns_rows()) chunk_output<kPrecision>(c, acc);
    if (norm != nullptr) {
      if (c.owns_rows()) {
        float low = 0, high = 0;
        each_element<kOwned>(
            nt, [&](int n, int e, int, int) { (e < 2 ? low : high) += acc[n][e] * acc[n][e]; });
        store_row_parts(c, part, low, high);
      }
      __syncthreads();
    }
    if (c.owns_rows()) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int i = row0 + g + 8 * high;
        if (i >= length) continue;
        const int64_t at = (static_cast<int64_t>(b) * d.seqlen + t0 + i);
        float inverse = 1;
        if (norm != nullptr) inverse = rsqrtf((part[i] + part[kMaxChunk + i]) / P + a.eps);
#pragma unroll
        for (int n = 0; n < kOwned; ++n) {
          const int p = column0 + n * 8 + 2 * t;
          if (n >= nt || p >= P) continue;
          const bool second = p + 1 < P;
          const float o0 = acc[n][2 * high], o1 = acc[n][2 * high + 1];
          const float2 gate = z[n][high];
          float y0 = o0 * gate.x * sigmoidf(gate.x), y1 = o1 * gate.y * sigmoidf(gate.y);
          if (norm != nullptr) {
            y0 *= inverse * norm[h * P + p];
            if (second) y1 *= inverse * norm[h * P + p + 1];
          }
          float* to_y = y + at * d_inner + h * P + p;
          if (second) {
            store2(to_y, y0, y1, vectors);
            if (o != nullptr) store2(o + at * d_inner + h * P + p, o0, o1, vectors);
          } else {
            *to_y = y0;
            if (o != nullptr) o[at * d_inner + h * P + p] = o0;
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

template <Precision kPrecision, int kP, int kN>
void launch_sized(const Mamba3Args& a, int members, CUstream_st* stream) {
  const int bytes = forward_floats(a.dims, a.nangles) * static_cast<int>(sizeof(float));
  const auto kernel = mamba3_fwd_kernel<kPrecision, kP, kN>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "mamba3_scan");
  const dim3 grid(static_cast<unsigned>(a.dims.batch * a.dims.nheads),
                  static_cast<unsigned>(members));
  kernel<<<grid, kScanThreads, static_cast<size_t>(bytes), stream>>>(a);
  check_launch("mamba3_scan");
}

template <Precision kPrecision>
void launch_precision(const Mamba3Args& a, int members, CUstream_st* stream) {
  if (a.vectors && a.dims.headdim == 64 && a.dims.d_state == 64) {
    launch_sized<kPrecision, 64, 64>(a, members, stream);
  } else {
    launch_sized<kPrecision, 0, 0>(a, members, stream);
  }
}

void launch(const CudaCall& call, CUstream_st* stream) {
  Mamba3Args a(call.attrs<Mamba3ScanAttrs>(), *call.in[0].shape);
  a.proj = member_array<const float>(call.in[0]);
  a.dt_bias = member_array<const float>(call.in[1]);
  a.B_bias = member_array<const float>(call.in[2]);
  a.C_bias = member_array<const float>(call.in[3]);
  a.B_norm = member_array<const float>(call.in[4]);
  a.C_norm = member_array<const float>(call.in[5]);
  a.D = member_array<const float>(call.in[6]);
  a.norm = member_array<const float>(call.in[7]);
  a.y = member_array<float>(call.out[0]);
  a.o = member_array<float>(call.out[1]);
  a.phi = member_array<float>(call.out[2]);
  a.states = member_array<float>(call.out[3]);
  if (call.in.size() > 8) a.targets = member_array<const int32_t>(call.in[8]);
  if (tiled(call.attrs<Mamba3ScanAttrs>(), call.precision))
    return launch_tiled_forward(a, call.precision == Precision::kTf32, call.members, stream);
  switch (call.precision) {
    case Precision::kFp32:
      return launch_precision<Precision::kFp32>(a, call.members, stream);
    case Precision::kTf32:
      return launch_precision<Precision::kTf32>(a, call.members, stream);
    case Precision::kBf16:
      return launch_precision<Precision::kBf16>(a, call.members, stream);
  }
}

std::string limit(const CallShapes& c) {
  const auto& a = c.attrs<Mamba3ScanAttrs>();
  return scan_limit(a.headdim, a.d_state, a.chunk_size);
}

}  // namespace

CudaKernel mamba3_scan_kernel() { return {nullptr, launch, limit}; }

}  // namespace statelab::cuda

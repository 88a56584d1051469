// mamba3_scan_at, mamba2_scan_at: y and o of one position of each sequence, as one query against the keys before it.
//
//   launch    grid x: sequences, y: members; a block takes all heads, a warp a run of tokens, a lane two columns [and 64 further]
//   traffic   of the rows up to the position x, B and the narrow columns once (B again for every two further heads); of C and z
//             one row
//   numerics  fp32 in every precision; a warp sums its tokens in order, then the warps in order
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/scan_at.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

constexpr int kTogether = 2;  // tokens at once

template <int kStates, int kChannels, int kHeads>
__global__ void __launch_bounds__(kAtThreads, 2)
    scan_at_kernel(const __grid_constant__ ScanAtArgs args) {
  extern __shared__ float shared[];
  const ScanAt& a = args.a;
  const ScanAtMemory memory(a, args.angles, args.seqlen);
  ScanAtSequence s(args, memory, shared);
  float* const sums = s.end_of_shared();  // (warps, d_inner)
  ScanAtRows<kStates, kChannels, kHeads> rows(args, s, shared + memory.forward(a));
  rows.enter(0);
  s.weigh(nullptr);
  const int H = a.nheads, P = a.headdim, N = a.d_state, inner = H * P;
  for (int h0 = 0; h0 < H; h0 += kHeads) {
    const ScanAtHeads<kStates, kHeads> heads(args, s, h0);
    if (h0 > 0) rows.enter(h0);
    LanePairs<kChannels> sum[kHeads] = {};
    for (int first = s.begin; first < s.end; first += kTogether) {
      wait_copies<decltype(rows)::kRing - kTogether>();
      LanePairs<kStates> k[kTogether];
      LanePairs<kChannels> x[kTogether][kHeads];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        k[i] = rows.key(first + i);
#pragma unroll
        for (int b = 0; b < kHeads; ++b) x[i][b] = rows.x(first + i, b);
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) rows.start(first + i + decltype(rows)::kRing);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int t = first + i;
        if (t >= s.end) break;
        const float inv =
            heads.has_norm ? ScanAtHeads<kStates, kHeads>::inverse_rms(k[i], N, args.eps) : 1.0f;
        const float* psi = s.psi + t * memory.psi_pitch;
        float score[kHeads] = {};
#pragma unroll
        for (int b = 0; b < kHeads; ++b) {
#pragma unroll
          for (int part = 0; part < kStates; ++part) {
            const float2 raw = k[i].v[part], norm = heads.norm_k.v[part],
                         bias = heads.bias_k[b].v[part], q = heads.q[b].v[part];
            float sine, cosine;
            heads.turn(psi, b, part, sine, cosine);
            score[b] += (q.x * cosine - q.y * sine) * (raw.x * inv * norm.x + bias.x) +
                        (q.x * sine + q.y * cosine) * (raw.y * inv * norm.y + bias.y);
          }
        }
#pragma unroll
        for (int b = 0; b < kHeads; ++b) {
          const int at = t * H + h0 + b;
          const float factor = s.decay[at] * s.weight[at] * warp_sum(score[b]);
#pragma unroll
          for (int part = 0; part < kChannels; ++part) {
            sum[b].v[part].x += factor * x[i][b].v[part].x;
            sum[b].v[part].y += factor * x[i][b].v[part].y;
          }
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kHeads; ++b)
      store_pairs(sum[b], sums + warp_id() * inner + (h0 + b) * P, P, false);
  }
  __syncthreads();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * inner;
  float* const o = args.o.at(blockIdx.y) + at;
  for (int c = static_cast<int>(threadIdx.x); c < inner; c += kAtThreads) {
    float total = __ldg(args.D.at(blockIdx.y) + c / P) * __ldg(s.row(s.p) + a.x + c);
#pragma unroll
    for (int w = 0; w < kAtWarps; ++w) total += sums[w * inner + c];
    sums[c] = o[c] = total;
  }
  __syncthreads();
  // Mamba-3 norms each head and then gates, Mamba-2 gates and then norms each group.
  float* const y = args.y.at(blockIdx.y) + at;
  const float* norm = args.norm.at(blockIdx.y);
  const int parts = a.mamba3 ? H : a.ngroups, width = inner / parts;
  for (int part = warp_id(); part < parts; part += kAtWarps) {
    const int begin = part * width;
    float squares = 0;
    auto gate = [&](int c) {
      const float z = __ldg(s.row(s.p) + a.z + c);
      return z * sigmoidf(z);
    };
    for (int c = begin + lane_id(); c < begin + width; c += kWarp) {
      const float v = a.mamba3 ? sums[c] : sums[c] * gate(c);
      squares += v * v;
    }
    const float inv =
        norm != nullptr ? rsqrtf(warp_sum(squares) / static_cast<float>(width) + args.eps) : 1.0f;
    for (int c = begin + lane_id(); c < begin + width; c += kWarp)
      y[c] = sums[c] * gate(c) * inv * (norm != nullptr ? __ldg(norm + c) : 1.0f);
  }
}

void launch(const CudaCall& call, CUstream_st* stream) {
  ScanAtArgs args(scan_at_dims(*call.attributes), call, 0);
  args.y = member_array<float>(call.out[0]), args.o = member_array<float>(call.out[1]);
  const dim3 grid(static_cast<unsigned>((*call.in[0].shape)[0]),
                  static_cast<unsigned>(call.members));
  scan_at_sizes(args.a, [&]<int kStates, int kChannels, int kHeads>() {
    const auto kernel = scan_at_kernel<kStates, kChannels, kHeads>;
    const int bytes = 4 * (ScanAtMemory(args.a, args.angles, args.seqlen).forward(args.a) +
                           ScanAtRows<kStates, kChannels, kHeads>::kFloats);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "cudaFuncSetAttribute");
    kernel<<<grid, kAtThreads, static_cast<size_t>(bytes), stream>>>(args);
  });
  check_launch("scan_at");
}

std::string limit(const CallShapes& c) {
  return scan_at_limit(scan_at_dims(*c.attributes), c.in[0]->shape[1]);
}

}  // namespace

CudaKernel scan_at_kernel() { return {nullptr, launch, limit}; }

}  // namespace statelab::cuda

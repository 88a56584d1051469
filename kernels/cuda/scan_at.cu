// mamba3_scan_at, mamba2_scan_at: y and o of one position of each sequence, as one query against the keys before it.
//
// Eight lanes hold a token's row, two neighbouring columns each and so on every 16: a warp takes four tokens at once, and a sum over a
// row is three shuffles of all four.
//   launch    grid x: sequences, y: members; a block takes all heads, a warp a run of tokens
//   traffic   of the rows up to the position x, B and the narrow columns once (B again for every two further heads); of C and z
//             one row
//   numerics  fp32 in every precision; a warp sums its tokens in a fixed order, then the warps in order
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/scan_at_whole.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

template <int kStates, int kChannels, bool kWhole, int kHeads>
__global__ void __launch_bounds__(kAtMaxWarps* kWarp, 2)
    scan_at_kernel(const __grid_constant__ ScanAtArgs args) {
  extern __shared__ float4 memory_of_block[];
  float* const shared = reinterpret_cast<float*>(memory_of_block);
  const ScanAt& a = args.a;
  const ScanAtMemory& memory = args.memory;
  ScanAtSequence s(args, shared);
  float* const queries = shared + memory.arrays;
  float* const query = queries + warp_id() * a.nheads * memory.state_pitch;
  s.weigh();
  s.ask<kStates, kWhole>(query);
  using State = AtPairs<kStates, kWhole>;
  using Channels = AtPairs<kChannels, kWhole>;
  const int H = a.nheads, P = kWhole ? 16 * kChannels : a.headdim,
            N = kWhole ? 16 * kStates : a.d_state, inner = H * P;
  float* const sums = queries + memory.warps * H * memory.state_pitch;  // (warps, d_inner)
  const bool has_norm = args.B_norm.data != nullptr;
  const float inverse_n = 1.0f / static_cast<float>(N);
  State norm;
  norm.fill(args.B_norm.at(blockIdx.y), N, 1.0f);
  for (int h0 = 0; h0 < H; h0 += kHeads) {
    const int g = h0 / (H / a.ngroups);
    State q[kHeads], bias[kHeads];
    Channels sum[kHeads] = {};
    const float* of_heads = args.B_bias.at(blockIdx.y);
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      q[b].read(query + (h0 + b) * memory.state_pitch, N);
      bias[b].fill(of_heads == nullptr ? nullptr : of_heads + (h0 + b) * N, N, 0.0f);
    }
    for (int first = s.begin; first < s.end; first += kAtTokens) {
      const int at = first + lane_id() / kAtLanes, t = min(at, s.end - 1);
      const float* row = s.row(t);
      State k;
      Channels x[kHeads];
      k.load(row + a.B + g * N, N, args.vectors);
#pragma unroll
      for (int b = 0; b < kHeads; ++b) x[b].load(row + a.x + (h0 + b) * P, P, args.vectors);
      const float inv = has_norm ? inverse_rms(k, inverse_n, args.eps) : 1.0f;
#pragma unroll
      for (int b = 0; b < kHeads; ++b) {
        float score = 0;
#pragma unroll
        for (int part = 0; part < kStates; ++part) {
          const int c = s.chain(h0 + b, State::column(part) / 2);
          const float2 turn = c < 0 ? make_float2(0, 1) : s.turned(t, c);
          const float2 raw = k.v[part], w = norm.v[part], plus = bias[b].v[part], of = q[b].v[part];
          score += (of.x * turn.y - of.y * turn.x) * (raw.x * inv * w.x + plus.x) +
                   (of.x * turn.x + of.y * turn.y) * (raw.y * inv * w.y + plus.y);
        }
        score = lanes_sum<kAtLanes>(score);
        const int of_head = t * H + h0 + b;
        const float factor = at < s.end ? s.decay[of_head] * s.weight[of_head] * score : 0.0f;
#pragma unroll
        for (int part = 0; part < kChannels; ++part) {
          sum[b].v[part].x += factor * x[b].v[part].x;
          sum[b].v[part].y += factor * x[b].v[part].y;
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      sum[b].sum_tokens();
      if (lane_id() < kAtLanes) sum[b].store_each(sums + warp_id() * inner + (h0 + b) * P, P);
    }
  }
  __syncthreads();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * inner;
  float* const o = args.o.at(blockIdx.y) + at;
  for (int c = static_cast<int>(threadIdx.x); c < inner; c += static_cast<int>(blockDim.x)) {
    float total = __ldg(args.D.at(blockIdx.y) + c / P) * __ldg(s.row(s.p) + a.x + c);
    for (int w = 0; w < memory.warps; ++w) total += sums[w * inner + c];
    sums[c] = o[c] = total;
  }
  __syncthreads();
  // Mamba-3 norms each head and then gates, Mamba-2 gates and then norms each group.
  float* const y = args.y.at(blockIdx.y) + at;
  const float* out_norm = args.norm.at(blockIdx.y);
  const int parts = a.mamba3 ? H : a.ngroups, width = inner / parts;
  for (int part = warp_id(); part < parts; part += memory.warps) {
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
    const float inv = out_norm != nullptr
                          ? rsqrtf(warp_sum(squares) / static_cast<float>(width) + args.eps)
                          : 1.0f;
    for (int c = begin + lane_id(); c < begin + width; c += kWarp)
      y[c] = sums[c] * gate(c) * inv * (out_norm != nullptr ? __ldg(out_norm + c) : 1.0f);
  }
}

/// The heads of scan_at_whole.cuh, all at once.
template <int kHeads, int kTurned>
__global__ void __launch_bounds__(kAtMaxWarps* kWarp, 2)
    scan_at_whole_kernel(const __grid_constant__ ScanAtArgs args) {
  extern __shared__ float4 memory_of_block[];
  float* const shared = reinterpret_cast<float*>(memory_of_block);
  constexpr int kInner = 64 * kHeads;
  const ScanAt& a = args.a;
  const ScanAtMemory& memory = args.memory;
  ScanAtSequence s(args, shared);
  const AtQueries<kHeads, kTurned> queries{shared + memory.arrays};
  float* const sums = queries.shared + AtQueries<kHeads, kTurned>::kFloats;  // (warps, d_inner)
  float* const squares_of_warps = sums + memory.warps * kInner;
  AtRows<kHeads> ahead = {};
  ahead.load(s, s.begin);
  // The first threads keep a column of the position each until the end.
  const int column = static_cast<int>(threadIdx.x);
  const bool has_column = column < kInner, has_out_norm = args.norm.data != nullptr,
             has_norm = args.B_norm.data != nullptr;
  float skip = 0, z = 0, out_norm = 1;
  if (has_column) {
    skip = __ldg(args.D.at(blockIdx.y) + column / 64) * __ldg(s.row(s.p) + kInner + column);
    z = __ldg(s.row(s.p) + column);
    if (has_out_norm) out_norm = __ldg(args.norm.at(blockIdx.y) + column);
  }
  queries.ask(args, s);
  s.weigh();
  const int of_head = a.rotation == ScanAt::Rotation::kDataDependent ? a.nangles : 0;  // angles
  const float* const behind = s.behind + warp_id() * memory.chains;
  AtRow sum[kHeads] = {};
  for (int first = s.begin; first < s.end; first += kAtTokens) {
    const int at = first + lane_id() / kAtLanes, t = min(at, s.end - 1);
    const AtRows<kHeads> here = ahead;
    ahead.load(s, first + kAtTokens);
    float squares = 0;
#pragma unroll
    for (int part = 0; part < 4; ++part)
      squares += here.k.v[part].x * here.k.v[part].x + here.k.v[part].y * here.k.v[part].y;
    const float inv =
        has_norm ? rsqrtf(fmaf(lanes_sum<kAtLanes>(squares), 1.0f / 64, args.eps)) : 1.0f;
#pragma unroll
    for (int b = 0; b < kHeads; ++b) {
      AtScore<kTurned> score;
      score.meet(queries.of(b), here.k, s.psi + t * memory.psi_pitch + b * of_head,
                 behind + b * of_head, a.nangles);
      const float whole = lanes_sum<kAtLanes>(fmaf(inv, score.raw, score.plus)) + queries.still(b);
      const int of = t * kHeads + b;
      const float factor = at < s.end ? s.decay[of] * s.weight[of] * whole : 0.0f;
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        sum[b].v[part].x += factor * here.x[b].v[part].x;
        sum[b].v[part].y += factor * here.x[b].v[part].y;
      }
    }
  }
#pragma unroll
  for (int b = 0; b < kHeads; ++b) {
    sum[b].sum_tokens();
    if (lane_id() < kAtLanes) sum[b].store(sums + warp_id() * kInner + 64 * b, 64, true);
  }
  __syncthreads();
  float o = skip, gated = z * sigmoidf(z);
  if (has_column) {
#pragma unroll 4
    for (int w = 0; w < memory.warps; ++w) o += sums[w * kInner + column];
    args.o.at(blockIdx.y)[static_cast<int64_t>(blockIdx.x) * kInner + column] = o;
  }
  // Mamba-3 norms each head and then gates, Mamba-2 gates and then norms its one group.
  gated *= o;
  if (has_out_norm) {
    const float squares = warp_sum(a.mamba3 ? o * o : gated * gated);
    if (lane_id() == 0) squares_of_warps[warp_id()] = squares;
    __syncthreads();
    const int warps = a.mamba3 ? 2 : 2 * kHeads, of = warp_id() / warps * warps;
    float total = 0;
    for (int w = of; w < of + warps; ++w) total += squares_of_warps[w];
    gated *= rsqrtf(total / static_cast<float>(warps * kWarp) + args.eps);
  }
  if (has_column)
    args.y.at(blockIdx.y)[static_cast<int64_t>(blockIdx.x) * kInner + column] = gated * out_norm;
}

void launch(const CudaCall& call, CUstream_st* stream) {
  ScanAtArgs args(scan_at_dims(*call.attributes), call, 0);
  args.y = member_array<float>(call.out[0]), args.o = member_array<float>(call.out[1]);
  const ScanAtMemory& memory = args.memory;
  const dim3 grid(static_cast<unsigned>((*call.in[0].shape)[0]),
                  static_cast<unsigned>(call.members));
  auto start = [&](auto kernel, int floats) {
    const int bytes = 4 * floats;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "cudaFuncSetAttribute");
    kernel<<<grid, memory.warps * kWarp, static_cast<size_t>(bytes), stream>>>(args);
  };
  bool started = false;
  if (scan_at_whole(args.a)) {
    scan_at_whole_sizes(args, [&]<int kHeads, int kTurned>() {
      const int floats = memory.arrays + AtQueries<kHeads, kTurned>::kFloats +
                         memory.warps * 64 * kHeads + kAtMaxWarps;
      if (4 * floats > shared_bytes_per_block()) return;
      start(scan_at_whole_kernel<kHeads, kTurned>, floats);
      started = true;
    });
  }
  if (!started) {
    const int floats = scan_at_floats(args.a, memory);
    scan_at_sizes(args, [&]<int kStates, int kChannels, bool kWhole>() {
      args.a.nheads / args.a.ngroups % 2 == 0
          ? start(scan_at_kernel<kStates, kChannels, kWhole, 2>, floats)
          : start(scan_at_kernel<kStates, kChannels, kWhole, 1>, floats);
    });
  }
  check_launch("scan_at");
}

std::string limit(const CallShapes& c) {
  return scan_at_limit(scan_at_dims(*c.attributes), c.in[0]->shape[1]);
}

}  // namespace

CudaKernel scan_at_kernel() { return {nullptr, launch, limit}; }

}  // namespace statelab::cuda

// gated_delta_scan: the chunk-wise delta rule, a block per tile of columns of V of a head of a sequence, then the norm and the gate
// of its output, which need all columns, in a kernel of their own. Source: models.md sections 7.2 and 7.4; delta_chunk.cuh has the
// form used.
#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/delta_chunk.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan_limits.h"

namespace statelab::cuda {
namespace {

struct ForwardArgs : DeltaArgs {
  using DeltaArgs::DeltaArgs;
  MemberArray<float> y, o, states;
};

template <Precision kPrecision, int kRows, int kK, int kV, int kThreads>
__global__ void __launch_bounds__(kThreads, kRows > 0 ? 1024 / kThreads : 1)
    delta_fwd_kernel(const __grid_constant__ ForwardArgs a) {
  extern __shared__ float4 shared[];
  using Chunk = DeltaChunk<kPrecision, kRows, kK, kV, kThreads>;
  constexpr int kStateBlocks = Chunk::Sizes::kStateBlocks;
  const int member = blockIdx.y, tile = blockIdx.x % a.tiles, sequence_head = blockIdx.x / a.tiles;
  const int b = sequence_head / a.nheads, h = sequence_head % a.nheads;
  const int p0 = tile * a.tile_columns, columns = kV > 0 ? kV : min(a.tile_columns, a.headdim - p0);
  Chunk c({a.rows, round16(a.d_state), round16(columns)}, reinterpret_cast<float*>(shared));
  const int blocks_v = c.size.v() / 16, thread = static_cast<int>(threadIdx.x);
  const float dt_bias = a.decay ? a.dt_bias.at(member)[h] : 0.0f,
              rate = a.decay ? expf(a.A_log.at(member)[h]) : 0.0f;
  const float* proj = a.proj.at(member) + static_cast<int64_t>(b) * a.seqlen * a.width;
  float *o = a.o.at(member), *states = a.states.at(member);
  const int g = lane_id() / 4, d_inner = a.nheads * a.headdim;
  const int64_t token0 = static_cast<int64_t>(b) * a.seqlen;
  for (int at = thread; at < c.size.k() * c.state.pitch(); at += kThreads) c.state.data[at] = 0;
  __syncthreads();
  for (int chunk = 0; chunk < a.nchunks; ++chunk) {
    const int t0 = chunk * a.chunk, length = min(a.chunk, a.seqlen - t0);
    const bool first = chunk == 0, last = chunk + 1 == a.nchunks;
    c.load(a, proj + static_cast<int64_t>(t0) * a.width, h, p0, columns, length, dt_bias, rate);
    if (states != nullptr) {
      float* to =
          states +
          (static_cast<int64_t>(sequence_head) * a.nchunks + chunk) * a.d_state * a.headdim + p0;
      if constexpr (kV > 0) {
#pragma unroll
        for (int at = thread; at < kK * kV / 4; at += kThreads) {
          const int n = at / (kV / 4), p = at % (kV / 4) * 4;
          *reinterpret_cast<float4*>(to + n * a.headdim + p) = c.state.quad(n, p);
        }
      } else {
        for (int at = thread; at < a.d_state * columns; at += kThreads)
          to[at / columns * a.headdim + at % columns] = c.state(at / columns, at % columns);
      }
    }
    if (kRows > 0 && !last) {
      Chunk::prefetch(proj + static_cast<int64_t>(t0 + a.chunk) * a.width,
                      min(a.chunk, a.seqlen - t0 - a.chunk), a.width, 0, a.gate);
    }
    __syncthreads();
    c.finish_decays();
    c.squares();
    c.template residuals<true>(first);
    __syncthreads();
    c.invert_diagonal();
    __syncthreads();
    if (c.blocks() > 1) {
      c.invert_below();
      __syncthreads();
    }
    for (int item = warp_id(); item < 2 * blocks_v; item += Chunk::kWarps)
      c.template solve<true>(item * 8);
    __syncthreads();
    for (int item = warp_id(); item < c.blocks() * blocks_v; item += Chunk::kWarps) {
      const int row0 = item / blocks_v * 16, column0 = item % blocks_v * 16;
      float acc[2][4] = {};
      if (!first) {
        tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(c.q, row0),
                                 operand<Sum::kDownColumn, false>(c.state, column0), 0, c.size.k());
        scale_pair_rows(acc, c.decay.from_start[row0 + g], c.decay.from_start[row0 + g + 8]);
      }
      tile_product<kPrecision>(acc, operand<Sum::kAlongRow>(c.scores, row0),
                               operand<Sum::kDownColumn>(c.v, column0), 0, row0 + 16);
      scale_pair_rows(acc, a.scale, a.scale);
      float* to = o + (token0 + t0) * d_inner + h * a.headdim + p0;
      each_pair<2>([&](int n, int high, int row, int column) {
        const int i = row0 + row, p = column0 + column;
        if (i >= length || p >= columns) return;
        float* at = to + static_cast<int64_t>(i) * d_inner + p;
        if (p + 1 < columns) {
          store2(at, acc[n][2 * high], acc[n][2 * high + 1], a.vectors);
        } else {
          *at = acc[n][2 * high];
        }
      });
    }
    if (last) break;
    __syncthreads();  // the state has been read
    const int across = c.size.v() / (8 * kStateBlocks);
    for (int item = warp_id(); item < c.size.k() / 16 * across; item += Chunk::kWarps) {
      const int n0 = item / across * 16, column0 = item % across * (8 * kStateBlocks);
      float acc[kStateBlocks][4] = {};
      tile_product<kPrecision, true>(acc, operand<Sum::kDownColumn>(c.k, n0),
                                     operand<Sum::kDownColumn>(c.v, column0), 0, c.size.rows(),
                                     c.decay.to_end);
      const float whole = *c.decay.whole;
      each_pair<kStateBlocks>([&](int n, int high, int row, int column) {
        float2& s = c.state.pair(n0 + row, column0 + column);
        s = make_float2(whole * s.x + acc[n][2 * high], whole * s.y + acc[n][2 * high + 1]);
      });
    }
    __syncthreads();
  }
}

/// y = RMS_norm(o) [silu(gate)]: a warp a row (token, head) of V columns, at most 128.
__global__ void __launch_bounds__(kScanThreads)
    delta_output_kernel(const __grid_constant__ ForwardArgs a) {
  const int member = blockIdx.y, V = a.headdim;
  const unsigned at = blockIdx.x * kScanWarps + static_cast<unsigned>(warp_id());
  if (at >= a.tokens() * a.nheads) return;
  const int64_t row = at, token = at / static_cast<unsigned>(a.nheads);
  const int h = static_cast<int>(at % static_cast<unsigned>(a.nheads));
  LanePairs<2> o, gate{};
  o.load(a.o.at(member) + row * V, V, a.vectors);
  if (a.gated) gate.load(a.proj.at(member) + token * a.width + a.gate + h * V, V, a.vectors);
  float sum = 0;
#pragma unroll
  for (int part = 0; part < 2; ++part) sum += o.v[part].x * o.v[part].x + o.v[part].y * o.v[part].y;
  const float inverse = rsqrtf(warp_sum(sum) / static_cast<float>(V) + a.eps);
  const float* norm = a.norm.at(member);
  float* y = a.y.at(member) + row * V;
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const int p = LanePairs<2>::column(part);
    if (p >= V) continue;
    const bool both = p + 1 < V;
    float2 out = make_float2(o.v[part].x * inverse * norm[p],
                             both ? o.v[part].y * inverse * norm[p + 1] : 0.0f);
    if (a.gated) out.x *= siluf(gate.v[part].x), out.y *= siluf(gate.v[part].y);
    if (both) {
      store2(y + p, out.x, out.y, a.vectors);
    } else {
      y[p] = out.x;
    }
  }
}

template <Precision kPrecision, int kRows, int kK, int kV, int kThreads>
void launch_sized(const ForwardArgs& a, int members, CUstream_st* stream) {
  using Chunk = DeltaChunk<kPrecision, kRows, kK, kV, kThreads>;
  const typename Chunk::Sizes size{a.rows, round16(a.d_state),
                                   round16(std::min(a.headdim, a.tile_columns))};
  const int bytes = Chunk::floats(size) * static_cast<int>(sizeof(float));
  const auto kernel = delta_fwd_kernel<kPrecision, kRows, kK, kV, kThreads>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "gated_delta_scan");
  kernel<<<member_grid(static_cast<int64_t>(a.batch) * a.nheads * a.tiles, members), kThreads,
           static_cast<size_t>(bytes), stream>>>(a);
  check_launch("gated_delta_scan");
}

/// Without room in o for the rule's output there is no norm of it.
int64_t workspace_bytes(const CallShapes& c) {
  const Shape& proj = c.in[0]->shape;
  return int64_t{4} * proj[0] * proj[1] * c.attrs<GatedDeltaScanAttrs>().d_inner();
}

void launch(const CudaCall& call, CUstream_st* stream) {
  ForwardArgs a(call.attrs<GatedDeltaScanAttrs>(), *call.in[0].shape);
  a.proj = member_array<const float>(call.in[0]);
  a.dt_bias = member_array<const float>(call.in[1]);
  a.A_log = member_array<const float>(call.in[2]);
  a.norm = member_array<const float>(call.in[3]);
  a.y = member_array<float>(call.out[0]);
  a.o = member_array<float>(call.out[1].data != nullptr ? call.out[1] : call.workspace);
  a.states = member_array<float>(call.out[2]);
  with_delta_kernel(a, call.precision,
                    [&]<Precision kPrecision, int kRows, int kK, int kV, int kThreads>() {
                      launch_sized<kPrecision, kRows, kK, kV, kThreads>(a, call.members, stream);
                    });
  if (a.y.data == nullptr) return;
  const int64_t rows = a.tokens() * a.nheads;
  delta_output_kernel<<<member_grid(ceil_div(rows, kScanWarps), call.members), kScanThreads, 0,
                        stream>>>(a);
  check_launch("gated_delta_scan");
}

std::string limit(const CallShapes& c) {
  const auto& a = c.attrs<GatedDeltaScanAttrs>();
  return delta_scan_limit(a.headdim, a.d_state, a.chunk_size);
}

}  // namespace

CudaKernel gated_delta_scan_kernel() { return {workspace_bytes, launch, limit}; }

}  // namespace statelab::cuda

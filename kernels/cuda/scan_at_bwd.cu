// mamba3_scan_at_bwd, mamba2_scan_at_bwd: the gradients of one query against the keys before it, see kernels/scan_at.h.
//
// With s_t the score, u_t = do . x_t and c_t = exp(L_t) w_t:  dx_t = c_t s_t do,  dk_t = c_t u_t Rot(Psi_t) q,
// dq = sum of c_t u_t Rot(-Psi_t) k_t,  dw_t = exp(L_t) s_t u_t. A token's log alpha and angle lie in L_j and Psi_j of all j before
// it, so their cotangents are sums of c_j s_j u_j and of c_j u_j (q x k_j) over j < t.
//   launch    grid x: sequences, y: members; a block takes all heads, a warp a run of tokens
//   traffic   as forward, and all of dproj once; B and its columns of dproj again for every further head of a group
//   numerics  fp32 in every precision, in the forward pass's order; a sequence's shares of the parameters' gradients to the
//             workspace, then over the sequences
#include <algorithm>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/scan_at_whole_bwd.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace statelab::cuda {
namespace {

/// Of heads of any size, a head at a time.
template <int kStates, int kChannels, bool kWhole>
class Backward : ScanAtBackward {
 public:
  using State = AtPairs<kStates, kWhole>;
  using Channels = AtPairs<kChannels, kWhole>;

  /// Floats of shared memory behind the forward pass's arrays: the queries, the warps' shares of the gradients of the keys' biases by
  /// head, then of the queries by head, then of the keys' norm, the queries' gradients.
  struct Memory {
    int query, shares, dq;
    ScanAtBackwardMemory rest;
    Memory(const ScanAt& a, const ScanAtMemory& memory)
        : query(memory.arrays),
          shares(query + memory.warps * a.nheads * memory.state_pitch),
          dq(ScanAtMemory::quads(shares + memory.warps * (2 * a.nheads + 1) * a.d_state)),
          rest(a, memory, dq + ScanAtMemory::quads(a.nheads * a.d_state)) {}
  };

  __device__ Backward(const ScanAtArgs& args, const Memory& at, float* shared)
      : ScanAtBackward(args, at.rest, shared),
        query_of_warp(shared + at.query + warp_id() * args.a.nheads * args.memory.state_pitch),
        shares(shared + at.shares),
        dq(shared + at.dq) {}

  __device__ void run() {
    gate();
    zeros();
    s.weigh();  // with a barrier
    s.template ask<kStates, kWhole>(query_of_warp);
    skip();
    State dnorm = {};
    for (int h = 0; h < a.nheads; ++h) head(h, dnorm);
    dnorm.sum_tokens();
    if (lane_id() < kAtLanes) dnorm.store_each(share(2 * a.nheads), a.d_state);
    __syncthreads();
    sum_shares();
    before();  // with a barrier
    if (warp_id() == 0) query();
    tokens();
    __syncthreads();
    head_sums();
  }

 private:
  __device__ __forceinline__ float* share(int i) const {
    return shares + (warp_id() * (2 * a.nheads + 1) + i) * a.d_state;
  }

  /// What no later phase writes: z and C of all tokens but the position, the narrow columns without a gradient, and the rows
  /// behind the position.
  __device__ void zeros() {
    using D = ScanAt::Discretization;
    auto clear = [&](float* row, int begin, int end) {
      if (args.vectors && begin % 2 == 0 && end % 2 == 0) {
        for (int c = begin + 2 * lane_id(); c < end; c += 2 * kWarp) store2(row + c, 0, 0, true);
      } else {
        for (int c = begin + lane_id(); c < end; c += kWarp) row[c] = 0;
      }
    };
    for (int t = warp_id(); t < args.seqlen; t += memory.warps) {
      float* const row = drow(t);
      if (t > s.p) {
        clear(row, 0, a.width);
        continue;
      }
      if (t != s.p) {
        clear(row, a.z, a.x);
        clear(row, a.C, a.dd_dt);
      }
      if (!a.mamba3) continue;
      if (a.discretization != D::kTrapezoidal) clear(row, a.trap, a.ang);
      if (a.rotation != ScanAt::Rotation::kDataDependent) clear(row, a.ang, a.width);
    }
  }

  /// dD = do . x_p.
  __device__ void skip() {
    for (int h = warp_id(); h < a.nheads; h += memory.warps) {
      float sum = 0;
      for (int c = lane_id(); c < a.headdim; c += kWarp)
        sum += dout[h * a.headdim + c] * __ldg(s.row(s.p) + a.x + h * a.headdim + c);
      sum = warp_sum(sum);
      if (lane_id() == 0) parts[args.slot.D + h] = sum;
    }
  }

  /// Sine and cosine of the lane's pair of a head at token t.
  __device__ __forceinline__ float2 turn(int t, int h, int part, bool in) const {
    const int c = s.chain(h, State::column(part) / 2);
    return c < 0 || !in ? make_float2(0, 1) : s.turned(t, c);
  }

  /// dx of a head, its shares of B's gradient and of the scores'. One head at a time: two would not fit into registers.
  __device__ void head(int h, State& dnorm) {
    const int H = a.nheads, P = kWhole ? 16 * kChannels : a.headdim,
              N = kWhole ? 16 * kStates : a.d_state, of_group = H / a.ngroups;
    const int column_B = a.B + h / of_group * N, column_x = a.x + h * P;
    const bool first_of_group = h % of_group == 0, last_of_group = (h + 1) % of_group == 0,
               has_norm = args.B_norm.data != nullptr,
               learned = a.rotation == ScanAt::Rotation::kDataDependent;
    const float inverse_n = 1.0f / static_cast<float>(N), D = __ldg(args.D.at(blockIdx.y) + h);
    const float* of_head = args.B_bias.at(blockIdx.y);
    State norm, bias, q, dbias = {}, dquery = {};
    norm.fill(args.B_norm.at(blockIdx.y), N, 1.0f);
    bias.fill(of_head == nullptr ? nullptr : of_head + h * N, N, 0.0f);
    q.read(query_of_warp + h * memory.state_pitch, N);
    for (int first = s.begin; first < s.end; first += kAtTokens) {
      const int at_t = first + lane_id() / kAtLanes, t = min(at_t, s.end - 1), at_head = t * H + h;
      const bool in = at_t < s.end;
      float* const to = drow(t);
      State k, key, turned, dk;
      Channels x, dv;
      k.load(s.row(t) + column_B, N, args.vectors);
      x.load(s.row(t) + column_x, P, args.vectors);
      dv.read(dout + h * P, P);
      float score = 0, value = 0;
#pragma unroll
      for (int part = 0; part < kChannels; ++part)
        value += dv.v[part].x * x.v[part].x + dv.v[part].y * x.v[part].y;
      const float inv = has_norm ? inverse_rms(k, inverse_n, args.eps) : 1.0f;
#pragma unroll
      for (int part = 0; part < kStates; ++part) {
        const float2 raw = k.v[part], w = norm.v[part], plus = bias.v[part], of = q.v[part],
                     by = turn(t, h, part, in);
        const float2 in_place = make_float2(raw.x * inv * w.x + plus.x, raw.y * inv * w.y + plus.y);
        key.v[part] = in_place;
        turned.v[part] = make_float2(of.x * by.y - of.y * by.x, of.x * by.x + of.y * by.y);
        score += turned.v[part].x * in_place.x + turned.v[part].y * in_place.y;
      }
      score = lanes_sum<kAtLanes>(score), value = lanes_sum<kAtLanes>(value);
      const float decay = in ? s.decay[at_head] : 0.0f, c = decay * s.weight[at_head],
                  cu = c * value, dx = c * score + (t == s.p ? D : 0.0f);
#pragma unroll
      for (int part = 0; part < kChannels; ++part) dv.v[part].x *= dx, dv.v[part].y *= dx;
      if (in) {
        dv.store(to + column_x, P, args.vectors);
        if (lane_id() % kAtLanes == 0)
          dweight[at_head] = decay * score * value, flow[at_head] = cu * score;
      }
#pragma unroll
      for (int part = 0; part < kStates; ++part) {
        const float2 of_key = key.v[part], of = turned.v[part], by = turn(t, h, part, in);
        dk.v[part] = make_float2(cu * of.x, cu * of.y);
        dbias.v[part].x += dk.v[part].x, dbias.v[part].y += dk.v[part].y;
        dquery.v[part].x += cu * (by.y * of_key.x + by.x * of_key.y);
        dquery.v[part].y += cu * (by.y * of_key.y - by.x * of_key.x);
        const int chain = s.chain(h, State::column(part) / 2);
        if (learned && in && chain >= 0)
          s.psi[t * memory.psi_pitch + chain] = cu * (of.x * of_key.y - of.y * of_key.x);
      }
      if (!first_of_group) {
        State others;
        others.read(to + column_B, N);
#pragma unroll
        for (int part = 0; part < kStates; ++part)
          dk.v[part].x += others.v[part].x, dk.v[part].y += others.v[part].y;
      }
      if (last_of_group && has_norm) norm_back(k, inv, norm, dk, in, dnorm);
      if (in) dk.store(to + column_B, N, args.vectors);
    }
    dbias.sum_tokens(), dquery.sum_tokens();
    if (lane_id() < kAtLanes) {
      // Back from what this warp's tokens see of the query.
#pragma unroll
      for (int part = 0; part < kStates; ++part) {
        const int chain = s.chain(h, State::column(part) / 2);
        if (chain < 0) continue;
        const float2 by = s.turned_behind(chain);
        float2& d = dquery.v[part];
        d = make_float2(d.x * by.y + d.y * by.x, d.y * by.y - d.x * by.x);
      }
      dbias.store_each(share(h), N);
      dquery.store_each(share(H + h), N);
    }
    __syncwarp();
  }

  /// dy to dout and dz. Mamba-3 norms each head and then gates, Mamba-2 gates and then norms each group.
  __device__ void gate() {
    const int inner = a.nheads * a.headdim, parts_of = a.mamba3 ? a.nheads : a.ngroups,
              width = inner / parts_of;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * inner;
    const float *dy = args.dy.at(blockIdx.y) + row, *o = args.o_in.at(blockIdx.y) + row;
    const float *z = s.row(s.p) + a.z, *norm = args.norm.at(blockIdx.y);
    float* const dz = drow(s.p) + a.z;
    for (int part = warp_id(); part < parts_of; part += memory.warps) {
      const int begin = part * width + lane_id(), end = (part + 1) * width;
      float squares = 0, dot = 0;
      for (int c = begin; c < end; c += kWarp) {
        const float silu = __ldg(z + c) * sigmoidf(__ldg(z + c)), w = norm != nullptr ? norm[c] : 1;
        const float v = a.mamba3 ? o[c] : o[c] * silu, g = a.mamba3 ? dy[c] * silu : dy[c];
        squares += v * v;
        dot += g * w * v;
      }
      const float mean = 1.0f / static_cast<float>(width);
      const float inv = norm != nullptr ? rsqrtf(warp_sum(squares) * mean + args.eps) : 1.0f;
      dot = norm != nullptr ? warp_sum(dot) * inv * mean : 0.0f;
      for (int c = begin; c < end; c += kWarp) {
        const float zc = __ldg(z + c), sig = sigmoidf(zc), silu = zc * sig;
        const float dsilu = sig * (1 + zc * (1 - sig)), w = norm != nullptr ? norm[c] : 1;
        const float v = a.mamba3 ? o[c] : o[c] * silu, g = a.mamba3 ? dy[c] * silu : dy[c];
        const float dv = norm != nullptr ? inv * (g * w - v * inv * dot) : g;
        parts[args.slot.norm + c] = norm != nullptr ? g * v * inv : 0.0f;
        dout[c] = a.mamba3 ? dv : dv * silu;
        dz[c] = (a.mamba3 ? dy[c] * v * inv * w : dv * o[c]) * dsilu;
      }
    }
  }

  /// The cotangent of x inv w becomes that of x; adds to w's where `counts`.
  __device__ __forceinline__ void norm_back(const State& x, float inv, const State& w, State& d,
                                            bool counts, State& dw) const {
    float dot = 0;
#pragma unroll
    for (int part = 0; part < kStates; ++part) {
      const float2 from = x.v[part], norm = w.v[part], g = d.v[part];
      if (counts) dw.v[part].x += g.x * from.x * inv, dw.v[part].y += g.y * from.y * inv;
      dot += g.x * norm.x * from.x + g.y * norm.y * from.y;
    }
    dot = lanes_sum<kAtLanes>(dot) * inv / static_cast<float>(a.d_state);
#pragma unroll
    for (int part = 0; part < kStates; ++part) {
      const float2 from = x.v[part], norm = w.v[part];
      float2& g = d.v[part];
      g = make_float2(inv * (g.x * norm.x - from.x * inv * dot),
                      inv * (g.y * norm.y - from.y * inv * dot));
    }
  }

  /// The warps' shares, in order; zeros for parameters that are absent. All threads; dq is there after the next barrier.
  __device__ void sum_shares() {
    const int H = a.nheads, N = a.d_state, width = (2 * H + 1) * N;
#pragma unroll 1
    for (int c = thread(); c < width; c += threads()) {
      float sum = 0;
#pragma unroll 4
      for (int w = 0; w < memory.warps; ++w) sum += shares[w * width + c];
      const int i = c / N;
      if (i >= H && i < 2 * H) dq[c - H * N] = sum;
      if (!a.mamba3) continue;
      const bool there = (i < H       ? args.B_bias
                          : i < 2 * H ? args.C_bias
                                      : args.B_norm)
                             .data != nullptr;
      parts[args.slot.B_bias + c] =
          there ? sum : 0.0f;  // B_bias, C_bias, B_norm follow one another
    }
  }

  /// C's gradient at the position, of all groups. One warp, whose lanes all hold the row's eight shares.
  __device__ void query() {
    const int N = a.d_state, of_group = a.nheads / a.ngroups;
    const float* norm = args.C_norm.at(blockIdx.y);
    State w, dw = {};
    w.fill(norm, N, 1.0f);
#pragma unroll 1
    for (int g = 0; g < a.ngroups; ++g) {
      State raw, d = {};
      raw.load(s.row(s.p) + a.C + g * N, N, args.vectors);
#pragma unroll 1
      for (int h = g * of_group; h < (g + 1) * of_group; ++h) {
        State of_head;
        of_head.read(dq + h * N, N);
#pragma unroll
        for (int part = 0; part < kStates; ++part)
          d.v[part].x += of_head.v[part].x, d.v[part].y += of_head.v[part].y;
      }
      if (norm != nullptr)
        norm_back(raw, inverse_rms(raw, 1.0f / static_cast<float>(N), args.eps), w, d, true, dw);
      if (lane_id() < kAtLanes) d.store(drow(s.p) + a.C + g * N, N, args.vectors);
    }
    if (a.mamba3 && lane_id() < kAtLanes) dw.store_each(parts + args.slot.C_norm, N);
  }

  float *const query_of_warp, *const shares, *const dq;
};

template <class Sequence>
__global__ void __launch_bounds__(kAtMaxWarps* kWarp, 2)
    scan_at_bwd_kernel(const __grid_constant__ ScanAtArgs args,
                       const __grid_constant__ typename Sequence::Memory at) {
  extern __shared__ float4 memory_of_block[];
  Sequence(args, at, reinterpret_cast<float*>(memory_of_block)).run();
}

int64_t workspace_bytes(const CallShapes& c) {
  return 4 * int64_t{c.in[1]->shape[0]} * ScanAtSums(scan_at_dims(*c.attributes)).width;
}

void launch(const CudaCall& call, CUstream_st* stream) {
  ScanAtArgs args(scan_at_dims(*call.attributes), call, 1);
  args.dy = member_array<const float>(call.in[0]);
  args.o_in = member_array<const float>(call.in.back());
  args.dproj = member_array<float>(call.out[0]);
  args.partials = member_array<float>(call.workspace);
  const int batch = (*call.in[1].shape)[0];
  const dim3 grid(static_cast<unsigned>(batch), static_cast<unsigned>(call.members));
  auto start = [&]<class Sequence>(const typename Sequence::Memory& at) {
    const int bytes = 4 * at.rest.end;
    const auto kernel = scan_at_bwd_kernel<Sequence>;
    if (bytes > shared_bytes_per_block()) return false;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "cudaFuncSetAttribute");
    const int threads = args.memory.warps * kWarp;
    kernel<<<grid, threads, static_cast<size_t>(bytes), stream>>>(args, at);
    return true;
  };
  bool started = false;
  if (scan_at_whole(args.a)) {
    scan_at_whole_sizes(args, [&]<int kHeads, int kTurned>() {
      using Sequence = WholeBackward<kHeads, kTurned>;
      started = start.template operator()<Sequence>({args.a, args.memory});
    });
  }
  if (!started) {
    scan_at_sizes(args, [&]<int kStates, int kChannels, bool kWhole>() {
      using Sequence = Backward<kStates, kChannels, kWhole>;
      start.template operator()<Sequence>({args.a, args.memory});
    });
  }
  check_launch("scan_at_bwd");
  const ScanAtSums& slot = args.slot;
  const int mamba3[] = {slot.dt_bias, slot.B_bias, slot.C_bias, slot.B_norm,
                        slot.C_norm,  slot.D,      slot.norm,   slot.width},
            mamba2[] = {slot.dt_bias, slot.A_log, slot.D, slot.norm, slot.width};
  launch_partial_sums(call, args.partials.data, batch, args.a.mamba3 ? mamba3 : mamba2,
                      args.a.mamba3 ? 7 : 4, 1, stream);
}

}  // namespace

std::string scan_at_limit(const ScanAt& a, int seqlen) {
  auto text = [](const char* name, int value) {
    return std::string(name) + " must be at most 128 on a CUDA device, is " + std::to_string(value);
  };
  if (a.headdim > 128) return text("headdim", a.headdim);
  if (a.d_state > 128) return text("d_state", a.d_state);
  const int64_t of_tokens = 4 * int64_t{seqlen} * (5 * a.nheads + scan_at_angles(a) + a.nangles);
  if (of_tokens > shared_bytes_per_block())
    return std::to_string(seqlen) + " positions need at least " + std::to_string(of_tokens) +
           " bytes of shared memory";
  const ScanAtMemory memory(a, scan_at_angles(a), seqlen);
  const int bytes = 4 * std::max(Backward<4, 4, false>::Memory(a, memory).rest.end,
                                 scan_at_floats(a, memory)),
            most = shared_bytes_per_block();
  if (bytes <= most) return {};
  return "these heads and " + std::to_string(seqlen) + " positions need " + std::to_string(bytes) +
         " bytes of shared memory, a block has " + std::to_string(most);
}

namespace {
std::string limit(const CallShapes& c) {
  return scan_at_limit(scan_at_dims(*c.attributes), c.in[1]->shape[1]);
}
}  // namespace

CudaKernel scan_at_bwd_kernel() { return {workspace_bytes, launch, limit}; }

}  // namespace statelab::cuda

// mamba2_scan's gate and norm: m = o silu(z), y = m / rms(m) * norm over the channels of a group; back, with r = 1 / rms(m):
//   dm = r (dy norm - m r <dy norm, m r> / channels),  do = dm silu(z),  dz = dm o silu'(z),  dnorm = sum of dy m r over the rows.
// Source: models.md section 6.2. A warp takes a row of a group; wide, a lane holds pairs of channels and reads everything once.
#include <type_traits>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/mamba2_gate.h"

namespace statelab::cuda {
namespace {

constexpr int kGateRows = 32;  // of a block of the backward kernel
constexpr int kGateThreads = 256, kGateWarps = kGateThreads / kWarp;
constexpr int kRowsAtOnce = 2;  // wide, backward: whose loads are on their way together

/// A warp per row and group.
__global__ void gate_fwd_kernel(const __grid_constant__ Mamba2Args a) {
  const ScanDims& d = a.dims;
  const int d_inner = d.nheads * d.headdim, size = d_inner / d.ngroups, member = blockIdx.y;
  const int64_t item = blockIdx.x * static_cast<int64_t>(blockDim.x / kWarp) + warp_id();
  const int64_t row = item / d.ngroups;
  if (row >= static_cast<int64_t>(d.batch) * d.seqlen) return;
  const int first = static_cast<int>(item % d.ngroups) * size;
  const float *o = a.o.at(member) + row * d_inner + first,
              *z = a.proj.at(member) + row * d.width + a.z + first,
              *norm = a.norm.at(member) + first;
  float* y = a.y.at(member) + row * d_inner + first;
  float square = 0;
  for (int c = lane_id(); c < size; c += kWarp) {
    const float m = o[c] * z[c] * sigmoidf(z[c]);
    square += m * m;
  }
  const float inverse = rsqrtf(warp_sum(square) / size + a.eps);
  for (int c = lane_id(); c < size; c += kWarp)
    y[c] = o[c] * z[c] * sigmoidf(z[c]) * inverse * norm[c];
}

/// dz into dproj, the cotangent of o into dout, and per block the sums of the norm's gradient. A warp per row and group, the
/// rows of a block in turn; shared memory: (warps, d_inner).
__global__ void __launch_bounds__(kGateThreads)
    gate_bwd_kernel(const __grid_constant__ Mamba2Args a) {
  extern __shared__ float4 shared[];
  float* sums = reinterpret_cast<float*>(shared);
  const ScanDims& d = a.dims;
  const int d_inner = d.nheads * d.headdim, size = d_inner / d.ngroups, member = blockIdx.y;
  const int64_t rows = static_cast<int64_t>(d.batch) * d.seqlen,
                row0 = blockIdx.x * int64_t{kGateRows};
  float* own = sums + warp_id() * d_inner;
  for (int c = lane_id(); c < d_inner; c += kWarp) own[c] = 0;
  __syncwarp();
  for (int i = warp_id(); i < kGateRows; i += kGateThreads / kWarp) {
    const int64_t row = row0 + i;
    if (row >= rows) break;
    for (int group = 0; group < d.ngroups; ++group) {
      const int first = group * size;
      const float *o = a.o_in.at(member) + row * d_inner + first,
                  *dy = a.dy.at(member) + row * d_inner + first,
                  *z = a.proj.at(member) + row * d.width + a.z + first,
                  *norm = a.norm.at(member) + first;
      float *dz = a.dproj.at(member) + row * d.width + a.z + first,
            *dout = a.dout.at(member) + row * d_inner + first;
      float square = 0, dot = 0;
      for (int c = lane_id(); c < size; c += kWarp) {
        const float m = o[c] * z[c] * sigmoidf(z[c]);
        square += m * m;
        dot += dy[c] * norm[c] * m;
      }
      const float inverse = rsqrtf(warp_sum(square) / size + a.eps);
      dot = warp_sum(dot) * inverse / size;
      for (int c = lane_id(); c < size; c += kWarp) {
        const float sig = sigmoidf(z[c]), m = o[c] * z[c] * sig;
        const float dm = inverse * (dy[c] * norm[c] - m * inverse * dot);
        own[first + c] += dy[c] * m * inverse;
        dz[c] = dm * o[c] * sig * (1 + z[c] * (1 - sig));
        dout[c] = dm * z[c] * sig;
      }
    }
  }
  __syncthreads();
  float* to = a.norm_partials.at(member) + blockIdx.x * int64_t{d_inner};
  for (int c = threadIdx.x; c < d_inner; c += kGateThreads) {
    float total = 0;
    for (int w = 0; w < kGateThreads / kWarp; ++w) total += sums[w * d_inner + c];
    to[c] = total;
  }
}

// ---- wide: 64 kPairs channels a group

/// Exponential and quotient are the fast ones, good to a few units in the last place.
__device__ __forceinline__ float quick_gate(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }

/// A lane's channels 2 lane + 64 part of a row.
template <int kPairs>
struct GateRow {
  float2 v[kPairs];
  __device__ __forceinline__ void load(const float* from) {
#pragma unroll
    for (int part = 0; part < kPairs; ++part)
      v[part] = __ldg(reinterpret_cast<const float2*>(from + 2 * lane_id() + 64 * part));
  }
  __device__ __forceinline__ void store(float* to) const {
#pragma unroll
    for (int part = 0; part < kPairs; ++part)
      *reinterpret_cast<float2*>(to + 2 * lane_id() + 64 * part) = v[part];
  }
};

template <int kPairs>
__global__ void __launch_bounds__(kGateThreads)
    wide_gate_fwd_kernel(const __grid_constant__ Mamba2Args a) {
  constexpr int kSize = 64 * kPairs;
  const ScanDims& d = a.dims;
  const int d_inner = d.nheads * d.headdim, member = blockIdx.y;
  const int64_t item = blockIdx.x * static_cast<int64_t>(kGateWarps) + warp_id();
  const int64_t row = item / d.ngroups;
  if (row >= static_cast<int64_t>(d.batch) * d.seqlen) return;
  const int first = static_cast<int>(item % d.ngroups) * kSize;
  GateRow<kPairs> m, z, norm;
  m.load(a.o.at(member) + row * d_inner + first);
  z.load(a.proj.at(member) + row * d.width + a.z + first);
  norm.load(a.norm.at(member) + first);
  float square = 0;
#pragma unroll
  for (int part = 0; part < kPairs; ++part) {
    float2 &m2 = m.v[part], z2 = z.v[part];
    m2.x *= z2.x * quick_gate(z2.x), m2.y *= z2.y * quick_gate(z2.y);
    square = fmaf(m2.x, m2.x, fmaf(m2.y, m2.y, square));
  }
  const float inverse = rsqrtf(warp_sum(square) * (1.0f / kSize) + a.eps);
#pragma unroll
  for (int part = 0; part < kPairs; ++part)
    m.v[part].x *= inverse * norm.v[part].x, m.v[part].y *= inverse * norm.v[part].y;
  m.store(a.y.at(member) + row * d_inner + first);
}

/// Grid (runs of kGateRows rows x groups, members).
template <int kPairs>
__global__ void __launch_bounds__(kGateThreads)
    wide_gate_bwd_kernel(const __grid_constant__ Mamba2Args a) {
  constexpr int kSize = 64 * kPairs;
  __shared__ float sums[kGateWarps][kSize];
  const ScanDims& d = a.dims;
  const int d_inner = d.nheads * d.headdim, member = blockIdx.y;
  const int first = static_cast<int>(blockIdx.x) % d.ngroups * kSize,
            run = static_cast<int>(blockIdx.x) / d.ngroups;
  const int64_t rows = static_cast<int64_t>(d.batch) * d.seqlen,
                row0 = run * int64_t{kGateRows} + warp_id();
  GateRow<kPairs> norm, own{};
  norm.load(a.norm.at(member) + first);
#pragma unroll 1
  for (int i = 0; i < kGateRows; i += kRowsAtOnce * kGateWarps) {
    GateRow<kPairs> o[kRowsAtOnce], z[kRowsAtOnce], dy[kRowsAtOnce];
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const int64_t row = min(row0 + i + u * kGateWarps, rows - 1);
      o[u].load(a.o_in.at(member) + row * d_inner + first);
      z[u].load(a.proj.at(member) + row * d.width + a.z + first);
      dy[u].load(a.dy.at(member) + row * d_inner + first);
    }
#pragma unroll
    for (int u = 0; u < kRowsAtOnce; ++u) {
      const int64_t row = row0 + i + u * kGateWarps;
      if (row >= rows) continue;
      GateRow<kPairs> sig;
      float square = 0, dot = 0;
#pragma unroll
      for (int part = 0; part < kPairs; ++part) {
        const float2 o2 = o[u].v[part], z2 = z[u].v[part], dy2 = dy[u].v[part], w2 = norm.v[part];
        float2& s2 = sig.v[part];
        s2 = make_float2(quick_gate(z2.x), quick_gate(z2.y));
        const float m0 = o2.x * z2.x * s2.x, m1 = o2.y * z2.y * s2.y;
        square = fmaf(m0, m0, fmaf(m1, m1, square));
        dot = fmaf(dy2.x * w2.x, m0, fmaf(dy2.y * w2.y, m1, dot));
      }
      const float inverse = rsqrtf(warp_sum(square) * (1.0f / kSize) + a.eps);
      dot = warp_sum(dot) * inverse * (1.0f / kSize);
#pragma unroll
      for (int part = 0; part < kPairs; ++part) {
        auto through = [&](float& o_to_dout, float& z_to_dz, float dy1, float s, float w,
                           float& sum) {
          const float o1 = o_to_dout, z1 = z_to_dz, normed = o1 * z1 * s * inverse;
          const float dm = inverse * (dy1 * w - normed * dot);
          sum = fmaf(dy1, normed, sum);
          z_to_dz = dm * o1 * s * (1 + z1 * (1 - s));
          o_to_dout = dm * z1 * s;
        };
        through(o[u].v[part].x, z[u].v[part].x, dy[u].v[part].x, sig.v[part].x, norm.v[part].x,
                own.v[part].x);
        through(o[u].v[part].y, z[u].v[part].y, dy[u].v[part].y, sig.v[part].y, norm.v[part].y,
                own.v[part].y);
      }
      z[u].store(a.dproj.at(member) + row * d.width + a.z + first);
      o[u].store(a.dout.at(member) + row * d_inner + first);
    }
  }
  own.store(sums[warp_id()]);
  __syncthreads();
  float* to = a.norm_partials.at(member) + run * int64_t{d_inner} + first;
  for (int c = threadIdx.x; c < kSize; c += kGateThreads) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kGateWarps; ++w) total += sums[w][c];
    to[c] = total;
  }
}

// ---- launches

/// f<pairs of a lane>() where the wide kernels know groups of this size; whether they do.
template <class F>
bool with_pairs(const Mamba2Args& a, bool wide, F&& f) {
  if (!wide || !a.vectors || a.dims.headdim != 64) return false;
  switch (a.dims.nheads / a.dims.ngroups) {
    case 1:
      return f(std::integral_constant<int, 1>()), true;
    case 2:
      return f(std::integral_constant<int, 2>()), true;
    case 4:
      return f(std::integral_constant<int, 4>()), true;
    default:
      return false;
  }
}

}  // namespace

int64_t gate_blocks(int64_t rows) { return (rows + kGateRows - 1) / kGateRows; }

void launch_gate_forward(const Mamba2Args& a, bool wide, int members, CUstream_st* stream) {
  const int64_t items = static_cast<int64_t>(a.dims.batch) * a.dims.seqlen * a.dims.ngroups;
  const dim3 grid(static_cast<unsigned>((items + kGateWarps - 1) / kGateWarps),
                  static_cast<unsigned>(members));
  const bool done = with_pairs(a, wide, [&](auto pairs) {
    wide_gate_fwd_kernel<pairs.value><<<grid, kGateThreads, 0, stream>>>(a);
  });
  if (!done) gate_fwd_kernel<<<grid, kGateThreads, 0, stream>>>(a);
  check_launch("mamba2_scan gate");
}

void launch_gate_backward(const Mamba2Args& a, bool wide, int members, CUstream_st* stream) {
  const auto blocks = static_cast<unsigned>(a.norm_blocks);
  const bool done = with_pairs(a, wide, [&](auto pairs) {
    const dim3 grid(blocks * static_cast<unsigned>(a.dims.ngroups), static_cast<unsigned>(members));
    wide_gate_bwd_kernel<pairs.value><<<grid, kGateThreads, 0, stream>>>(a);
  });
  if (!done) {
    const int bytes = kGateWarps * a.dims.nheads * a.dims.headdim * 4;
    check(cudaFuncSetAttribute(gate_bwd_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
          "mamba2_scan_bwd gate");
    const dim3 grid(blocks, static_cast<unsigned>(members));
    gate_bwd_kernel<<<grid, kGateThreads, static_cast<size_t>(bytes), stream>>>(a);
  }
  check_launch("mamba2_scan_bwd gate");
}

}  // namespace statelab::cuda

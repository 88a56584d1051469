// out_proj_loss:  h_b = x_bp + out_proj y_b at sequence b's supervised position p, then head_loss's equations (head_loss.cu) of h,
//                 dy = dh out_proj,  dout_proj = sum of dh^T y,  dx = dh at p, zero elsewhere
// shapes          y, dy (batch, d_inner); out_proj (d, d_inner); x, dx (batch, seqlen, d); norm (d); head (width, d)
//
// Everything is linear in dloss / supervised, so this kernel leaves that factor out and the second (out_proj_sums.cu), which knows
// how many sequences have a target, puts it in and sums over the sequences. A block has a few of them: a warp holds eight rows of
// out_proj in registers, for y's product and again for dh's, and between them a sequence is one warp's, whose lanes own columns of
// h or classes. Blocks behind these clear dx.
//   launch    grid x: runs of sequences, then of dx; y: members
//   traffic   y and a row of x of each sequence, dy, dx; dh, u and dlogits to the workspace; out_proj and head once a block
//   numerics  products and sums in fp32 in every precision, exponentials and the loss's sums in double, as cross_entropy
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/loss.cuh"
#include "kernels/cuda/out_proj_loss.cuh"

namespace statelab::cuda {
namespace {

constexpr int kHeldRows = 8;         // of out_proj, a warp
constexpr int64_t kCleared = 16384;  // numbers of dx a block

/// Classes that lie in memory: whole vectors of four.
int pitch_of(int classes) { return (classes + 3) / 4 * 4; }
/// Columns of out_proj a lane, and sequences a block.
__host__ __device__ constexpr int rows_of_block(int columns) { return columns > 4 ? 2 : 4; }

/// Floats from row to row of the head in shared memory: eight lanes, a row each, read 16 bytes from different banks.
__host__ __device__ constexpr int head_stride(int d) { return d + 4; }

/// The head's place, later that of the warps' shares of dy, in floats.
__host__ __device__ inline int shared_head(int pitch, int d, int warps, int rows, int d_inner) {
  const int head = pitch * head_stride(d), shares = warps * rows * d_inner;
  return head > shares ? head : shares;
}

/// The last position with a target, -1 without one; all lanes of a warp take part.
__device__ __forceinline__ int last_target(const int32_t* targets, int seqlen, int lane) {
  int at = -1;
  for (int first = lane; first < seqlen; first += 32 * kAtOnce) {
    int held[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      held[i] = first + 32 * i < seqlen ? __ldg(targets + first + 32 * i) : -1;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (held[i] >= 0) at = first + 32 * i;
    }
  }
  return __reduce_max_sync(kAllLanes, at);
}

template <int kThreads>
__device__ __forceinline__ void clear_dx(const OutProjLoss& p, int64_t block) {
  const int64_t size = static_cast<int64_t>(p.batch) * p.seqlen * p.d, begin = block * kCleared,
                end = min(begin + kCleared, size);
  float* const dx = p.dx.at(blockIdx.y);
  for (int64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * kThreads)
    *reinterpret_cast<float4*>(dx + i) = make_float4(0, 0, 0, 0);
}

/// The head's classes, and zeros up to the pitch, to shared memory; a warp every kWarps-th.
template <int kWarps>
__device__ __forceinline__ void load_head(const OutProjLoss& p, float* to, int warp, int lane) {
  if (4 * lane >= p.d) return;
  const float* const from = p.head.at(blockIdx.y) + 4 * lane;
  for (int first = warp; first < p.pitch; first += kAtOnce * kWarps) {
    float row[kAtOnce][4] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = first + i * kWarps;
      if (v < p.classes) load_columns(row[i], from + v * p.d);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int v = first + i * kWarps;
      if (v < p.pitch) store_columns(to + v * head_stride(p.d) + 4 * lane, row[i]);
    }
  }
}

/// kVs: classes a lane.
template <int kWarps, int kCols, int kVs>
__global__ void __launch_bounds__(kWarps * 32) sequences_to_gradients(const OutProjLoss p) {
  constexpr int kThreads = kWarps * 32, kRows = rows_of_block(kCols), kN = kWarps * kHeldRows,
                kOwn = kN / 32;
  extern __shared__ __align__(16) float memory[];
  __shared__ int found[kRows];
  const unsigned member = blockIdx.y;
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
  if (static_cast<int>(blockIdx.x) >= p.blocks) {
    clear_dx<kThreads>(p, static_cast<int64_t>(blockIdx.x) - p.blocks);
    return;
  }
  float* const head = memory;
  float* const rows =
      memory + shared_head(p.pitch, p.d, kWarps, kRows, p.d_inner);  // (kRows, kN): h, then dh
  float* const us = rows + kRows * kN;
  float* const dnorms = us + kRows * kN;
  float* const dlogits = dnorms + kRows * kN;  // (kRows, pitch)

  const int first = static_cast<int>(blockIdx.x) * kRows, row = first + warp;
  const bool has_row = warp < kRows && row < p.batch;
  const int column = lane * kCols, own = lane * kOwn;
  const bool inside = column < p.d_inner, owns = own < p.d;
  float weight[kHeldRows][kCols] = {}, y[kRows][kCols] = {};
  const float* const out_proj = p.out_proj.at(member);
#pragma unroll
  for (int i = 0; i < kHeldRows; ++i) {
    const int n = warp * kHeldRows + i;
    if (inside && n < p.d)
      load_columns(weight[i], out_proj + static_cast<int64_t>(n) * p.d_inner + column);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (inside && first + r < p.batch)
      load_columns(y[r], p.y.at(member) + static_cast<int64_t>(first + r) * p.d_inner + column);
  }
  float x[kOwn] = {}, w[kOwn] = {};
  int target = -1;
  if (has_row) {
    if (owns) load_columns(w, p.norm.at(member) + own);
    const int32_t* const targets = p.targets.at(member) + static_cast<int64_t>(row) * p.seqlen;
    const int at = last_target(targets, p.seqlen, lane);
    if (at >= 0) {
      target = __ldg(targets + at);
      if (owns)
        load_columns(x, p.x.at(member) + (static_cast<int64_t>(row) * p.seqlen + at) * p.d + own);
    }
    if (lane == 0) p.positions.at(member)[row] = found[warp] = at;
  } else if (warp < kRows) {
    if (lane == 0) found[warp] = -1;
  }
  if (warp >= kRows) load_head<kWarps - kRows>(p, head, warp - kRows, lane);
  {
    constexpr int kSums = kHeldRows * kRows, kSame = 32 / kSums;
    float share[kSums];
#pragma unroll
    for (int i = 0; i < kHeldRows; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        share[i * kRows + r] = 0;
#pragma unroll
        for (int k = 0; k < kCols; ++k) share[i * kRows + r] += weight[i][k] * y[r][k];
      }
    }
    const float sum = sums_by_lane<kSums>(share, lane);
    const int mine = lane / kSame;
    if (lane % kSame == 0) rows[mine % kRows * kN + warp * kHeldRows + mine / kRows] = sum;
  }
  __syncthreads();

  if (warp < kRows) {
    float dh[kOwn] = {}, u[kOwn] = {}, dnorm[kOwn] = {};
    float* const dlogit = dlogits + warp * p.pitch;
    double top_minus_right = 0, sum = 1;
    int right = 0;
    if (target >= 0) {
      float h[kOwn];
      load_columns(h, rows + warp * kN + own);
      float squares = 0;
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        h[k] += x[k];
        squares += h[k] * h[k];
      }
      const float inv = 1.0f / sqrtf(lanes_sum<32>(squares) / static_cast<float>(p.d) + p.eps);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) u[k] = w[k] * (h[k] * inv);
      store_columns(us + warp * kN + own, u);
      __syncwarp();
      float part[kVs][4] = {};
      const float* heads[kVs];
#pragma unroll
      for (int j = 0; j < kVs; ++j)
        heads[j] = head + min(lane + 32 * j, p.pitch - 1) * head_stride(p.d);
#pragma unroll 8
      for (int c = 0; c < p.d; c += 4) {
        const float4 a = *reinterpret_cast<const float4*>(us + warp * kN + c);
#pragma unroll
        for (int j = 0; j < kVs; ++j) {
          const float4 b = *reinterpret_cast<const float4*>(heads[j] + c);
          part[j][0] += a.x * b.x, part[j][1] += a.y * b.y;
          part[j][2] += a.z * b.z, part[j][3] += a.w * b.w;
        }
      }
      // The answer is the first argmax; a NaN wins only from the first column.
      const float infinity = __int_as_float(0x7F800000);
      float logit[kVs], of_target = 0;
      Best best{-infinity, p.classes};
#pragma unroll
      for (int j = 0; j < kVs; ++j) {
        const int v = lane + 32 * j;
        logit[j] = (part[j][0] + part[j][1]) + (part[j][2] + part[j][3]);
        if (target / 32 == j) of_target = logit[j];
        const float value = isnan(logit[j]) ? v == 0 ? infinity : -infinity : logit[j];
        if (v < p.classes && (best.at == p.classes || value > best.value)) best = {value, v};
      }
#pragma unroll
      for (int d = 16; d >= 1; d /= 2) best = better(best, d);
      of_target = __shfl_sync(kAllLanes, of_target, target % 32);
      double e[kVs];
      sum = 0;
#pragma unroll
      for (int j = 0; j < kVs; ++j) {
        e[j] = lane + 32 * j < p.classes
                   ? exp(static_cast<double>(logit[j]) - static_cast<double>(best.value))
                   : 0;
        sum += e[j];
      }
      sum = lanes_sum<32>(sum);
      top_minus_right = static_cast<double>(best.value) - static_cast<double>(of_target);
      right = best.at == target ? 1 : 0;
      const double inverse = 1 / sum;
#pragma unroll
      for (int j = 0; j < kVs; ++j) {
        const int v = lane + 32 * j;
        if (v < p.pitch) dlogit[v] = static_cast<float>(e[j] * inverse - (v == target ? 1 : 0));
      }
      __syncwarp();
      float g[kOwn] = {};
      const int from = owns ? own : 0;
#pragma unroll 4
      for (int v = 0; v < p.pitch; v += 4) {
        float d[4];
        load_columns(d, dlogit + v);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float b[kOwn];
          load_columns(b, head + (v + i) * head_stride(p.d) + from);
#pragma unroll
          for (int k = 0; k < kOwn; ++k) g[k] += d[i] * b[k];
        }
      }
      float dot = 0;
#pragma unroll
      for (int k = 0; k < kOwn; ++k) dot += g[k] * w[k] * h[k];
      dot = lanes_sum<32>(dot) * inv / static_cast<float>(p.d);
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        const float normed = h[k] * inv;
        dnorm[k] = g[k] * normed;
        dh[k] = inv * (g[k] * w[k] - normed * dot);
      }
    } else {
#pragma unroll 1
      for (int v = lane; v < p.pitch; v += 32) dlogit[v] = 0;
      __syncwarp();
    }
    store_columns(rows + warp * kN + own, dh);
    store_columns(dnorms + warp * kN + own, dnorm);
    if (has_row) {
      if (owns) {
        store_columns(p.dh.at(member) + static_cast<int64_t>(row) * p.d + own, dh);
        store_columns(p.u.at(member) + static_cast<int64_t>(row) * p.d + own, u);
      }
#pragma unroll 1
      for (int v = lane; v < p.pitch; v += 32)
        p.dlogits.at(member)[static_cast<int64_t>(row) * p.pitch + v] = dlogit[v];
      double* const terms = p.terms.at(member) + 3 * static_cast<int64_t>(row);
      if (lane == 0) terms[0] = top_minus_right, terms[1] = sum, terms[2] = right;
    }
  }
  __syncthreads();

  {
    float back[kRows][kCols] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float dh[kHeldRows];
      load_columns(dh, rows + r * kN + warp * kHeldRows);
#pragma unroll
      for (int i = 0; i < kHeldRows; ++i) {
#pragma unroll
        for (int k = 0; k < kCols; ++k) back[r][k] += dh[i] * weight[i][k];
      }
      if (inside) store_columns(memory + (warp * kRows + r) * p.d_inner + column, back[r]);
    }
  }
  if (tid < p.d) {
    float sum = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum += dnorms[r * kN + tid];
    p.parts.at(member)[static_cast<int64_t>(blockIdx.x) * p.d + tid] = sum;
  }
  if (tid == 0) {
    int count = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) count += found[r] >= 0 ? 1 : 0;
    p.counts.at(member)[blockIdx.x] = count;
  }
  __syncthreads();
  float* const dy = p.dy.at(member);
  if (dy == nullptr) return;
  const int here = min(kRows, p.batch - first) * p.d_inner;
  for (int i = 4 * tid; i < here; i += 4 * kThreads) {
    float sum[4] = {};
#pragma unroll
    for (int s = 0; s < kWarps; ++s) {
      float share[4];
      load_columns(share, memory + s * kRows * p.d_inner + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] += share[k];
    }
    store_columns(dy + static_cast<int64_t>(first) * p.d_inner + i, sum);
  }
}

// ---- launch

int columns_of_lane(int d_inner) { return d_inner <= 128 ? 4 : 8; }
int blocks_of(int batch, int d_inner) {
  return static_cast<int>(ceil_div(batch, rows_of_block(columns_of_lane(d_inner))));
}

struct Workspace {
  int64_t positions, counts, terms, dh, u, dlogits, parts, bytes = 0;  // where they begin
  Workspace(int batch, int d, int d_inner, int classes) {
    const int64_t rows = batch, blocks = blocks_of(batch, d_inner);
    auto take = [this](int64_t size) {
      const int64_t at = bytes;
      bytes += ceil_div(size, 64) * 64;
      return at;
    };
    positions = take(rows * 4);
    counts = take(blocks * 4);
    terms = take(rows * 3 * 8);
    dh = take(rows * d * 4);
    u = take(rows * d * 4);
    dlogits = take(rows * pitch_of(classes) * 4);
    parts = take(blocks * d * 4);
  }
};

Workspace workspace_of(const Shape& out_proj, const Shape& targets, const HeadLossAttrs& a) {
  return Workspace(targets[0], out_proj[0], out_proj[1], a.classes);
}
int64_t workspace_bytes(const CallShapes& c) {
  return workspace_of(c.in[1]->shape, c.in[5]->shape, c.attrs<HeadLossAttrs>()).bytes;
}

std::string limit(const CallShapes& c) {
  const Shape& out_proj = c.in[1]->shape;
  const int d = out_proj[0], d_inner = out_proj[1], classes = c.attrs<HeadLossAttrs>().classes;
  if (d <= kLargestD && d_inner <= kLargestInner && classes <= kMostClasses && d % 4 == 0 &&
      d_inner % columns_of_lane(d_inner) == 0)
    return {};
  return "out_proj " + out_proj.text() + " and " + std::to_string(classes) +
         " classes do not fit a block";
}

template <int kWarps, int kCols, int kVs>
void start(const OutProjLoss& p, int64_t clearing, int members, CUstream_st* stream) {
  constexpr int kRows = rows_of_block(kCols);
  const int floats = shared_head(p.pitch, p.d, kWarps, kRows, p.d_inner) +
                     kRows * (3 * kWarps * kHeldRows + p.pitch),
            bytes = floats * static_cast<int>(sizeof(float));
  const auto kernel = sequences_to_gradients<kWarps, kCols, kVs>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  kernel<<<member_grid(p.blocks + clearing, members), kWarps * 32, static_cast<size_t>(bytes),
           stream>>>(p);
  check_launch("out_proj_loss");
}

template <int kWarps, int kCols>
void start(const OutProjLoss& p, int64_t clearing, int members, CUstream_st* stream) {
  p.classes <= 32 ? start<kWarps, kCols, 1>(p, clearing, members, stream)
                  : start<kWarps, kCols, kMostClasses / 32>(p, clearing, members, stream);
}

void launch(const CudaCall& call, CUstream_st* stream) {
  const Shape &out_proj = *call.in[1].shape, &targets = *call.in[5].shape;
  const auto& a = call.attrs<HeadLossAttrs>();
  const Workspace w = workspace_of(out_proj, targets, a);
  auto part_of_workspace = [&](int64_t at) {
    return Operand{call.workspace.data + at, call.workspace.stride_bytes, nullptr};
  };
  OutProjLoss p{};
  p.y = slices<const float>(call.in[0]), p.out_proj = slices<const float>(call.in[1]);
  p.x = slices<const float>(call.in[2]), p.norm = slices<const float>(call.in[3]);
  p.head = slices<const float>(call.in[4]), p.targets = slices<const int32_t>(call.in[5]);
  p.dloss = slices<const float>(call.in[6]);
  p.loss = slices<float>(call.out[0]), p.accuracy = slices<float>(call.out[1]);
  p.dy = slices<float>(call.out[2]), p.dout_proj = slices<float>(call.out[3]);
  p.dx = slices<float>(call.out[4]), p.dnorm = slices<float>(call.out[5]);
  p.dhead = slices<float>(call.out[6]);
  p.positions = slices<int32_t>(part_of_workspace(w.positions));
  p.counts = slices<int32_t>(part_of_workspace(w.counts));
  p.terms = slices<double>(part_of_workspace(w.terms));
  p.dh = slices<float>(part_of_workspace(w.dh)), p.u = slices<float>(part_of_workspace(w.u));
  p.dlogits = slices<float>(part_of_workspace(w.dlogits));
  p.parts = slices<float>(part_of_workspace(w.parts));
  p.batch = targets[0], p.seqlen = targets[1], p.d = out_proj[0], p.d_inner = out_proj[1];
  p.classes = a.classes, p.width = (*call.in[4].shape)[0], p.pitch = pitch_of(a.classes);
  p.blocks = blocks_of(p.batch, p.d_inner), p.eps = static_cast<float>(a.eps);
  const int64_t clearing = p.dx.data == nullptr ? 0 : ceil_div(targets.size() * p.d, kCleared);
  const bool few = p.d <= 64, narrow = columns_of_lane(p.d_inner) == 4;
  if (narrow) {
    few ? start<8, 4>(p, clearing, call.members, stream)
        : start<16, 4>(p, clearing, call.members, stream);
  } else {
    few ? start<8, 8>(p, clearing, call.members, stream)
        : start<16, 8>(p, clearing, call.members, stream);
  }
  launch_out_proj_sums(p, call.members, stream);
}

}  // namespace

CudaKernel out_proj_loss_kernel() { return {workspace_bytes, launch, limit}; }

}  // namespace statelab::cuda

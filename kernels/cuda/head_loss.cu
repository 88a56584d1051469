// head_loss:  u = h r norm,  logits = u head^T,  loss = mean over rows with target >= 0 of lse - logit[target],
//             dlogits = dloss / supervised (exp(logit - lse) - onehot),  du = dlogits head,  dhead = sum of dlogits^T u,
//             dh = r (du norm - h r mean(du norm h) r),  dnorm = sum of du h r,  r = (mean h^2 + eps)^(-1/2)
// shapes      h, dh (rows, d); norm (d); head (width, d), logits beyond `classes` are not computed; targets (rows)
//
// A warp holds a row of h: a lane has kCols columns of it and, after a butterfly over the products' shares, one logit. The head lies
// in shared memory, the warp's shares of dhead and dnorm in registers. Only rows with a target are read; of the others dh is
// zero. A first kernel counts the targets by runs, a third sums what the blocks have.
//   launch    grid x: runs of rows, y: members
//   traffic   h of supervised rows, dh; a part of dhead and dnorm per run
//   numerics  products and sums in fp32 in every precision, exponentials and the loss's sums in double, as cross_entropy
#include <stdexcept>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/loss.cuh"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kFinishThreads = 1024;

struct HeadArgs {
  Slices<const float> h, norm, head, dloss;
  Slices<const int32_t> targets;
  Slices<float> dh, loss, accuracy;
  Slices<int32_t> counts;  // (kCountRuns) supervised rows
  Slices<double> sums;     // (runs, 3): loss, correct, supervised
  Slices<float> parts;     // (runs, width * d + d): dhead, dnorm
  int64_t rows, run, runs, count_runs;
  int d, width, classes;
  float eps;
};

template <int kV, int kCols>
__global__ void __launch_bounds__(kThreads) head_rows(const HeadArgs p) {
  constexpr int kColumns = 32 * kCols, kLanesOfOne = 32 / kV;
  __shared__ __align__(16) float head[kV][kColumns];
  __shared__ float sums[kV + 1][kColumns];  // dhead, dnorm
  __shared__ double loss_sums[3][kWarps], scale;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned member = blockIdx.y;
  for (int i = static_cast<int>(threadIdx.x); i < kV * kColumns; i += kThreads) {
    const int v = i / kColumns, c = i % kColumns;
    head[v][c] = v < p.classes && c < p.d ? __ldg(p.head.at(member) + v * p.d + c) : 0.0f;
  }
  if (warp == 0) {
    const double mean = loss_scale(p.dloss.at(member), p.counts.at(member), p.count_runs, lane);
    if (lane == 0) scale = mean;
  }
  const int column = lane * kCols;
  const bool inside = column < p.d;
  const bool stores = inside && p.dh.data != nullptr;
  float w[kCols] = {};
  if (inside) load_columns(w, p.norm.at(member) + column);
  __syncthreads();

  // A warp takes a share of the run, 32 rows at a time: a lane has one target.
  const int64_t begin = blockIdx.x * p.run + warp * (p.run / kWarps),
                end = min(begin + p.run / kWarps, p.rows);
  const float* h = p.h.at(member) + column;
  float* dh = stores ? p.dh.at(member) + column : nullptr;
  const int mine = lane / kLanesOfOne;  // this lane's logit
  float dhead[kV][kCols] = {}, dnorm[kCols] = {};
  double loss = 0, correct = 0, count = 0;
  for (int64_t first = begin; first < end; first += 32) {
    const int here = static_cast<int>(min(int64_t{32}, end - first));
    const int held = lane < here ? __ldg(p.targets.at(member) + first + lane) : -1;
    const unsigned supervised = __ballot_sync(kAllLanes, held >= 0);
    for (int r = 0; r < here; ++r) {
      const float zeros[kCols] = {};
      if (stores && (supervised >> r & 1) == 0) store_columns(dh + (first + r) * p.d, zeros);
    }
    for (unsigned left = supervised; left != 0; left &= left - 1) {
      const int r = __ffs(static_cast<int>(left)) - 1;
      const int target = __shfl_sync(kAllLanes, held, r);
      const int64_t at = (first + r) * p.d;
      float x[kCols] = {}, u[kCols], g[kCols] = {};
      if (inside) load_columns(x, h + at);
      float squares = 0;
#pragma unroll
      for (int k = 0; k < kCols; ++k) squares += x[k] * x[k];
      const float inv = 1.0f / sqrtf(lanes_sum<32>(squares) / static_cast<float>(p.d) + p.eps);
#pragma unroll
      for (int k = 0; k < kCols; ++k) u[k] = w[k] * (x[k] * inv);
      float share[kV];
#pragma unroll
      for (int v = 0; v < kV; ++v) {
        float row[kCols];
        load_columns(row, &head[v][column]);
        share[v] = 0;
#pragma unroll
        for (int k = 0; k < kCols; ++k) share[v] += u[k] * row[k];
      }
      const float logit = sums_by_lane<kV>(share, lane);
      // The answer is the first argmax; a NaN wins only from the first column.
      const float infinity = __int_as_float(0x7F800000);
      Best best{-infinity, p.classes};
      if (mine < p.classes) best = {isnan(logit) ? mine == 0 ? infinity : -infinity : logit, mine};
#pragma unroll
      for (int d = 16; d >= kLanesOfOne; d /= 2) best = better(best, d);
      const double e =
          mine < p.classes ? exp(static_cast<double>(logit) - static_cast<double>(best.value)) : 0;
      double sum = e;
#pragma unroll
      for (int d = 16; d >= kLanesOfOne; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
      const float right = __shfl_sync(kAllLanes, logit, target * kLanesOfOne);
      if (lane == 0) {
        loss += static_cast<double>(best.value) + log(sum) - static_cast<double>(right);
        correct += best.at == target ? 1 : 0;
        count += 1;
      }
      const float dlogit = mine < p.classes
                               ? static_cast<float>(scale * (e / sum - (mine == target ? 1 : 0)))
                               : 0.0f;
#pragma unroll
      for (int v = 0; v < kV; ++v) {
        const float d = __shfl_sync(kAllLanes, dlogit, v * kLanesOfOne);
        float row[kCols];
        load_columns(row, &head[v][column]);
#pragma unroll
        for (int k = 0; k < kCols; ++k) {
          g[k] += d * row[k];
          dhead[v][k] += d * u[k];
        }
      }
      float dot = 0;
#pragma unroll
      for (int k = 0; k < kCols; ++k) dot += g[k] * w[k] * x[k];
      dot = lanes_sum<32>(dot) * inv / static_cast<float>(p.d);
#pragma unroll
      for (int k = 0; k < kCols; ++k) {
        const float normed = x[k] * inv;
        dnorm[k] += g[k] * normed;
        g[k] = inv * (g[k] * w[k] - normed * dot);
      }
      if (stores) store_columns(dh + at, g);
    }
  }
  // The warps in order.
  if (lane == 0)
    loss_sums[0][warp] = loss, loss_sums[1][warp] = correct, loss_sums[2][warp] = count;
  for (int s = 0; s < kWarps; ++s) {
    if (warp == s) {
#pragma unroll
      for (int k = 0; k < kCols; ++k) {
#pragma unroll
        for (int v = 0; v < kV; ++v)
          sums[v][column + k] = s == 0 ? dhead[v][k] : sums[v][column + k] + dhead[v][k];
        sums[kV][column + k] = s == 0 ? dnorm[k] : sums[kV][column + k] + dnorm[k];
      }
    }
    __syncthreads();
  }
  if (threadIdx.x < 3) {
    double total = 0;
    for (int s = 0; s < kWarps; ++s) total += loss_sums[threadIdx.x][s];
    p.sums.at(member)[3 * static_cast<int64_t>(blockIdx.x) + threadIdx.x] = total;
  }
  float* part = p.parts.at(member) + static_cast<int64_t>(blockIdx.x) * (p.width + 1) * p.d;
  for (int i = static_cast<int>(threadIdx.x); i < (p.width + 1) * p.d; i += kThreads) {
    const int v = i / p.d, c = i % p.d;
    part[i] = v == p.width ? sums[kV][c] : v < kV ? sums[v][c] : 0.0f;
  }
}

/// The last block of a member has the loss, the others 32 columns of the parts each.
__global__ void __launch_bounds__(kFinishThreads)
    finish_head(const HeadArgs p, const RunSums parts) {
  __shared__ double shared[3][kFinishThreads / 32];
  if (blockIdx.x + 1 < gridDim.x) {
    sum_columns(parts);
  } else {
    mean_of_sums<kFinishThreads>(p.sums.at(blockIdx.y), p.runs, p.loss.at(blockIdx.y),
                                 p.accuracy.at(blockIdx.y), shared);
  }
}

// ---- launch

Runs head_runs(int64_t rows) { return Runs(rows, 512, 64); }

struct Workspace {
  int64_t counts, sums, parts, bytes;  // where they begin
  Workspace(int64_t rows, int width, int d) {
    const int64_t runs = head_runs(rows).count;
    counts = 0;
    sums = counts + kCountRuns * static_cast<int64_t>(sizeof(int32_t));
    parts = sums + runs * 3 * static_cast<int64_t>(sizeof(double));
    bytes = parts + runs * (width + 1) * d * static_cast<int64_t>(sizeof(float));
  }
};

int64_t workspace_bytes(const CallShapes& c) {
  const Shape& head = c.in[2]->shape;
  return Workspace(c.in[3]->shape.size(), head[0], head[1]).bytes;
}

/// Columns a lane: kVs times kCols registers hold a warp's share of dhead.
int columns_of_lane(int d) {
  int columns = 1;
  while (32 * columns < d) columns *= 2;
  return columns;
}
int logits_held(int classes) { return classes <= 8 ? 8 : classes <= 16 ? 16 : 32; }

std::string limit(const CallShapes& c) {
  const int d = c.in[0]->shape.last(), classes = c.attrs<HeadLossAttrs>().classes,
            columns = columns_of_lane(d);
  if (classes <= 32 && columns <= 8 && d % columns == 0 && logits_held(classes) * columns <= 64)
    return {};
  return "a head of " + std::to_string(classes) + " classes by " + std::to_string(d) +
         " does not fit a warp";
}

template <int kV, int kCols>
void launch_rows(const HeadArgs& p, int members, CUstream_st* stream) {
  head_rows<kV, kCols><<<member_grid(p.runs, members), kThreads, 0, stream>>>(p);
  check_launch("head_loss");
}

template <int kV>
void launch_rows(const HeadArgs& p, int members, CUstream_st* stream) {
  switch (columns_of_lane(p.d)) {
    case 1:
      return launch_rows<kV, 1>(p, members, stream);
    case 2:
      return launch_rows<kV, 2>(p, members, stream);
    case 4:
      if constexpr (kV <= 16) return launch_rows<kV, 4>(p, members, stream);
      break;
    case 8:
      if constexpr (kV <= 8) return launch_rows<kV, 8>(p, members, stream);
      break;
  }
  throw std::logic_error("head_loss: no kernel for a head that limit() lets pass");
}

void launch(const CudaCall& call, CUstream_st* stream) {
  const Shape& head = *call.in[2].shape;
  const Workspace w(call.in[3].shape->size(), head[0], head[1]);
  auto part_of_workspace = [&](int64_t at) {
    return Operand{call.workspace.data + at, call.workspace.stride_bytes, nullptr};
  };
  HeadArgs p{};
  p.h = slices<const float>(call.in[0]), p.norm = slices<const float>(call.in[1]);
  p.head = slices<const float>(call.in[2]), p.targets = slices<const int32_t>(call.in[3]);
  p.dloss = slices<const float>(call.in[4]);
  p.loss = slices<float>(call.out[0]), p.accuracy = slices<float>(call.out[1]);
  p.dh = slices<float>(call.out[2]);
  p.counts = slices<int32_t>(part_of_workspace(w.counts));
  p.sums = slices<double>(part_of_workspace(w.sums));
  p.parts = slices<float>(part_of_workspace(w.parts));
  p.rows = call.in[3].shape->size(), p.d = head[1], p.width = head[0];
  const auto& a = call.attrs<HeadLossAttrs>();
  p.classes = a.classes, p.eps = static_cast<float>(a.eps);
  const Runs runs = head_runs(p.rows);
  p.run = runs.size, p.runs = runs.count, p.count_runs = count_runs(p.rows).count;
  launch_count("head_loss", p.targets, p.counts, p.rows, call.members, stream);
  const int held = logits_held(p.classes);
  if (held == 8) {
    launch_rows<8>(p, call.members, stream);
  } else if (held == 16) {
    launch_rows<16>(p, call.members, stream);
  } else {
    launch_rows<32>(p, call.members, stream);
  }
  const int64_t width = head.size() + p.d;
  const RunSums parts{{p.parts.data, p.parts.stride},
                      width,
                      p.runs,
                      {slices<float>(call.out[4]), slices<float>(call.out[3])},
                      {0, head.size()}};
  finish_head<<<member_grid(ceil_div(width, 32) + 1, call.members), kFinishThreads, 0, stream>>>(
      p, parts);
  check_launch("head_loss");
}

}  // namespace

CudaKernel head_loss_kernel() { return {workspace_bytes, launch, limit}; }

}  // namespace statelab::cuda

// global_norm's last sum, schedule, guard, metrics, advance: a block takes a member through them. Equations and order of operations
// are those of kernels/cpu/optimizer.cpp.
#include <algorithm>
#include <string>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/member_ops.cuh"
#include "kernels/cuda/member_ops.h"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMaxStages = 32;

struct NormArgs {
  Slices<const double> sums;
  int64_t count;
  Slices<float> norm;
};

struct ScheduleArgs {
  Slices<const int32_t> step;
  Slices<const double> settings;
  Slices<double> lr;
  ScheduleAttrs::Kind kind;
  double warmup;
  int stages;
  int64_t begins[kMaxStages], lengths[kMaxStages];
};

struct GuardArgs {
  Slices<const float> loss, norm;
  Slices<const int32_t> step;
  Slices<int32_t> diverged_at;
};

struct MetricsArgs {
  Slices<const float> loss, accuracy, norm;
  Slices<const double> lr;
  Slices<const int32_t> diverged_at;
  Slices<double> window;
};

struct AdvanceArgs {
  Slices<int32_t> step, optimizer_step;
};

/// Ops in order, each at most once; global_norm, which all threads share, comes first.
constexpr int kMaxOps = 5;
struct MemberArgs {
  int count;
  Op ops[kMaxOps];
  NormArgs norm;
  ScheduleArgs schedule;
  GuardArgs guard;
  MetricsArgs metrics;
  AdvanceArgs advance;
};
static_assert(sizeof(MemberArgs) <= 4096);

/// The square root of the sums' sum, in double.
__device__ void take_root(const NormArgs& p, unsigned m) {
  __shared__ double shared[kWarps];
  const double* from = p.sums.at(m);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += from[i];
  sum = block_sum<kThreads>(sum, shared);
  float* norm = p.norm.at(m);
  if (threadIdx.x == 0 && norm != nullptr) norm[0] = static_cast<float>(sqrt(sum));
}

__device__ double schedule_factor(const ScheduleArgs& a, int64_t step) {
  int stage = 0;
  while (stage + 1 < a.stages && step >= a.begins[stage + 1]) ++stage;
  const double at = static_cast<double>(step - a.begins[stage]),
               span = static_cast<double>(a.lengths[stage]);
  const double warmup = floor(a.warmup * span);
  if (at < warmup) return (at + 1) / warmup;
  const double share = span > warmup ? (at - warmup) / (span - warmup) : 1.0;
  const double progress = share < 1.0 ? share : 1.0;
  switch (a.kind) {
    case ScheduleAttrs::Kind::kCosine:
      return 0.5 * (1 + cos(3.14159265358979323846 * progress));
    case ScheduleAttrs::Kind::kLinear:
      return 1 - progress;
    case ScheduleAttrs::Kind::kConstant:
      return 1;
  }
  return 1;
}

__device__ void set_rate(const ScheduleArgs& p, unsigned m) {
  if (double* lr = p.lr.at(m))
    lr[0] = p.settings.at(m)[kSettingLr] * schedule_factor(p, p.step.at(m)[0]);
}

__device__ void guard(const GuardArgs& p, unsigned m) {
  const bool finite = isfinite(p.loss.at(m)[0]) && isfinite(p.norm.at(m)[0]);
  if (p.diverged_at.at(m)[0] < 0 && !finite) p.diverged_at.at(m)[0] = p.step.at(m)[0];
}

__device__ void add_metrics(const MetricsArgs& p, unsigned m) {
  if (p.diverged_at.at(m)[0] >= 0) return;  // keeps the window of its last finite steps
  double* w = p.window.at(m);
  w[kWindowSteps] += 1;
  w[kWindowLoss] += static_cast<double>(p.loss.at(m)[0]);
  w[kWindowAccuracy] += static_cast<double>(p.accuracy.at(m)[0]);
  w[kWindowNorm] += static_cast<double>(p.norm.at(m)[0]);
  w[kWindowLr] = p.lr.at(m)[0];
}

__device__ void advance(const AdvanceArgs& p, unsigned m) {
  p.step.at(m)[0] += 1;
  p.optimizer_step.at(m)[0] += 1;
}

/// One block a member; thread 0 sees what it has written itself.
__global__ void __launch_bounds__(kThreads) member_ops(const __grid_constant__ MemberArgs p) {
  const unsigned m = blockIdx.x;
  if (p.ops[0] == Op::kGlobalNorm) take_root(p.norm, m);
  if (threadIdx.x != 0) return;
  for (int i = 0; i < p.count; ++i) {
    switch (p.ops[i]) {
      case Op::kSchedule:
        set_rate(p.schedule, m);
        break;
      case Op::kGuard:
        guard(p.guard, m);
        break;
      case Op::kMetrics:
        add_metrics(p.metrics, m);
        break;
      case Op::kAdvance:
        advance(p.advance, m);
        break;
      default:
        break;
    }
  }
}

// ---- launch

ScheduleArgs schedule_args(const CudaCall& call) {
  const auto& a = call.attrs<ScheduleAttrs>();
  ScheduleArgs p{};
  p.step = slices<const int32_t>(call.in[0]), p.settings = slices<const double>(call.in[1]);
  p.lr = slices<double>(call.out[0]);
  p.kind = a.kind, p.warmup = a.warmup;
  p.stages = static_cast<int>(std::min(a.begins.size(), size_t{kMaxStages}));
  std::copy_n(a.begins.begin(), p.stages, p.begins);
  std::copy_n(a.lengths.begin(), p.stages, p.lengths);
  return p;
}

std::string limit_schedule(const CallShapes& c) {
  const size_t stages = c.attrs<ScheduleAttrs>().begins.size();
  if (stages <= kMaxStages) return {};
  return "a schedule has at most " + std::to_string(kMaxStages) +
         " stages on a CUDA device, this one has " + std::to_string(stages);
}

}  // namespace

void launch_member_op(const CudaCall& call, CUstream_st* stream) {
  launch_member_ops({&call, 1}, stream);
}

CudaKernel schedule_kernel() { return {nullptr, launch_member_op, limit_schedule}; }
CudaKernel guard_kernel() { return {nullptr, launch_member_op, nullptr}; }
CudaKernel metrics_kernel() { return {nullptr, launch_member_op, nullptr}; }
CudaKernel advance_kernel() { return {nullptr, launch_member_op, nullptr}; }

}  // namespace statelab::cuda

namespace statelab {

size_t cuda_member_ops(std::span<const CudaCall> calls) {
  size_t count = 0;
  auto has = [&](Op op) {
    return std::any_of(calls.begin(), calls.begin() + static_cast<std::ptrdiff_t>(count),
                       [&](const CudaCall& call) { return call.op == op; });
  };
  for (; count < calls.size(); ++count) {
    const Op op = calls[count].op;
    const bool one = op == Op::kSchedule || op == Op::kGuard || op == Op::kMetrics ||
                     op == Op::kAdvance || (op == Op::kGlobalNorm && count == 0);
    if (!one || has(op)) break;
  }
  return count;
}

void launch_member_ops(std::span<const CudaCall> calls, CUstream_st* stream) {
  using cuda::slices;
  cuda::MemberArgs p{};
  for (const CudaCall& call : calls) {
    const auto in = call.in;
    p.ops[p.count++] = call.op;
    switch (call.op) {
      case Op::kGlobalNorm:
        p.norm = {slices<const double>(call.workspace), cuda::launch_norm_sums(call, stream),
                  slices<float>(call.out[0])};
        break;
      case Op::kSchedule:
        p.schedule = cuda::schedule_args(call);
        break;
      case Op::kGuard:
        p.guard = {slices<const float>(in[0]), slices<const float>(in[1]),
                   slices<const int32_t>(in[2]), slices<int32_t>(in[3])};
        break;
      case Op::kMetrics:
        p.metrics = {slices<const float>(in[0]),   slices<const float>(in[1]),
                     slices<const float>(in[2]),   slices<const double>(in[3]),
                     slices<const int32_t>(in[4]), slices<double>(in[5])};
        break;
      default:
        p.advance = {slices<int32_t>(in[0]), slices<int32_t>(in[1])};
    }
  }
  cuda::member_ops<<<static_cast<unsigned>(calls[0].members), cuda::kThreads, 0, stream>>>(p);
  cuda::check_launch(op_name(calls[0].op));
}

}  // namespace statelab

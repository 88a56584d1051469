// global_norm, schedule, guard, adamw, metrics, advance: what follows the gradients in a training step.
#include <cmath>
#include <numbers>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"
#include "kernels/fault.h"

namespace statelab::cpu {
namespace {

int one_block(const CallShapes&) { return 1; }

/// Sum of squares in double, in runs of 4096 elements.
template <class S>
double sum_of_squares(const S* p, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += 4096) {
    const int64_t m = std::min<int64_t>(4096, n - i);
    total += static_cast<double>(row(p + i, m).square().sum());
  }
  return total;
}

template <class S>
void run_global_norm(const Call& call, int member, int, S*) {
  double total = 0;
  for (const Operand& g : call.in) total += sum_of_squares(g.at<const S>(member), g.shape->size());
  call.out[0].at<S>(member)[0] = static_cast<S>(std::sqrt(total));
}

double schedule_factor(const ScheduleAttrs& a, int64_t step) {
  size_t stage = 0;
  while (stage + 1 < a.begins.size() && step >= a.begins[stage + 1]) ++stage;
  const double at = static_cast<double>(step - a.begins[stage]),
               span = static_cast<double>(a.lengths[stage]);
  const double warmup = std::floor(a.warmup * span);
  if (at < warmup) return (at + 1) / warmup;
  const double progress = span > warmup ? std::min(1.0, (at - warmup) / (span - warmup)) : 1.0;
  switch (a.kind) {
    case ScheduleAttrs::Kind::kCosine:
      return 0.5 * (1 + std::cos(std::numbers::pi * progress));
    case ScheduleAttrs::Kind::kLinear:
      return 1 - progress;
    case ScheduleAttrs::Kind::kConstant:
      return 1;
  }
  return 1;
}

template <class S>
void run_schedule(const Call& call, int member, int, S*) {
  const int32_t step = call.in[0].at<const int32_t>(member)[0];
  const double lr = call.in[1].at<const double>(member)[kSettingLr];
  call.out[0].at<double>(member)[0] = lr * schedule_factor(call.attrs<ScheduleAttrs>(), step);
}

template <class S>
void run_guard(const Call& call, int member, int, S*) {
  int32_t* diverged_at = call.in[3].at<int32_t>(member);
  const bool finite = std::isfinite(call.in[0].at<const S>(member)[0]) &&
                      std::isfinite(call.in[1].at<const S>(member)[0]);
  if (*diverged_at < 0 && !finite) *diverged_at = call.in[2].at<const int32_t>(member)[0];
}

int blocks_adamw(const CallShapes& c) {
  return static_cast<int>(c.attrs<AdamWAttrs>().decays.size());
}

template <class S>
void run_adamw(const Call& call, int member, int block, S*) {
  if (call.in[4].at<const int32_t>(member)[0] >= 0) return;  // frozen
  const double* settings = call.in[3].at<const double>(member);
  const double norm = static_cast<double>(call.in[0].at<const S>(member)[0]);
  const double lr = call.in[1].at<const double>(member)[0];
  const double t = static_cast<double>(call.in[2].at<const int32_t>(member)[0]) + 1;
  const double b1 = settings[kSettingBeta1], b2 = settings[kSettingBeta2],
               clip = settings[kSettingClipNorm];
  const double scale = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
  const bool decays = call.attrs<AdamWAttrs>().decays[static_cast<size_t>(block)];
  const size_t first = 5 + 4 * static_cast<size_t>(block);
  const int64_t n = call.in[first].shape->size();
  auto w = row(call.in[first].at<S>(member), n), m = row(call.in[first + 1].at<S>(member), n),
       v = row(call.in[first + 2].at<S>(member), n);
  const auto grad = row(call.in[first + 3].at<const S>(member), n);
  const S g_scale = static_cast<S>(scale), c1 = static_cast<S>(1 - b1), c2 = static_cast<S>(1 - b2);
  if (decays) w *= static_cast<S>(1 - lr * settings[kSettingWeightDecay]);
  m = static_cast<S>(b1) * m + c1 * (g_scale * grad);
  v = static_cast<S>(b2) * v + c2 * (g_scale * grad).square();
  const double correction1 = 1 - std::pow(b1, t), correction2 = std::sqrt(1 - std::pow(b2, t));
  w -= static_cast<S>(lr / correction1) * m /
       (v.sqrt() / static_cast<S>(correction2) + static_cast<S>(settings[kSettingEps]));
}

template <class S>
void run_metrics(const Call& call, int member, int, S*) {
  if (call.in[4].at<const int32_t>(member)[0] >= 0)
    return;  // a diverged member keeps the window of its last finite steps
  double* w = call.in[5].at<double>(member);
  w[kWindowSteps] += 1;
  w[kWindowLoss] += static_cast<double>(call.in[0].at<const S>(member)[0]);
  w[kWindowAccuracy] += static_cast<double>(call.in[1].at<const S>(member)[0]);
  w[kWindowNorm] += static_cast<double>(call.in[2].at<const S>(member)[0]);
  w[kWindowLr] = call.in[3].at<const double>(member)[0];
}

template <class S>
void run_advance(const Call& call, int member, int, S*) {
  call.in[0].at<int32_t>(member)[0] += 1;
  call.in[1].at<int32_t>(member)[0] += 1;
}

// ---- draw -----------------------------------------------------------------------------------------------------------

Partition draw_rows(int batch) { return Partition::of(batch, 32, 1); }
int blocks_draw(const CallShapes& c) { return draw_rows(c.attrs<DrawAttrs>().batch).parts; }

template <class S>
void run_draw(const Call& call, int member, int block, S*) {
  const auto& a = call.attrs<DrawAttrs>();
  const auto step = static_cast<uint32_t>(call.in[0].at<const int32_t>(member)[0]);
  const Partition part = draw_rows(a.batch);
  for (int64_t b = part.begin(block); b < part.end(block); ++b) {
    const auto n = static_cast<size_t>(a.seqlen);
    (*call.draw)(member, step, static_cast<uint32_t>(b),
                 {call.out[0].at<int32_t>(member) + b * a.seqlen, n},
                 {call.out[1].at<int32_t>(member) + b * a.seqlen, n});
  }
}

}  // namespace

template <class S>
CpuKernel<S> global_norm_kernel() {
  return {.blocks = one_block, .run = run_global_norm<S>};
}
template <class S>
CpuKernel<S> schedule_kernel() {
  return {.blocks = one_block, .run = run_schedule<S>};
}
template <class S>
CpuKernel<S> guard_kernel() {
  return {.blocks = one_block, .run = run_guard<S>};
}
template <class S>
CpuKernel<S> adamw_kernel() {
  return {.blocks = blocks_adamw, .run = run_adamw<S>};
}
template <class S>
CpuKernel<S> metrics_kernel() {
  return {.blocks = one_block, .run = run_metrics<S>};
}
template <class S>
CpuKernel<S> advance_kernel() {
  return {.blocks = one_block, .run = run_advance<S>};
}
template <class S>
CpuKernel<S> draw_kernel() {
  return {.blocks = blocks_draw, .run = run_draw<S>};
}
#define STATELAB_INSTANTIATE(kernel)  \
  template CpuKernel<float> kernel(); \
  template CpuKernel<double> kernel();
STATELAB_INSTANTIATE(global_norm_kernel)
STATELAB_INSTANTIATE(schedule_kernel)
STATELAB_INSTANTIATE(guard_kernel)
STATELAB_INSTANTIATE(adamw_kernel)
STATELAB_INSTANTIATE(metrics_kernel)
STATELAB_INSTANTIATE(advance_kernel)
STATELAB_INSTANTIATE(draw_kernel)
#undef STATELAB_INSTANTIATE

}  // namespace statelab::cpu

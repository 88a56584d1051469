// select: the rows at which the sequences are supervised; select_bwd puts their cotangents back among zeros.
#include <algorithm>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/position.h"

namespace statelab::cpu {
namespace {

int blocks(const CallShapes&) { return 1; }

template <class T>
void pick(const Call& call, int member, int64_t width) {
  const Shape& targets = *call.in[1].shape;
  const auto* of = call.in[1].at<const int32_t>(member);
  const T* x = call.in[0].at<const T>(member);
  T* y = call.out[0].at<T>(member);
  for (int64_t b = 0; b < targets[0]; ++b) {
    const int64_t t = supervised_position(of + b * targets[1], targets[1]);
    std::copy_n(x + (b * targets[1] + t) * width, width, y + b * width);
  }
}

template <class S>
void run(const Call& call, int member, int, S*) {
  const Shape& x = *call.in[0].shape;
  if (x.rank() == 2) {
    pick<int32_t>(call, member, 1);
  } else {
    pick<S>(call, member, x.last());
  }
}

template <class S>
void run_bwd(const Call& call, int member, int, S*) {
  const Shape& targets = *call.in[1].shape;
  const auto* of = call.in[1].at<const int32_t>(member);
  const int64_t width = call.in[0].shape->last();
  const S* dy = call.in[0].at<const S>(member);
  S* dx = call.out[0].at<S>(member);
  std::fill_n(dx, targets.size() * width, S(0));
  for (int64_t b = 0; b < targets[0]; ++b) {
    const int64_t t = supervised_position(of + b * targets[1], targets[1]);
    std::copy_n(dy + b * width, width, dx + (b * targets[1] + t) * width);
  }
}

}  // namespace

template <class S>
CpuKernel<S> select_kernel() {
  return {.blocks = blocks, .run = run<S>};
}
template <class S>
CpuKernel<S> select_bwd_kernel() {
  return {.blocks = blocks, .run = run_bwd<S>};
}
template CpuKernel<float> select_kernel();
template CpuKernel<double> select_kernel();
template CpuKernel<float> select_bwd_kernel();
template CpuKernel<double> select_bwd_kernel();

}  // namespace statelab::cpu

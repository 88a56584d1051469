// constant, add and swiglu: elementwise ops without reductions.
#include <cmath>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernels.h"
#include "kernels/fault.h"

namespace statelab::cpu {
namespace {

constexpr int64_t kRun = 1 << 14;  // elements per block, a multiple of every packet
Partition elements(int64_t n) { return Partition::of(n, 1 << 20, kRun); }

int one_block(const CallShapes&) { return 1; }
int blocks_add(const CallShapes& c) { return elements(c.out[0].shape.size()).parts; }

template <class S>
void run_constant(const Call& call, int member, int, S*) {
  call.out[0].at<S>(member)[0] = static_cast<S>(call.attrs<ConstantAttrs>().value);
}

template <class S>
void run_add(const Call& call, int member, int block, S*) {
  const Partition part = elements(call.out[0].shape->size());
  const int64_t begin = part.begin(block), n = part.end(block) - begin;
  row(call.out[0].at<S>(member) + begin, n) = row(call.in[0].at<const S>(member) + begin, n) +
                                              row(call.in[1].at<const S>(member) + begin, n);
}

Partition rows_of(int64_t rows) { return Partition::of(rows, 32, 64); }
int blocks_swiglu(const CallShapes& c) { return rows_of(c.in[0]->shape.rows()).parts; }

template <class S>
void run_swiglu(const Call& call, int member, int block, S*) {
  const Shape& shape = *call.in[0].shape;
  const int F = shape.last() / 2;
  const Partition part = rows_of(shape.rows());
  for (int64_t r = part.begin(block); r < part.end(block); ++r) {
    const S* ug = call.in[0].at<const S>(member) + r * 2 * F;
    const auto g = row(ug + F, F);
    row(call.out[0].at<S>(member) + r * F, F) = row(ug, F) * g / (S(1) + (-g).exp());
  }
}

template <class S>
void run_swiglu_bwd(const Call& call, int member, int block, S*) {
  const Shape& shape = *call.in[1].shape;
  const int F = shape.last() / 2;
  const Partition part = rows_of(shape.rows());
  for (int64_t r = part.begin(block); r < part.end(block); ++r) {
    const S* ug = call.in[1].at<const S>(member) + r * 2 * F;
    const auto dy = row(call.in[0].at<const S>(member) + r * F, F);
    const auto u = row(ug, F);
    const auto g = row(ug + F, F);
    auto du = row(call.out[0].at<S>(member) + r * 2 * F, F);
    auto dg = row(call.out[0].at<S>(member) + r * 2 * F + F, F);
    dg = S(1) / (S(1) + (-g).exp());
    du = dy * g * dg;
    if (STATELAB_FAULT(swiglu_gate_gradient)) {
      dg = dy * u * dg;
    } else {
      dg = dy * u * dg * (S(1) + g * (S(1) - dg));
    }
  }
}

}  // namespace

template <class S>
CpuKernel<S> constant_kernel() {
  return {.blocks = one_block, .run = run_constant<S>};
}
template <class S>
CpuKernel<S> add_kernel() {
  return {.blocks = blocks_add, .run = run_add<S>};
}
template <class S>
CpuKernel<S> swiglu_kernel() {
  return {.blocks = blocks_swiglu, .run = run_swiglu<S>};
}
template <class S>
CpuKernel<S> swiglu_bwd_kernel() {
  return {.blocks = blocks_swiglu, .run = run_swiglu_bwd<S>};
}
template CpuKernel<float> constant_kernel();
template CpuKernel<double> constant_kernel();
template CpuKernel<float> add_kernel();
template CpuKernel<double> add_kernel();
template CpuKernel<float> swiglu_kernel();
template CpuKernel<double> swiglu_kernel();
template CpuKernel<float> swiglu_bwd_kernel();
template CpuKernel<double> swiglu_bwd_kernel();

}  // namespace statelab::cpu

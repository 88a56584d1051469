#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
template <class S>
CpuKernel<S> score_kernel() {
  return {};
}
template CpuKernel<float> score_kernel();
template CpuKernel<double> score_kernel();
}  // namespace statelab::cpu

#include <stdexcept>

#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
template <class S>
CpuKernel<S> lstm_kernel() {
  return {};
}
template CpuKernel<float> lstm_kernel();
template CpuKernel<double> lstm_kernel();
template <class S>
CpuKernel<S> lstm_bwd_kernel() {
  return {};
}
template CpuKernel<float> lstm_bwd_kernel();
template CpuKernel<double> lstm_bwd_kernel();
}  // namespace statelab::cpu

#include <stdexcept>

#include "kernels/cpu/kernels.h"

namespace statelab::cpu {
template <class S>
CpuKernel<S> gated_delta_scan_kernel() {
  return {};
}
template CpuKernel<float> gated_delta_scan_kernel();
template CpuKernel<double> gated_delta_scan_kernel();
}  // namespace statelab::cpu

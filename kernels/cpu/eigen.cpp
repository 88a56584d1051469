#include "kernels/cpu/eigen.h"

namespace statelab::cpu {

void fix_cache_sizes() {
  static const bool done = [] {
    Eigen::setCpuCacheSizes(32 * 1024, 512 * 1024, 4 * 1024 * 1024);
    return true;
  }();
  (void)done;
}

}  // namespace statelab::cpu

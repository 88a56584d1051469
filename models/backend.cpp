#include "models/backend.h"

#include <algorithm>

namespace statelab {

Backend::Backend(const ComputeDevice& device) : device_(device) {
  if (device.is_cuda()) {
    stream_ = std::make_unique<CudaStream>(device.index);
  } else {
    device_.precision = Precision::kFp32;
    pool_ = std::make_unique<ThreadPool>(std::max(device.threads, 1));
  }
}

void Backend::synchronize() {
  if (stream_ != nullptr) stream_->synchronize();
}

}  // namespace statelab

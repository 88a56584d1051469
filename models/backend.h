// Where programs compute, and what they compute with: a pool of threads or a stream of a CUDA device.
#pragma once

#include <memory>

#include "kernels/call.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/runtime.h"

namespace statelab {

/// A place that can compute, and its arithmetic. A number of threads stands for the CPU.
struct ComputeDevice {
  enum class Kind { kCpu, kCuda };
  Kind kind = Kind::kCpu;
  int threads = 1;                         ///< of the CPU; no number depends on it
  int index = 0;                           ///< of the CUDA device, as in `--device cuda:index`
  Precision precision = Precision::kFp32;  ///< on a CUDA device; the CPU always computes fp32

  ComputeDevice(int cpu_threads = 1) : threads(cpu_threads) {}
  static ComputeDevice cuda(int index, Precision precision = Precision::kFp32) {
    ComputeDevice device;
    device.kind = Kind::kCuda;
    device.index = index;
    device.precision = precision;
    return device;
  }
  bool is_cuda() const { return kind == Kind::kCuda; }
};

/// The threads or the stream of one device; outlives the stores and programs that use it. Belongs to one thread.
/// Errors: CudaError, also in a build without CUDA.
class Backend {
 public:
  explicit Backend(const ComputeDevice& device);

  const ComputeDevice& device() const { return device_; }
  ThreadPool& pool() { return *pool_; }           ///< of the CPU
  CudaStream* stream() { return stream_.get(); }  ///< null on the CPU
  /// Waits for all work so far and reports its errors.
  void synchronize();

 private:
  ComputeDevice device_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<CudaStream> stream_;
};

}  // namespace statelab

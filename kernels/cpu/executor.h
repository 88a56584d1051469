// Runs calls block by block on a thread pool.
#pragma once

#include <vector>

#include "kernels/cpu/kernel.h"
#include "kernels/cpu/thread_pool.h"

namespace statelab {

/// A call with what it needs to run: its kernel, its number of blocks, where its workspace is.
template <class S>
struct PreparedCall {
  Call call;
  const CpuKernel<S>* kernel = nullptr;
  int blocks = 1;
};

template <class S>
class Executor {
 public:
  explicit Executor(ThreadPool& pool) : pool_(&pool) {}

  /// Scratch of this many elements must be available to every running block.
  void reserve_scratch(int64_t elements);

  /// Runs the call for members 0..members-1. `active` (may be null) marks members to skip with false.
  void run(const PreparedCall<S>& prepared, int members, const std::vector<char>* active = nullptr);

 private:
  S* scratch(int thread);

  ThreadPool* pool_;
  int64_t scratch_elements_ = 0;
  std::vector<std::byte> scratch_memory_;
};

}  // namespace statelab

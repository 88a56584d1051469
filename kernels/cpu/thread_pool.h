// Runs independent blocks on a fixed number of threads. What a block computes never depends on which thread takes it,
// so results do not depend on the number of threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace statelab {

class ThreadPool {
 public:
  /// `threads` >= 1, the calling thread included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls work(block, thread) for block = 0..blocks-1, each once, in any order; returns when all are done.
  /// `work` must not throw.
  void parallel_for(int64_t blocks, const std::function<void(int64_t, int)>& work);

 private:
  void worker(int thread);
  void drain(int thread);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  int64_t blocks_ = 0;
  const std::function<void(int64_t, int)>* work_ = nullptr;
  std::atomic<bool> stop_{false};
};

}  // namespace statelab

#include "kernels/cpu/thread_pool.h"

#include <immintrin.h>

namespace statelab {
namespace {
// How long a thread looks for work before it sleeps: ops follow each other within microseconds while training.
constexpr int kSpins = 4000;
}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { worker(t); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    ++round_;
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::drain(int thread) {
  for (int64_t b = next_.fetch_add(1); b < blocks_; b = next_.fetch_add(1)) (*work_)(b, thread);
}

void ThreadPool::parallel_for(int64_t blocks, const std::function<void(int64_t, int)>& work) {
  if (workers_.empty() || blocks <= 1) {
    for (int64_t b = 0; b < blocks; ++b) work(b, 0);
    return;
  }
  blocks_ = blocks;
  work_ = &work;
  next_ = 0;
  busy_ = static_cast<int>(workers_.size());
  {
    std::lock_guard lock(mutex_);
    ++round_;
  }
  wake_.notify_all();
  drain(0);
  int spins = 0;
  while (busy_.load(std::memory_order_acquire) != 0) {
    if (++spins < kSpins) {
      _mm_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::worker(int thread) {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && round_.load(std::memory_order_acquire) == seen; ++spin)
      _mm_pause();
    if (round_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return round_.load() != seen; });
    }
    seen = round_.load(std::memory_order_acquire);
    if (stop_) return;
    drain(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace statelab

#include "kernels/cpu/executor.h"

#include "kernels/cpu/eigen.h"
#include "kernels/tensor.h"

namespace statelab {

template <class S>
void Executor<S>::reserve_scratch(int64_t elements) {
  cpu::fix_cache_sizes();
  if (elements <= scratch_elements_) return;
  scratch_elements_ = padded(elements + 16);
  scratch_memory_.resize(static_cast<size_t>(pool_->threads() * scratch_elements_) * sizeof(S) +
                         2 * kAlignment);
}

template <class S>
S* Executor<S>::scratch(int thread) {
  const auto base = (reinterpret_cast<uintptr_t>(scratch_memory_.data()) + kAlignment - 1) /
                    kAlignment * kAlignment;
  return reinterpret_cast<S*>(base) + thread * scratch_elements_;
}

template <class S>
void Executor<S>::run(const PreparedCall<S>& p, int members, const std::vector<char>* active) {
  std::vector<int> live;
  for (int m = 0; m < members; ++m) {
    if (active == nullptr || (*active)[static_cast<size_t>(m)]) live.push_back(m);
  }
  pool_->parallel_for(static_cast<int64_t>(live.size()) * p.blocks, [&](int64_t task, int thread) {
    const int member = live[static_cast<size_t>(task / p.blocks)];
    p.kernel->run(p.call, member, static_cast<int>(task % p.blocks), scratch(thread));
  });
  if (p.kernel->finish != nullptr) {
    pool_->parallel_for(static_cast<int64_t>(live.size()), [&](int64_t task, int) {
      p.kernel->finish(p.call, live[static_cast<size_t>(task)]);
    });
  }
}

template class Executor<float>;
template class Executor<double>;

}  // namespace statelab

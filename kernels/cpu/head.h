// Norm, head, loss and their gradients of one row: what head_loss and out_proj_loss share.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/cpu/eigen.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/loss.h"

namespace statelab::cpu {

/// Scratch elements of a Head of this shape (width, d).
inline int64_t head_scratch(const Shape& head) { return 2 * padded(head[1]) + padded(head[0]); }

template <class S>
class Head {
 public:
  /// Operands norm, head, targets and dloss of the call begin at `first`; `supervised` rows have a target.
  Head(const Call& call, int member, size_t first, int64_t supervised, S* scratch)
      : attrs_(call.attrs<HeadLossAttrs>()),
        width_((*call.in[first + 1].shape)[0]),
        n_((*call.in[first + 1].shape)[1]),
        scale_(static_cast<double>(call.in[first + 3].at<const S>(member)[0]) /
               static_cast<double>(std::max<int64_t>(supervised, 1))),
        norm_(call.in[first].at<const S>(member)),
        head_(call.in[first + 1].at<const S>(member)),
        scratch_(scratch) {}

  /// Of a row h (d) with a target: adds to sums, dnorm (d) and dhead (width, d), writes dh (d).
  void add_row(const S* h, int target, LossSums& sums, S* dnorm, S* dhead, S* dh) const {
    const auto x = row(h, n_), w = row(norm_, n_);
    auto u = row(scratch_, n_), g = row(scratch_ + padded(n_), n_);
    S* const logits = scratch_ + 2 * padded(n_);
    const S inv = S(1) / std::sqrt(x.square().sum() / S(n_) + S(attrs_.eps));
    u = x * inv * w;
    for (int v = 0; v < width_; ++v) logits[v] = (row(head_ + v * n_, n_) * u).sum();
    const double lse = logsumexp(logits, attrs_.classes);
    sums.loss += lse - static_cast<double>(logits[target]);
    sums.correct += argmax(logits, attrs_.classes) == target ? 1 : 0;
    sums.count += 1;
    g.setZero();
    for (int v = 0; v < attrs_.classes; ++v) {
      const auto d = static_cast<S>(
          scale_ * (std::exp(static_cast<double>(logits[v]) - lse) - (v == target ? 1.0 : 0.0)));
      g += d * row(head_ + v * n_, n_);
      row(dhead + v * n_, n_) += d * u;
    }
    row(dnorm, n_) += g * x * inv;
    row(dh, n_) = inv * (g * w - x * inv * ((g * w * x).sum() * inv / S(n_)));
  }

 private:
  const HeadLossAttrs& attrs_;
  int width_, n_;
  double scale_;
  const S *norm_, *head_;
  S* scratch_;
};

}  // namespace statelab::cpu

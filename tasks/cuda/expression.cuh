// A warp's draw of a flat expression; the meaning is draw_flat_expression() of tasks/draw/expression.h.
//
// Lane j draws pair base + j: digit d at t = 2 (base + j), the operator at t + 1. A digit after its operator maps the state
// (sum, term) to
//   * d   (sum, d term)              + d   (sum + term, d)              - d   (sum + term, -d)
// and maps of the form (sum, c term) or (sum + a term + b, c) are closed under composition, so a scan over the lanes gives
// each its own state. All numbers are residues below m <= 2^15.
#pragma once

#include "tasks/cuda/row.cuh"

namespace statelab::device_draw {

/// closes = 0: (sum, c term);   closes = 1: (sum + a term + b, c).
struct ExpressionMap {
  unsigned closes, a, b, c;
};

/// The map `first`, then the map `second`.
__device__ inline ExpressionMap then(const ExpressionMap& first, const ExpressionMap& second,
                                     unsigned m) {
  if (second.closes == 0) return {first.closes, first.a, first.b, first.c * second.c % m};
  if (first.closes == 0) return {1, first.c * second.a % m, second.b, second.c};
  return {1, first.a, (first.b + second.a * first.c + second.b) % m, second.c};
}

/// All lanes must call it. Returns the label of the last data token.
__device__ inline int draw_flat_expression_data(const ExpressionParams& p, const SampleName& name,
                                                const WarpRow& row) {
  const int lane = threadIdx.x % kLanes;
  const int ntokens = row.ndata;
  const int pairs = (ntokens + 1) / 2;
  const auto m = static_cast<unsigned>(p.modulus);
  unsigned sum = 0, term = 0;
  int carried_op = kPlus, last_label = -1;
  for (int base = 0; base < pairs; base += kLanes) {
    const auto t = static_cast<uint32_t>(2 * (base + lane));
    const unsigned digit = bounded(philox(name.key, {t, name.sample, name.step, 0}).v[0], m);
    const int op =
        static_cast<int>(bounded(philox(name.key, {t + 1, name.sample, name.step, 0}).v[0],
                                 static_cast<uint32_t>(p.operators)));
    int op_before = __shfl_up_sync(kAllLanes, op, 1);
    if (lane == 0) op_before = carried_op;
    carried_op = __shfl_sync(kAllLanes, op, kLanes - 1);

    ExpressionMap map{1, 1, 0, digit};
    if (op_before == kTimes) {
      map = {0, 0, 0, digit};
    } else if (op_before == kMinus) {
      map.c = digit == 0 ? 0 : m - digit;
    }
    for (int step = 1; step < kLanes; step *= 2) {
      const ExpressionMap earlier{
          __shfl_up_sync(kAllLanes, map.closes, step), __shfl_up_sync(kAllLanes, map.a, step),
          __shfl_up_sync(kAllLanes, map.b, step), __shfl_up_sync(kAllLanes, map.c, step)};
      if (lane >= step) map = then(earlier, map, m);
    }
    const unsigned sum_here = map.closes == 0 ? sum : (sum + map.a * term + map.b) % m;
    const unsigned term_here = map.closes == 0 ? map.c * term % m : map.c;
    const int label = p.first_answer + static_cast<int>((sum_here + term_here) % m);

    const int position = static_cast<int>(t);
    if (position < ntokens) row.put(position, p.first_digit + static_cast<int>(digit), label);
    if (position + 1 < ntokens) row.put(position + 1, p.first_operator + op, label);
    sum = __shfl_sync(kAllLanes, sum_here, kLanes - 1);
    term = __shfl_sync(kAllLanes, term_here, kLanes - 1);
    last_label = __shfl_sync(kAllLanes, label, (pairs - 1) % kLanes);  // right in the last turn
  }
  return last_label;
}

}  // namespace statelab::device_draw

// How a profile lays out a row: what a length counts, what surrounds the data, what is supervised.
//
// Plain data and plain functions, compiled for host and device alike.
#pragma once

#include <cstdint>

#include "kernels/rng.h"

namespace statelab {

/// Both ends included; a *length* is what the profile reports, not the number of tokens (README).
struct LengthRange {
  int min = 3, max = 40;
};

struct SampleInfo {
  int length = 0;  ///< reported length, after the profile's rounding
  int tokens = 0;  ///< positions used, up to and including the last supervised one
};

/// Position words that no token uses.
constexpr uint32_t kLengthPosition = 0xFFFFFFFFu;   ///< the length of a sample (or of a step)
constexpr uint32_t kPatternPosition = 0xFFFFFFFEu;  ///< whether a whole string follows a pattern

/// Longest reported length; keeps start and size of a tree node in 16 bits each.
constexpr int kMaxLength = 65000;

enum class LengthRule : int32_t {
  kUniform,      ///< U{min..max}
  kOddByHalves,  ///< 2 U{(min+1) div 2 .. (max+1) div 2} - 1: may fall one below min
  kEven,         ///< uniform over the even numbers of the range
  kRoundUp,      ///< U{min..max}, odd numbers rounded up: may exceed max by one
  kRoundDown,    ///< U{min..max}, even numbers rounded down: may fall one below min
  kAtLeastFive,  ///< max(U{min..max}, 5)
};

/// A row is [BOS] data [end]. `length` becomes `length - overhead` data items of `tokens_per_item`.
struct Layout {
  LengthRule rule = LengthRule::kUniform;
  int32_t overhead = 0;  ///< counted in the length, but no data: the label, `=`, PAD
  int32_t tokens_per_item = 1;
  int32_t bos_token = -1;       ///< -1 = none
  int32_t bos_target = -1;      ///< -1 = BOS is not supervised
  int32_t end_token = -1;       ///< `=` or the query symbol, read with the final answer; -1 = none
  int32_t supervise_all = 0;    ///< 0 = the last position only
  int32_t length_per_step = 0;  ///< 1 = all samples of one step share one length
};

/// Number of equally likely outcomes of the length draw; <= 0 when the range holds none.
STATELAB_HOST_DEVICE inline int length_choices(LengthRule rule, LengthRange range) {
  if (rule == LengthRule::kOddByHalves) return (range.max + 1) / 2 - (range.min + 1) / 2 + 1;
  if (rule == LengthRule::kEven) return range.max / 2 - (range.min + 1) / 2 + 1;
  return range.max - range.min + 1;
}

/// Outcome `choice` (0 .. length_choices() - 1) of the length draw.
STATELAB_HOST_DEVICE inline int length_of_choice(LengthRule rule, LengthRange range, int choice) {
  const int uniform = range.min + choice;
  switch (rule) {
    case LengthRule::kOddByHalves:
      return 2 * ((range.min + 1) / 2 + choice) - 1;
    case LengthRule::kEven:
      return 2 * ((range.min + 1) / 2 + choice);
    case LengthRule::kRoundUp:
      return uniform + uniform % 2;
    case LengthRule::kRoundDown:
      return uniform - (uniform + 1) % 2;
    case LengthRule::kAtLeastFive:
      return uniform < 5 ? 5 : uniform;
    case LengthRule::kUniform:
      break;
  }
  return uniform;
}

STATELAB_HOST_DEVICE inline int draw_length(const Layout& layout, RngKey key, uint32_t step,
                                            uint32_t sample, LengthRange range) {
  const uint32_t who = layout.length_per_step != 0 ? 0u : sample;
  const uint32_t bits = philox(key, {kLengthPosition, who, step, 0}).v[0];
  const auto choices = static_cast<uint32_t>(length_choices(layout.rule, range));
  return length_of_choice(layout.rule, range, static_cast<int>(bounded(bits, choices)));
}

STATELAB_HOST_DEVICE inline int data_tokens(const Layout& layout, int length) {
  return (length - layout.overhead) * layout.tokens_per_item;
}

/// Positions of a sample of that reported length, BOS and end token included.
STATELAB_HOST_DEVICE inline int row_tokens(const Layout& layout, int length) {
  return data_tokens(layout, length) + (layout.bos_token >= 0 ? 1 : 0) +
         (layout.end_token >= 0 ? 1 : 0);
}

}  // namespace statelab

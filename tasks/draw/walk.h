// Draws of every task that is a finite automaton reading independent symbols: parity, even pairs,
// cycle navigation, group word problems, the tagging automata and a user's own tables.
#pragma once

#include <cstdint>

#include "tasks/draw/layout.h"

namespace statelab {

/// Automaton   q_0 = start,  q_{t+1} = next[q_t, x_t],  label_t = label[q_{t+1}].
/// Shapes:     next (nstates, nsymbols); label (nstates); draw_symbol (draws). Borrowed, not owned.
/// Symbols:    x_t = draw_symbol[U{0..draws-1}]; repeats there give unequal probabilities.
///             Token of symbol x: first_token + x.
struct WalkParams {
  int32_t nstates = 0, nsymbols = 0, draws = 0, start = 0;
  int32_t first_token = 0;
  const uint16_t* next = nullptr;
  const int32_t* label = nullptr;
  const uint16_t* draw_symbol = nullptr;
  int32_t filler_token = 0;   ///< follows each symbol when the layout has several tokens per item;
                              ///  -1 = the symbol itself, repeated
  int32_t final_symbol = -1;  ///< what the last item must be; -1 = drawn like the others
  int32_t alternate = 0;  ///< > 0: one string in `alternate` is 0 1 0 1 ..., the others are drawn
  int32_t resets = 0;     ///< > 0: symbols below `resets` come at position 0 and then after gaps
                          ///  2^j < T, uniform in j; the others at all other positions
  int32_t block = 0;      ///< > 0: see draw_blocked_walk(); one token per item
};

/// Powers of two below `n`; at least one.
STATELAB_HOST_DEVICE inline int powers_of_two_below(int n) {
  int count = 1;
  while ((1 << count) < n) ++count;
  return count;
}

/// Fills tokens[0 .. ntokens) and the running label of each. With c tokens per item a label comes
/// c - 1 positions late, on the item's last filler; the first c - 1 labels are those of the start.
STATELAB_HOST_DEVICE inline void draw_walk(const WalkParams& p, int tokens_per_item, RngKey key,
                                           uint32_t step, uint32_t sample, int ntokens,
                                           int32_t* tokens, int32_t* targets) {
  const int items = ntokens / tokens_per_item;
  const int delay = tokens_per_item - 1;
  const bool alternating =
      p.alternate > 0 && bounded(philox(key, {kPatternPosition, sample, step, 0}).v[0],
                                 static_cast<uint32_t>(p.alternate)) == 0;
  const auto gaps = static_cast<uint32_t>(powers_of_two_below(items));
  int state = p.start, next_reset = 0;
  for (int t = 0; t < delay && t < ntokens; ++t) targets[t] = p.label[state];
  for (int i = 0; i < items; ++i) {
    const RngBlock bits = philox(key, {static_cast<uint32_t>(i), sample, step, 0});
    int symbol = p.draw_symbol[bounded(bits.v[0], static_cast<uint32_t>(p.draws))];
    if (p.resets > 0) {
      const bool reset = i == next_reset;
      const int others = p.nsymbols - p.resets;
      const int kinds = reset ? p.resets : others;
      symbol = (reset ? 0 : p.resets) +
               static_cast<int>(bounded(bits.v[0], static_cast<uint32_t>(kinds)));
      if (reset) next_reset += 1 << bounded(bits.v[1], gaps);
    }
    if (alternating) symbol = i % 2;
    if (p.final_symbol >= 0 && i == items - 1) symbol = p.final_symbol;
    state = p.next[static_cast<int64_t>(state) * p.nsymbols + symbol];
    const int begin = i * tokens_per_item;
    tokens[begin] = p.first_token + symbol;
    const int filler = p.filler_token < 0 ? tokens[begin] : p.filler_token;
    for (int t = begin + 1; t <= begin + delay; ++t) tokens[t] = filler;
    for (int t = begin + delay; t <= begin + 2 * delay && t < ntokens; ++t) {
      targets[t] = p.label[state];
    }
  }
}

/// Groups only: states are symbols, next is the product, start the identity. The symbols that
/// draw_walk() would show are multiplied in blocks of p.block; a row has each block as its product
/// and then identities in place of its other symbols. The last block may be shorter. The label is
/// that of the product of the blocks that are complete at t.
STATELAB_HOST_DEVICE inline void draw_blocked_walk(const WalkParams& p, RngKey key, uint32_t step,
                                                   uint32_t sample, int ntokens, int32_t* tokens,
                                                   int32_t* targets) {
  int state = p.start, product = p.start;
  for (int t = 0; t < ntokens; ++t) {
    const RngBlock bits = philox(key, {static_cast<uint32_t>(t), sample, step, 0});
    const int symbol = p.draw_symbol[bounded(bits.v[0], static_cast<uint32_t>(p.draws))];
    product = p.next[static_cast<int64_t>(product) * p.nsymbols + symbol];
    const int place = t % p.block;
    tokens[t] = p.first_token + p.start;
    tokens[t - place] = p.first_token + product;  // so far
    if (place == p.block - 1) {
      state = p.next[static_cast<int64_t>(state) * p.nsymbols + product];
      product = p.start;
    }
    targets[t] = p.label[state];
  }
}

}  // namespace statelab

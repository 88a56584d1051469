// A warp's draw of an automaton's walk; the meaning is draw_walk() of tasks/draw/walk.h, item for item.
//   parallel  lane j draws symbol base + j and writes what belongs to it
//   serial    the states, q_{t+1} = next[q_t, x_t]: all lanes take the same steps and each keeps its own state. A step costs
//             one read of the table, which is why that should lie in shared memory.
#pragma once

#include "tasks/cuda/row.cuh"

namespace statelab::device_draw {

/// All lanes must call it. Returns the label of the last data token.
__device__ inline int draw_walk_data(const WalkParams& walk, int tokens_per_item,
                                     const SampleName& name, const WarpRow& row) {
  const int lane = threadIdx.x % kLanes;
  const int items = row.ndata / tokens_per_item;
  const bool alternating =
      walk.alternate > 0 &&
      bounded(philox(name.key, {kPatternPosition, name.sample, name.step, 0}).v[0],
              static_cast<uint32_t>(walk.alternate)) == 0;
  const auto gaps = static_cast<uint32_t>(powers_of_two_below(items));
  int state = walk.start, next_reset = 0;
  for (int base = 0; base < items; base += kLanes) {
    const int count = min(kLanes, items - base);
    const int i =
        base + lane;  // past the end in the last lanes: drawn, but neither walked nor written
    const RngBlock bits = philox(name.key, {static_cast<uint32_t>(i), name.sample, name.step, 0});
    int symbol;
    if (walk.resets > 0) {
      const int gap = 1 << bounded(bits.v[1], gaps);
      unsigned reset_lanes = 0;
      while (next_reset < base + count) {
        reset_lanes |= 1u << (next_reset - base);
        next_reset += __shfl_sync(kAllLanes, gap, next_reset - base);
      }
      const bool reset = (reset_lanes >> lane & 1) != 0;
      const int kinds = reset ? walk.resets : walk.nsymbols - walk.resets;
      symbol = (reset ? 0 : walk.resets) +
               static_cast<int>(bounded(bits.v[0], static_cast<uint32_t>(kinds)));
    } else {
      symbol = walk.draw_symbol[bounded(bits.v[0], static_cast<uint32_t>(walk.draws))];
    }
    if (alternating) symbol = i % 2;
    if (walk.final_symbol >= 0 && i == items - 1) symbol = walk.final_symbol;

    const int before = state;
    int reached = state;  // after this lane's item
#pragma unroll 8
    for (int j = 0; j < count; ++j) {
      const int x = __shfl_sync(kAllLanes, symbol, j);
      // States and symbols fit 16 bits, so the product fits 32 without a sign.
      state = walk.next[static_cast<uint32_t>(state) * static_cast<uint32_t>(walk.nsymbols) +
                        static_cast<uint32_t>(x)];
      if (j == lane) reached = state;
    }

    // Tokens base * c + k, k < count * c. Token k belongs to item k / c of the chunk and shows the state after the last
    // item that is complete there, (k + 1) / c - 1; -1 is the state before the chunk. The number of turns is the same in
    // all lanes, since they read from each other.
    const int ntokens = count * tokens_per_item;
    for (int first = 0; first < ntokens; first += kLanes) {
      const int k = first + lane;
      int item = k, complete = k;
      if (tokens_per_item > 1) {
        item = k / tokens_per_item;
        complete = (k + 1) / tokens_per_item - 1;
      }
      const int shown = __shfl_sync(kAllLanes, symbol, item);
      const int state_there = __shfl_sync(kAllLanes, reached, max(complete, 0));
      if (k < ntokens) {
        const bool is_filler = k != item * tokens_per_item && walk.filler_token >= 0;
        row.put(base * tokens_per_item + k,
                is_filler ? walk.filler_token : walk.first_token + shown,
                walk.label[complete < 0 ? before : state_there]);
      }
    }
  }
  return walk.label[state];
}

}  // namespace statelab::device_draw

// A warp's draw of a flip-flop string; the meaning is draw_flip_flop() of tasks/draw/flip_flop.h, pair for pair. Lane j draws
// pair base + j; what it reads is the bit of the nearest write at or before it, found in a vote.
#pragma once

#include "tasks/cuda/row.cuh"

namespace statelab::device_draw {

/// All lanes must call it. Returns the label of the last data token.
__device__ inline int draw_flip_flop_data(const FlipFlopParams& p, const SampleName& name,
                                          const WarpRow& row) {
  const int lane = threadIdx.x % kLanes;
  const int ntokens = row.ndata;
  const int pairs = (ntokens + 1) / 2;
  int carried = 0, last_label = -1;
  for (int base = 0; base < pairs; base += kLanes) {
    const int pair = base + lane, t = 2 * pair;
    const RngBlock bits = philox(name.key, {static_cast<uint32_t>(t), name.sample, name.step, 0});
    int instruction = kIgnoreToken;
    if (t == 0) {
      instruction = kWriteToken;
    } else if (t == ntokens - 1) {
      instruction = kReadToken;
    } else if (bits.v[0] >= p.ignore_threshold) {
      instruction = bounded(bits.v[1], 2) == 0 ? kWriteToken : kReadToken;
    }
    const int fair = static_cast<int>(bounded(bits.v[2], 2));
    const unsigned writes = __ballot_sync(kAllLanes, instruction == kWriteToken);
    const unsigned ones = __ballot_sync(kAllLanes, fair == 1);
    const unsigned so_far = writes & (kAllLanes >> (kLanes - 1 - lane));
    const int stored = so_far == 0 ? carried : static_cast<int>(ones >> (31 - __clz(so_far)) & 1);
    const int label = instruction == kReadToken ? kBitToken + stored : -1;
    const int bit = instruction == kReadToken ? stored : fair;
    if (t < ntokens) row.put(t, instruction, label);
    if (t + 1 < ntokens) row.put(t + 1, kBitToken + bit, -1);
    carried = __shfl_sync(kAllLanes, stored, kLanes - 1);
    last_label = __shfl_sync(kAllLanes, label, (pairs - 1) % kLanes);  // right in the last turn
  }
  return last_label;
}

}  // namespace statelab::device_draw

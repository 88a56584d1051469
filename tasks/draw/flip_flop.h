// Draws of the flip-flop language: pairs of an instruction (write, read, ignore) and a bit.
#pragma once

#include <cstdint>

#include "tasks/draw/layout.h"

namespace statelab {

constexpr int32_t kWriteToken = 0, kReadToken = 1, kIgnoreToken = 2, kBitToken = 3;

struct FlipFlopParams {
  uint64_t ignore_threshold =
      0;  ///< p_i * 2^32: an instruction is "ignore" when its bits are below
};

/// `ntokens` odd: pairs without the very last bit, which is the answer. First instruction w, last
/// r, the others i with p_i, else w or r alike. Bits after w and i are fair, the bit after r is the
/// last written one. The running label stands at each r, where the bit is predicted; other targets
/// are -1.
STATELAB_HOST_DEVICE inline void draw_flip_flop(const FlipFlopParams& p, RngKey key, uint32_t step,
                                                uint32_t sample, int ntokens, int32_t* tokens,
                                                int32_t* targets) {
  int stored = 0;
  for (int t = 0; t < ntokens; t += 2) {
    const RngBlock bits = philox(key, {static_cast<uint32_t>(t), sample, step, 0});
    int32_t instruction = kIgnoreToken;
    if (t == 0) {
      instruction = kWriteToken;
    } else if (t == ntokens - 1) {
      instruction = kReadToken;
    } else if (bits.v[0] >= p.ignore_threshold) {
      instruction = bounded(bits.v[1], 2) == 0 ? kWriteToken : kReadToken;
    }
    const int fair = static_cast<int>(bounded(bits.v[2], 2));
    const int bit = instruction == kReadToken ? stored : fair;
    if (instruction == kWriteToken) stored = bit;
    tokens[t] = instruction;
    targets[t] = instruction == kReadToken ? kBitToken + stored : -1;
    if (t + 1 < ntokens) {
      tokens[t + 1] = kBitToken + bit;
      targets[t + 1] = -1;
    }
  }
}

}  // namespace statelab

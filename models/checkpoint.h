// A member's state as bytes: weights, optimiser state and step counter in one safetensors file (safetensors.h).
//
//   names  = <parameter>                    weights, official module names, F32
//            optimizer.<parameter>.exp_avg, optimizer.<parameter>.exp_avg_sq     AdamW's moments, F32
//   __metadata__ = format "statelab-checkpoint-1", step, diverged_at, order (the weights' names in the state's
//                  order, commas between), and what the caller adds (strings only)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/safetensors.h"

namespace statelab {

/// Everything that training one member needs to go on to the bit.
struct MemberState {
  int64_t step = 0;          ///< training steps done
  int64_t diverged_at = -1;  ///< step whose loss or gradient was not finite; -1 while healthy
  std::vector<NamedTensor> weights;
  std::vector<NamedTensor> exp_avg, exp_avg_sq;  ///< same order and shapes as weights
};

/// Deterministic: equal states and metadata give equal bytes.
std::string to_safetensors(const MemberState& state, const Metadata& metadata);

/// Checks the format, names and dtypes. Throws std::runtime_error with the reason.
MemberState from_safetensors(std::string_view bytes, Metadata* metadata = nullptr);

}  // namespace statelab

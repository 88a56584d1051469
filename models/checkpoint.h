// A member's state as bytes: weights, optimiser state and step counter in one safetensors file.
//
//   file   = header_length (u64, little endian), header (JSON, padded with spaces to a multiple of 8), data
//   names  = <parameter>                    weights, official module names, F32
//            optimizer.<parameter>.exp_avg, optimizer.<parameter>.exp_avg_sq     AdamW's moments, F32
//   __metadata__ = format "statelab-checkpoint-1", step, diverged, and what the caller adds (strings only)
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace statelab {

/// A named array of one member, row-major.
struct NamedTensor {
  std::string name;
  std::vector<int> shape;
  std::vector<float> data;
};

/// Everything that training one member needs to go on to the bit.
struct MemberState {
  int64_t step = 0;          ///< training steps done
  int64_t diverged_at = -1;  ///< step whose loss or gradient was not finite; -1 while healthy
  std::vector<NamedTensor> weights;
  std::vector<NamedTensor> exp_avg, exp_avg_sq;  ///< same order and shapes as weights
};

using Metadata = std::map<std::string, std::string>;

/// Deterministic: equal states and metadata give equal bytes.
std::string to_safetensors(const MemberState& state, const Metadata& metadata);

/// Checks header size, names, dtypes, shapes, offsets (contiguous, in bounds). Throws std::runtime_error with the reason.
MemberState from_safetensors(std::string_view bytes, Metadata* metadata = nullptr);

}  // namespace statelab

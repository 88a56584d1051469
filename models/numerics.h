// The version of the numbers: part of every run's identity.
#pragma once

namespace statelab {

/// Raised whenever a change moves a bit of training or evaluation; a test pins the bits of each version.
inline constexpr int kNumericsVersion = 5;

}  // namespace statelab

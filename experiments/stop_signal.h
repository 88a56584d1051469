// Ctrl-C and friends: the first asks for a checkpoint, the second kills.
#pragma once

namespace statelab {

/// Handles SIGINT, SIGTERM and SIGUSR1 while it lives. A second SIGINT or SIGTERM acts as if it did not.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  /// The first signal that came, 0 = none.
  static int received();
};

}  // namespace statelab

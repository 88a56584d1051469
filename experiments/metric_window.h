// Means over a row of metrics, gathered read point by read point.
#pragma once

#include <cstdint>
#include <string>

#include "models/cohort.h"
#include "store/records.h"

namespace statelab {

class MetricWindow {
 public:
  /// Adds what a cohort read after `steps` more steps.
  void add(const TrainMetrics& metrics, int64_t steps);
  bool empty() const { return steps_ == 0; }
  /// The row of the window, which is empty afterwards.
  MetricRecord close(int64_t step);

  /// Text that restores the window to the bit: "steps loss accuracy grad_norm lr", shortest decimal forms.
  std::string to_text() const;
  /// Throws std::runtime_error.
  static MetricWindow from_text(const std::string& text);

 private:
  int64_t steps_ = 0;
  double loss_ = 0, accuracy_ = 0, grad_norm_ = 0;  // sums over steps
  double lr_ = 0;
};

}  // namespace statelab

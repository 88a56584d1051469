#include "experiments/metric_window.h"

#include <array>
#include <charconv>
#include <stdexcept>

namespace statelab {

void MetricWindow::add(const TrainMetrics& metrics, int64_t steps) {
  const auto n = static_cast<double>(steps);
  steps_ += steps;
  loss_ += metrics.loss * n;
  accuracy_ += metrics.accuracy * n;
  grad_norm_ += metrics.grad_norm * n;
  lr_ = metrics.lr;
}

MetricRecord MetricWindow::close(int64_t step) {
  const auto n = static_cast<double>(steps_);
  const MetricRecord row{step, loss_ / n, accuracy_ / n, grad_norm_ / n, lr_};
  *this = MetricWindow();
  return row;
}

std::string MetricWindow::to_text() const {
  std::string text = std::to_string(steps_);
  for (const double value : {loss_, accuracy_, grad_norm_, lr_}) {
    std::array<char, 32> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    text += ' ';
    text.append(digits.data(), end);
  }
  return text;
}

MetricWindow MetricWindow::from_text(const std::string& text) {
  MetricWindow window;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  auto result = std::from_chars(at, end, window.steps_);
  bool valid = result.ec == std::errc();
  for (double* value : {&window.loss_, &window.accuracy_, &window.grad_norm_, &window.lr_}) {
    valid = valid && result.ptr != end && *result.ptr == ' ';
    if (!valid) break;
    result = std::from_chars(result.ptr + 1, end, *value);
    valid = result.ec == std::errc();
  }
  if (!valid || result.ptr != end)
    throw std::runtime_error("checkpoint: window must be five numbers, is " + text);
  return window;
}

}  // namespace statelab

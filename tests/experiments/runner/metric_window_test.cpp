#include "experiments/metric_window.h"

#include <gtest/gtest.h>

#include <cmath>

namespace statelab {
namespace {

TrainMetrics metrics(double loss) {
  return {.step = 0, .loss = loss, .accuracy = 0.5, .grad_norm = 2, .lr = 0.001};
}

TEST(MetricWindow, ClosesToTheMeanOverStepsAndIsEmptyAfterwards) {
  MetricWindow window;
  window.add(metrics(1.0), 10);
  window.add(metrics(4.0), 5);
  const MetricRecord row = window.close(15);
  EXPECT_EQ(row.step, 15);
  EXPECT_EQ(row.loss, 2.0);
  EXPECT_EQ(row.lr, 0.001);
  EXPECT_TRUE(window.empty());
}

TEST(MetricWindow, TextRestoresItToTheBit) {
  MetricWindow window;
  window.add(metrics(1.0 / 3), 7);
  window.add(metrics(std::nextafter(0.1, 1)), 3);
  MetricWindow restored = MetricWindow::from_text(window.to_text());
  window.add(metrics(0.7), 10);
  restored.add(metrics(0.7), 10);
  EXPECT_EQ(window.to_text(), restored.to_text());
  EXPECT_EQ(window.close(20).loss, restored.close(20).loss);
}

TEST(MetricWindow, TextOfAnotherFormIsRefused) {
  for (const char* text : {"", "3", "3 1 2 3", "3 1 2 3 4 5", "x 1 2 3 4", "3  1 2 3 4"}) {
    EXPECT_THROW(MetricWindow::from_text(text), std::runtime_error) << text;
  }
}

}  // namespace
}  // namespace statelab

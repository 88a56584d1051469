#include "experiments/progress.h"

#include <gtest/gtest.h>

#include <regex>

namespace statelab {
namespace {

std::string written_by(ProgressMode mode, const std::function<void(ProgressSink&)>& use) {
  std::FILE* file = std::tmpfile();
  {
    const auto sink = terminal_progress(file, mode);
    use(*sink);
  }
  std::string text(4096, '\0');
  std::rewind(file);
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  return text;
}

CohortProgress cohort() {
  CohortProgress p;
  p.name = "parity";
  p.members = 4;
  p.diverged = 1;
  p.step = 50;
  p.total_steps = 200;
  p.steps_per_second = 12.5;
  p.seconds_left = 75;
  p.best_accuracy = 0.875;
  p.median_accuracy = 0.5;
  return p;
}

FinishedRun finished() {
  FinishedRun r;
  r.name = "parity-s0";
  r.status = "finished";
  r.steps = 200;
  r.length = 80;
  r.accuracy = 0.99;
  r.done = 3;
  r.total = 8;
  return r;
}

void everything(ProgressSink& sink) {
  sink.on_cohort_start(cohort());
  sink.on_progress(cohort());
  sink.on_run_finished(finished());
}

TEST(Progress, PipedOutputIsPlainLinesWithTheTime) {
  const std::string text = written_by(ProgressMode::kAuto, everything);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_TRUE(std::regex_match(
      text, std::regex("\\d\\d:\\d\\d:\\d\\d parity  4 runs  step 50/200  12.5 steps/s  1m15s left "
                       " accuracy best 0.875 median 0.500  "
                       "1 diverged\n\\d\\d:\\d\\d:\\d\\d \\[3/8\\] parity-s0: finished after 200 "
                       "steps, test accuracy 0.9900 at length 80\n")))
      << text;
}

TEST(Progress, BarIsRedrawnAtMostTenTimesASecondAndClearedBeforeMessages) {
  const std::string text = written_by(ProgressMode::kBar, [](ProgressSink& sink) {
    sink.on_cohort_start(cohort());
    for (int i = 0; i < 100; ++i) sink.on_progress(cohort());
    sink.on_message("something");
  });
  size_t draws = 0;
  for (size_t at = text.find("\r\033[Kparity"); at != std::string::npos;
       at = text.find("\r\033[Kparity", at + 1))
    ++draws;
  EXPECT_GE(draws, 1u);
  EXPECT_LE(draws, 3u);
  EXPECT_NE(text.find("\r\033[Ksomething\n"), std::string::npos) << text;
}

TEST(Progress, SilentModeStillShowsFailures) {
  const std::string text = written_by(ProgressMode::kNone, [](ProgressSink& sink) {
    everything(sink);
    FinishedRun failed = finished();
    failed.status = "failed";
    failed.error = "the reason";
    sink.on_run_finished(failed);
  });
  EXPECT_EQ(text, "[3/8] parity-s0: failed: the reason\n");
}

}  // namespace
}  // namespace statelab

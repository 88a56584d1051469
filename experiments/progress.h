// What a person sees while runs are computed. The runner reports to a sink; sinks decide what becomes of it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

namespace statelab {

struct CohortProgress {
  std::string name;  ///< of the first member, shortened by what differs
  int members = 0;   ///< still training
  int diverged = 0;  ///< so far, of those that started
  int64_t step = 0, total_steps = 0;
  double steps_per_second = 0;  ///< of the whole cohort; 0 = not known yet
  double seconds_left = -1;     ///< to the cohort's end, evaluations included; -1 = not known yet
  double best_accuracy = 0, median_accuracy = 0;  ///< over members, of the last few training steps
};

struct FinishedRun {
  std::string name, status;  ///< finished | diverged | failed
  int64_t steps = 0;
  int length = 0;               ///< of the score: the longest evaluated; 0 = there is none
  double accuracy = 0;          ///< on test data
  std::string error;            ///< of a failed run
  int64_t done = 0, total = 0;  ///< runs of the sweep that are final now, and all
};

class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void on_cohort_start(const CohortProgress&) {}
  virtual void on_progress(const CohortProgress&) {}
  virtual void on_run_finished(const FinishedRun&) {}
  virtual void on_message(const std::string&) {}
};

enum class ProgressMode { kAuto, kBar, kPlain, kNone };

/// Bar: one line redrawn at most ten times a second, cleared before anything else is written. Plain: a line at a
/// cohort's start, at each finished run and every 30 s, with the time of day. kAuto: bar on a terminal (TERM not dumb).
/// kNone: messages and failed runs only.
std::unique_ptr<ProgressSink> terminal_progress(std::FILE* out,
                                                ProgressMode mode = ProgressMode::kAuto);

}  // namespace statelab

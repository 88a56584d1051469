// The test program, which is also the worker that its tests start and kill: test_experiments_runner --worker DATABASE
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "experiments/stop_signal.h"
#include "store/error.h"
#include "tests/experiments/runner/lab_sweep.h"

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--worker") {
    const statelab::StopSignals signals;
    statelab::ProgressSink silent;
    statelab::RunnerOptions options = statelab::lab_options(argv[2]);
    options.stop_signal = statelab::StopSignals::received;
    try {
      return exit_code(run_all(statelab::lab_sweep(), statelab::SweepRecord{"lab", "lab", "[]", ""},
                               options, silent));
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      return 1;
    }
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

#include "experiments/stop_signal.h"

#include <signal.h>

namespace statelab {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR1};
volatile sig_atomic_t first_signal = 0;
struct sigaction previous[3];

void on_signal(int number) {
  if (first_signal == 0) {
    first_signal = number;
  } else if (number != SIGUSR1) {
    signal(number, SIG_DFL);
    raise(number);
  }
}

}  // namespace

StopSignals::StopSignals() {
  first_signal = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &action, &previous[i]);
}

StopSignals::~StopSignals() {
  for (int i = 0; i < 3; ++i) sigaction(kSignals[i], &previous[i], nullptr);
}

int StopSignals::received() { return first_signal; }

}  // namespace statelab

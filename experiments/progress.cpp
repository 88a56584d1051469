#include "experiments/progress.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <string_view>

namespace statelab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kRedrawInterval = std::chrono::milliseconds(100);
constexpr auto kPlainInterval = std::chrono::seconds(30);

std::string duration(double seconds) {
  if (seconds < 0) return "--";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

std::string describe(const CohortProgress& p) {
  std::string line = fmt::format("{}  {} {}  step {}/{}", p.name, p.members,
                                 p.members == 1 ? "run" : "runs", p.step, p.total_steps);
  if (p.steps_per_second > 0)
    line += fmt::format("  {:.3g} steps/s  {} left", p.steps_per_second, duration(p.seconds_left));
  if (p.step > 0)
    line += fmt::format("  accuracy best {:.3f} median {:.3f}", p.best_accuracy, p.median_accuracy);
  if (p.diverged > 0) line += fmt::format("  {} diverged", p.diverged);
  return line;
}

std::string describe(const FinishedRun& r) {
  std::string line = fmt::format("[{}/{}] {}: {}", r.done, r.total, r.name, r.status);
  if (r.status == "failed") return line + ": " + r.error;
  line += fmt::format(" after {} steps", r.steps);
  if (r.length > 0)
    line += fmt::format(", test accuracy {:.4f} at length {}", r.accuracy, r.length);
  return line;
}

class TerminalProgress final : public ProgressSink {
 public:
  TerminalProgress(std::FILE* out, ProgressMode mode) : out_(out), mode_(mode) {}
  ~TerminalProgress() override { clear(); }

  void on_cohort_start(const CohortProgress& p) override {
    last_ = Clock::now();
    if (mode_ == ProgressMode::kPlain) line(describe(p));
    if (mode_ == ProgressMode::kBar) draw(describe(p));
  }

  void on_progress(const CohortProgress& p) override {
    const auto now = Clock::now();
    if (mode_ == ProgressMode::kBar && now - last_ >= kRedrawInterval) {
      draw(describe(p));
      last_ = now;
    }
    if (mode_ == ProgressMode::kPlain && now - last_ >= kPlainInterval) {
      line(describe(p));
      last_ = now;
    }
  }

  void on_run_finished(const FinishedRun& r) override {
    if (mode_ != ProgressMode::kNone || r.status == "failed") line(describe(r));
  }

  void on_message(const std::string& text) override { line(text); }

 private:
  void line(const std::string& text) {
    clear();
    if (mode_ == ProgressMode::kPlain) {
      fmt::print(out_, "{:%H:%M:%S} {}\n", fmt::localtime(std::time(nullptr)), text);
    } else {
      fmt::print(out_, "{}\n", text);
    }
    std::fflush(out_);
  }

  void draw(const std::string& text) {
    winsize size{};
    const size_t width =
        ioctl(fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
    fmt::print(out_, "\r\033[K{}", std::string_view(text).substr(0, width));
    std::fflush(out_);
    drawn_ = true;
  }

  void clear() {
    if (!drawn_) return;
    fmt::print(out_, "\r\033[K");
    std::fflush(out_);
    drawn_ = false;
  }

  std::FILE* out_;
  ProgressMode mode_;
  Clock::time_point last_ = Clock::now();
  bool drawn_ = false;
};

}  // namespace

std::unique_ptr<ProgressSink> terminal_progress(std::FILE* out, ProgressMode mode) {
  if (mode == ProgressMode::kAuto) {
    const char* terminal = std::getenv("TERM");
    const bool can_redraw =
        isatty(fileno(out)) == 1 && terminal != nullptr && std::string_view(terminal) != "dumb";
    mode = can_redraw ? ProgressMode::kBar : ProgressMode::kPlain;
  }
  return std::make_unique<TerminalProgress>(out, mode);
}

}  // namespace statelab

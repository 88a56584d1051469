// Flip-flop language: remember the bit written last, among ignored ones.
//
// Ids: w 0, r 1, i 2, bit zero 3, bit one 4; scored over all five. A length T is even and counts
// instructions and bits; the bit after the final r is only a target, so the model reads T - 1
// tokens. Supervision last: the final read. Supervision all: every read (the "clean" loss of the
// literature). Deviates: no loss on every next token (the "noisy" one): the bits after w and i are
// coin flips, so a score over them would say nothing about the state.
#include <cmath>
#include <utility>

#include "tasks/drawn_task.h"
#include "tasks/profile.h"
#include "tasks/registry.h"

namespace statelab {
namespace {

class FlipFlopTask : public DrawnTask {
 public:
  explicit FlipFlopTask(const TaskConfig& config) : DrawnTask(config) {
    parse_profile(config, {Profile::kFflm});
    if (!(config.ignore_prob >= 0 && config.ignore_prob <= 1)) {
      throw TaskError(config.name, "ignore_prob",
                      "[" + config.name +
                          "] ignore_prob must be in 0..1: " + std::to_string(config.ignore_prob));
    }
    spec_.kind = DrawKind::kFlipFlop;
    spec_.layout.rule = LengthRule::kEven;
    spec_.layout.overhead = 1;
    spec_.flip_flop.ignore_threshold =
        static_cast<uint64_t>(std::llround(config.ignore_prob * 4294967296.0));
    names_.tokens = {"w", "r", "i", "0", "1"};
    chance_ = 0.5;
    min_data_ = 3;
    finish();
  }

  /// Every written bit is fair, so at each read both answers have probability 1/2.
  double constant_answer(LengthRange lengths) const override {
    check_lengths(lengths);
    return 0.5;
  }

 protected:
  LabelMarginals label_marginals(int max_data) const override {
    std::vector<double> fair(names_.tokens.size(), 0.0);
    fair[kBitToken] = fair[kBitToken + 1] = 0.5;
    const std::vector<std::vector<double>> rows(static_cast<size_t>(max_data), fair);
    return {rows, rows};
  }
};

}  // namespace

std::shared_ptr<const Task> make_flip_flop(const TaskConfig& config) {
  return std::make_shared<FlipFlopTask>(config);
}

}  // namespace statelab

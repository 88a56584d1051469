// Modular arithmetic, without and with brackets; ordinary precedence, result mod `modulus`.
//
//             flat                                  bracketed
// xlstm       0 PAD, + - *, =, digits               digits, + - * ( ), =, PAD
// slice       0 PAD, + - *, =, digits               0 PAD, digits, + - * ( ), =
// chomsky     digits, + - *, blank, query           digits, + - * ( ), x, query; classes = digits
//
// Length: xlstm counts `=` and the label, with brackets one PAD more; slice counts `=`; chomsky
// counts the expression. Rounding: tasks/draw/layout.h. Flat rows in xlstm and chomsky may fall one
// below the nominal minimum, in slice one may exceed the maximum, as in the released code.
// Deviates: chomsky's newest code leaves every length but the first traced one without operators,
// and multiplies in 32 bits without reduction; both are defects of that program and not reproduced.
#include <utility>

#include "tasks/drawn_task.h"
#include "tasks/expression_values.h"
#include "tasks/profile.h"
#include "tasks/registry.h"

namespace statelab {
namespace {

constexpr int kMaxModulus = 32;  // the exact label distribution costs modulus^2 per operand pair

class ExpressionTask : public DrawnTask {
 public:
  ExpressionTask(const TaskConfig& config, Profile profile, bool brackets) : DrawnTask(config) {
    check_range(config, "modulus", config.modulus, 2, kMaxModulus);
    spec_.kind = brackets ? DrawKind::kBracketedExpression : DrawKind::kFlatExpression;
    spec_.expression.modulus = config.modulus;
    spec_.expression.operators = config.multiplication ? 3 : 2;
    chance_ = 1.0 / config.modulus;
    names_.separator = "";
    if (brackets) {
      set_bracketed(profile);
    } else {
      set_flat(profile);
    }
    if (profile == Profile::kChomsky) {
      legal_end_ = config.modulus;
      spec_.layout.length_per_step = 1;
    }
    finish();
  }

 protected:
  LabelMarginals label_marginals(int max_data) const override {
    const ExpressionParams& p = spec_.expression;
    const auto values = spec_.kind == DrawKind::kFlatExpression
                            ? flat_values(p.modulus, p.operators, max_data)
                            : bracketed_values(p.modulus, p.operators, max_data);
    LabelMarginals marginals;
    for (const ValueDistribution& value : values) {
      std::vector<double> labels(names_.tokens.size(), 0.0);
      for (size_t v = 0; v < value.size(); ++v) {
        labels[static_cast<size_t>(p.first_answer) + v] = value[v];
      }
      marginals.running.push_back(labels);
      marginals.last.push_back(std::move(labels));
    }
    return marginals;
  }

 private:
  void add(const std::vector<std::string>& tokens) {
    names_.tokens.insert(names_.tokens.end(), tokens.begin(), tokens.end());
  }
  void add_digits() {
    spec_.expression.first_digit = vocab_size();
    spec_.expression.first_answer = vocab_size();
    for (int digit = 0; digit < config_.modulus; ++digit) add({std::to_string(digit)});
  }
  void add_operators() {
    spec_.expression.first_operator = vocab_size();
    add({"+", "-", "*"});
  }
  void add_brackets() {
    spec_.expression.open = vocab_size();
    spec_.expression.close = vocab_size() + 1;
    add({"(", ")"});
  }
  void add_end(const std::string& name) {
    spec_.layout.end_token = vocab_size();
    add({name});
  }

  void set_flat(Profile profile) {
    Layout& layout = spec_.layout;
    if (profile == Profile::kChomsky) {
      layout.rule = LengthRule::kRoundDown;
      add_digits();
      add_operators();
      add({"<blank>"});
      add_end("?");
      return;
    }
    layout.rule = profile == Profile::kXlstm ? LengthRule::kOddByHalves : LengthRule::kRoundUp;
    layout.overhead = profile == Profile::kXlstm ? 2 : 1;
    add({"<pad>"});
    add_operators();
    add_end("=");
    add_digits();
  }

  void set_bracketed(Profile profile) {
    Layout& layout = spec_.layout;
    if (profile == Profile::kXlstm) {
      layout.rule = LengthRule::kAtLeastFive;
      layout.overhead = 3;
    } else if (profile == Profile::kSlice) {
      layout.overhead = 1;
      add({"<pad>"});
    }
    add_digits();
    add_operators();
    add_brackets();
    if (profile == Profile::kChomsky) {
      add({"x"});
      add_end("?");
    } else {
      add_end("=");
      if (profile == Profile::kXlstm) add({"<pad>"});
    }
  }
};

const std::vector<Profile> kProfiles = {Profile::kXlstm, Profile::kSlice, Profile::kChomsky};

}  // namespace

std::shared_ptr<const Task> make_modular_arithmetic(const TaskConfig& config) {
  return std::make_shared<ExpressionTask>(config, parse_profile(config, kProfiles), false);
}

std::shared_ptr<const Task> make_modular_arithmetic_brackets(const TaskConfig& config) {
  const Profile profile = parse_profile(config, kProfiles);
  if (config.supervision == "all") {
    throw TaskError(config.name, "supervision",
                    "[" + config.name +
                        "] supervision must be last (a part of a bracketed expression has no "
                        "value): all");
  }
  return std::make_shared<ExpressionTask>(config, profile, true);
}

}  // namespace statelab

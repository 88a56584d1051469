// The field table: every key of a run, once. Parser, checks, canonical text, JSON Schema and reference page follow from it.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/run_config.h"
#include "experiments/value.h"

namespace statelab {

enum class FieldType {
  kBoolean,
  kInteger,  ///< an integral number, however it is written (1e4)
  kNumber,
  kNumberOrNone,  ///< a number, or `none`
  kChoice,
  kText,
  kNumberPair,  ///< [low, high]
  kIntegerList,
  kRangeList,  ///< [[min, max], ...]
  kStages,     ///< [{ steps, length: [min, max] }, ...]
  kAutomaton,  ///< { states, symbols, transitions, start, outputs }
  kGroup,      ///< a name, or { generators | cayley_table, elements }
};

/// A broken rule and where it was written. `key` is the path in the YAML.
struct FieldProblem {
  Place place;
  std::string key;
  std::string message;
};

struct Field {
  std::string key;  ///< "model.d_state"
  FieldType type = FieldType::kText;
  std::string doc;  ///< what it is and why the default is what it is
  std::function<Value(const RunConfig&)> get;
  std::function<void(RunConfig&, const Value&)> set;  ///< only with values that check() accepts
  std::vector<std::string> choices;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_open = false;  ///< min itself is refused
  bool max_open = false;
  std::vector<std::string> mixers;  ///< read by these mixers only; empty = by all

  /// "model", "train", ...; the key without its last part.
  std::string section() const {
    return key.substr(0, key.rfind('.') == std::string::npos ? 0 : key.rfind('.'));
  }
};

/// All fields, in the order of the reference page.
const std::vector<Field>& fields();
/// The field with this key, null when there is none.
const Field* find_field(std::string_view key);
/// Whether the key is a section, such as "train.optimizer".
bool is_section(std::string_view key);

/// Whether this mixer reads the field.
bool read_by_mixer(const Field& field, std::string_view mixer);
/// Whether the run's mixer and task read the field at all.
bool applies(const Field& field, const RunConfig& run);

/// Type and range of one value; empty when the value may be set.
std::vector<FieldProblem> check(const Field& field, const Value& value);
/// "integer >= 1", "one of adamw", ...: the rule as messages and the reference page state it.
std::string rule(const Field& field);

/// A run with every default filled in, the curriculum and the evaluation lengths included.
RunConfig default_run();

// The three parts of the table.
std::vector<Field> task_fields();
std::vector<Field> model_fields();
std::vector<Field> train_fields();  ///< train, eval and seed

}  // namespace statelab

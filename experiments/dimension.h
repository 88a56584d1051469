// One axis of a sweep: keys that change together, and the values they take.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/config_error.h"
#include "experiments/field.h"
#include "experiments/value.h"

namespace statelab {

/// A key with the value it is given.
struct Assignment {
  const Field* field = nullptr;
  Value value;
};

/// A distribution to draw from, in W&B's terms.
struct Distribution {
  std::string name;         ///< "uniform", "log_uniform_values", ...
  double min = 0, max = 0;  ///< log_uniform: natural exponents
  double mu = 0, sigma = 1;
  double q = 1;  ///< q_*: results are multiples of q
};

struct Dimension {
  std::string name;  ///< the key, or the name of a zip
  std::vector<const Field*> fields;
  std::vector<std::vector<Value>> rows;  ///< rows[i][j] = value of fields[j]; empty when drawn
  std::vector<double> probabilities;     ///< of the rows in a random sweep; empty = all alike
  std::optional<Distribution> drawn;     ///< only for random sweeps
  Place place;
  Value written;  ///< for the resolved text
  bool zipped = false;
};

/// Whether the key names a field; adds "unknown key, did you mean ..." when it names neither field nor section.
const Field* field_or_problem(const std::string& key, const Place& place, Problems& problems);

/// Reads `{ values | value | min, max | distribution ... }` for one field. Null when it has problems.
std::optional<Dimension> read_parameter(const Field& field, const Value& spec, bool random,
                                        Problems& problems);

/// Reads one entry of `zip:`, `name: { key: [values], ... }`.
std::optional<Dimension> read_zip(const std::string& name, const Value& spec, Problems& problems);

/// Values of the dimension's fields in draw number `draw` of a random sweep. They depend on the dimension's name, not on
/// its position: adding another one leaves them as they are.
std::vector<Value> draw_row(const Dimension& dimension, uint32_t seed, uint32_t draw);

/// Adds the problems of a value of the field; true when there are none.
bool acceptable(const Field& field, const Value& value, Problems& problems);

/// Reads nested maps and dotted keys alike: { model: { d_state: 4 } } and { model.d_state: 4 }.
void read_assignments(const Value& map, const std::string& prefix, std::vector<Assignment>& out,
                      Problems& problems);

/// Rounded to six significant digits, so that names and ids stay readable.
double six_digits(double value);

}  // namespace statelab

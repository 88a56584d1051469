// A configuration as a tree of plain values, each of which knows where it was written.
//
// YAML, the command line and stored JSON all become this tree; everything behind it (the field table, the sweep
// grammar, the canonical text) knows no file format.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace statelab {

/// Where a value was written. Line and column count from 1; 0 = not from a file (`file` then says from where).
struct Place {
  std::shared_ptr<const std::string> file;
  int line = 0, column = 0;

  /// "sweep.yaml:12:7" or "command line".
  std::string text() const;
};

struct Value {
  enum class Kind { kNull, kBoolean, kInteger, kNumber, kText, kList, kMap };

  Kind kind = Kind::kNull;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;              ///< also set for integers
  std::string text;               ///< kText: the text; other scalars: as it was written
  bool quoted = false;            ///< a text in quotation marks
  std::vector<std::string> keys;  ///< kMap: keys[i] names items[i], in the order of the file
  std::vector<Value> items;
  Place place;      ///< of the value
  Place key_place;  ///< of its key, when it is a map's item

  static Value null() { return {}; }
  static Value of(bool value);
  static Value of(int64_t value);
  static Value of(double value);  ///< a finite integral number below 2^53 becomes an integer
  static Value of(std::string value);
  static Value list(std::vector<Value> values = {});
  static Value map();

  bool is(Kind other) const { return kind == other; }
  bool is_scalar() const { return kind != Kind::kList && kind != Kind::kMap; }
  bool is_number() const { return kind == Kind::kInteger || kind == Kind::kNumber; }
  /// The item of a map, null when there is none.
  const Value* find(std::string_view key) const;
  /// Sets the item at a dotted path, adding maps on the way; an existing item is replaced.
  void put(std::string_view dotted_path, Value value);
  /// How a message shows it: `12`, `"abc"`, `a list of 3`, `a map`.
  std::string shown() const;
};

/// Equal meaning: 1 equals 1.0, the order of keys and the places do not matter.
bool same_value(const Value& a, const Value& b);

/// A plain (unquoted) YAML or command-line word as a typed value: null, true | false, integer, number, else text.
/// Integers with leading zeros, digits with underscores, `yes`, `on`, `.inf` and `.nan` stay text.
Value plain_scalar(std::string_view word);

/// Shortest text that reads back as the same double (std::to_chars); integral numbers without point or exponent.
std::string shortest(double value);

/// One line of JSON with sorted keys and shortest numbers.
std::string to_canonical_json(const Value& value);
/// Indented JSON in the order of the tree.
std::string to_pretty_json(const Value& value);
/// Throws std::invalid_argument with the position of the first error.
Value value_from_json(const std::string& json);

}  // namespace statelab

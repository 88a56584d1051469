#include "experiments/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

namespace statelab {
namespace {

void write_text(std::string& out, std::string_view text) {
  out += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void write_scalar(std::string& out, const Value& value) {
  switch (value.kind) {
    case Value::Kind::kBoolean:
      out += value.boolean ? "true" : "false";
      return;
    case Value::Kind::kInteger:
      out += std::to_string(value.integer);
      return;
    case Value::Kind::kNumber:
      out += shortest(value.number);
      return;
    case Value::Kind::kText:
      write_text(out, value.text);
      return;
    default:
      out += "null";
      return;
  }
}

std::vector<size_t> sorted_order(const Value& map) {
  std::vector<size_t> order(map.keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return map.keys[a] < map.keys[b]; });
  return order;
}

void write_canonical(std::string& out, const Value& value) {
  if (value.is(Value::Kind::kList)) {
    out += '[';
    for (size_t i = 0; i < value.items.size(); ++i) {
      if (i) out += ',';
      write_canonical(out, value.items[i]);
    }
    out += ']';
  } else if (value.is(Value::Kind::kMap)) {
    out += '{';
    bool first = true;
    for (const size_t i : sorted_order(value)) {
      if (!first) out += ',';
      first = false;
      write_text(out, value.keys[i]);
      out += ':';
      write_canonical(out, value.items[i]);
    }
    out += '}';
  } else {
    write_scalar(out, value);
  }
}

bool flat(const Value& value) {
  return std::all_of(value.items.begin(), value.items.end(),
                     [](const Value& v) { return v.is_scalar(); });
}

void write_pretty(std::string& out, const Value& value, int indent) {
  const bool is_map = value.is(Value::Kind::kMap);
  if (value.is_scalar()) return write_scalar(out, value);
  const bool one_line = flat(value) && (!is_map || value.items.size() <= 4);
  out += is_map ? '{' : '[';
  for (size_t i = 0; i < value.items.size(); ++i) {
    if (i) out += one_line ? ", " : ",";
    if (!one_line) out += '\n' + std::string(static_cast<size_t>(indent + 2), ' ');
    if (is_map) {
      write_text(out, value.keys[i]);
      out += ": ";
    }
    write_pretty(out, value.items[i], indent + 2);
  }
  if (!one_line && !value.items.empty())
    out += '\n' + std::string(static_cast<size_t>(indent), ' ');
  out += is_map ? '}' : ']';
}

Value from_json(const nlohmann::ordered_json& json) {
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean:
      return Value::of(json.get<bool>());
    case Type::number_integer:
    case Type::number_unsigned:
      return Value::of(json.get<int64_t>());
    case Type::number_float:
      return Value::of(json.get<double>());
    case Type::string:
      return Value::of(json.get<std::string>());
    case Type::array: {
      Value list = Value::list();
      for (const auto& item : json) list.items.push_back(from_json(item));
      return list;
    }
    case Type::object: {
      Value map = Value::map();
      for (const auto& [key, item] : json.items()) {
        map.keys.push_back(key);
        map.items.push_back(from_json(item));
      }
      return map;
    }
    default:
      return Value::null();
  }
}

}  // namespace

std::string Place::text() const {
  const std::string name = file ? *file : "configuration";
  if (line == 0) return name;
  return name + ':' + std::to_string(line) + ':' + std::to_string(column);
}

Value Value::of(bool value) {
  Value v;
  v.kind = Kind::kBoolean;
  v.boolean = value;
  return v;
}

Value Value::of(int64_t value) {
  Value v;
  v.kind = Kind::kInteger;
  v.integer = value;
  v.number = static_cast<double>(value);
  return v;
}

Value Value::of(double value) {
  if (std::isfinite(value) && value == std::floor(value) && std::abs(value) < 9007199254740992.0) {
    return of(static_cast<int64_t>(value));
  }
  Value v;
  v.kind = Kind::kNumber;
  v.number = value;
  return v;
}

Value Value::of(std::string value) {
  Value v;
  v.kind = Kind::kText;
  v.text = std::move(value);
  return v;
}

Value Value::list(std::vector<Value> values) {
  Value v;
  v.kind = Kind::kList;
  v.items = std::move(values);
  return v;
}

Value Value::map() {
  Value v;
  v.kind = Kind::kMap;
  return v;
}

const Value* Value::find(std::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return &items[i];
  }
  return nullptr;
}

void Value::put(std::string_view dotted_path, Value value) {
  const size_t dot = dotted_path.find('.');
  const std::string_view head = dotted_path.substr(0, dot);
  kind = Kind::kMap;
  size_t i = 0;
  while (i < keys.size() && keys[i] != head) ++i;
  if (i == keys.size()) {
    keys.emplace_back(head);
    items.emplace_back();
  }
  if (dot == std::string_view::npos) {
    items[i] = std::move(value);
  } else {
    items[i].put(dotted_path.substr(dot + 1), std::move(value));
  }
}

std::string Value::shown() const {
  switch (kind) {
    case Kind::kList:
      return "a list of " + std::to_string(items.size());
    case Kind::kMap:
      return "a map";
    case Kind::kText: {
      const std::string cut = text.size() > 60 ? text.substr(0, 57) + "..." : text;
      return quoted ? "the text \"" + cut + '"' : cut;
    }
    default: {
      if (!text.empty()) return text;
      std::string out;
      write_scalar(out, *this);
      return out;
    }
  }
}

bool same_value(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.kind == b.kind
               ? (a.is(Value::Kind::kInteger) ? a.integer == b.integer : a.number == b.number)
               : false;
  }
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Value::Kind::kNull:
      return true;
    case Value::Kind::kBoolean:
      return a.boolean == b.boolean;
    case Value::Kind::kText:
      return a.text == b.text;
    default:
      return to_canonical_json(a) == to_canonical_json(b);
  }
}

Value plain_scalar(std::string_view word) {
  Value value = Value::of(std::string(word));
  if (word.empty() || word == "~" || word == "null" || word == "Null" || word == "NULL") {
    value = Value::null();
  } else if (word == "true" || word == "True" || word == "TRUE") {
    value = Value::of(true);
  } else if (word == "false" || word == "False" || word == "FALSE") {
    value = Value::of(false);
  } else {
    std::string_view digits = word;
    if (digits.front() == '+') digits.remove_prefix(1);
    const std::string_view unsigned_digits =
        !digits.empty() && digits.front() == '-' ? digits.substr(1) : digits;
    const bool numeric_start =
        !unsigned_digits.empty() && ((unsigned_digits[0] >= '0' && unsigned_digits[0] <= '9') ||
                                     (unsigned_digits[0] == '.' && unsigned_digits.size() > 1));
    const bool leading_zero = unsigned_digits.size() > 1 && unsigned_digits[0] == '0' &&
                              unsigned_digits[1] >= '0' && unsigned_digits[1] <= '9';
    if (numeric_start && !leading_zero) {
      const char* end = digits.data() + digits.size();
      int64_t integer = 0;
      double number = 0;
      if (const auto r = std::from_chars(digits.data(), end, integer);
          r.ec == std::errc() && r.ptr == end) {
        value = Value::of(integer);
      } else if (const auto f = std::from_chars(digits.data(), end, number);
                 f.ec == std::errc() && f.ptr == end && std::isfinite(number)) {
        value = Value::of(number);
      }
    }
  }
  value.text = std::string(word);
  return value;
}

std::string shortest(double value) {
  if (value == 0) return "0";
  char buffer[64];
  if (value == std::floor(value) && std::abs(value) < 9007199254740992.0) {
    const auto r = std::to_chars(buffer, buffer + sizeof buffer, static_cast<int64_t>(value));
    return {buffer, r.ptr};
  }
  const auto r = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {buffer, r.ptr};
}

std::string to_canonical_json(const Value& value) {
  std::string out;
  write_canonical(out, value);
  return out;
}

std::string to_pretty_json(const Value& value) {
  std::string out;
  write_pretty(out, value, 0);
  return out + '\n';
}

Value value_from_json(const std::string& json) {
  try {
    return from_json(nlohmann::ordered_json::parse(json));
  } catch (const nlohmann::ordered_json::exception& e) {
    throw std::invalid_argument(std::string("stored configuration is not JSON: ") + e.what());
  }
}

}  // namespace statelab

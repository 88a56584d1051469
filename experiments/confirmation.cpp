#include "experiments/confirmation.h"

#include <algorithm>
#include <stdexcept>

#include "experiments/field.h"

namespace statelab {
namespace {

// JSON is YAML; a comma and a colon are followed by a space for people. Texts keep their quotation marks.
std::string flow(const Value& value) {
  const std::string json = to_canonical_json(value);
  std::string out;
  bool quoted = false;
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] == '"' && (i == 0 || json[i - 1] != '\\')) quoted = !quoted;
    out += json[i];
    if (!quoted && (json[i] == ',' || json[i] == ':')) out += ' ';
  }
  return out;
}

Value value_of(const Field& field, const RunConfig& run) {
  return applies(field, run) ? field.get(run) : field.get(default_run());
}

}  // namespace

std::string confirmation_yaml(const std::string& name, std::span<const RunConfig> settings,
                              std::span<const uint32_t> seeds,
                              const std::vector<std::string>& comment) {
  if (settings.empty() || seeds.empty())
    throw std::invalid_argument("a confirmation needs at least one setting and one seed");
  std::string text, base, zip;
  for (const std::string& line : comment) text += "# " + line + '\n';
  text += "name: " + name + '\n';
  for (const Field& field : fields()) {
    if (field.key == "seed") continue;
    std::vector<Value> values;
    for (const RunConfig& run : settings) values.push_back(value_of(field, run));
    const bool shared = std::all_of(values.begin(), values.end(),
                                    [&](const Value& v) { return same_value(v, values.front()); });
    if (shared) {
      const bool read = std::any_of(settings.begin(), settings.end(),
                                    [&](const RunConfig& run) { return applies(field, run); });
      if (read) base += "  " + field.key + ": " + flow(values.front()) + '\n';
      continue;
    }
    zip += "    " + field.key + ": [";
    for (size_t i = 0; i < values.size(); ++i) zip += (i ? ", " : "") + flow(values[i]);
    zip += "]\n";
  }
  text += "base:\n" + base;
  if (!zip.empty()) text += "zip:\n  setting:\n" + zip;
  text += "seeds: [";
  for (size_t i = 0; i < seeds.size(); ++i) text += (i ? ", " : "") + std::to_string(seeds[i]);
  return text + "]\n";
}

}  // namespace statelab

#include "experiments/run_name.h"

#include <cctype>

#include "experiments/field.h"

namespace statelab {
namespace {

/// Short forms of the keys that are swept most; others stand with their last part.
std::string short_key(const std::string& key) {
  static const std::vector<std::pair<std::string, std::string>> forms = {
      {"model.d_model", "d"},
      {"model.n_layers", "l"},
      {"model.d_state", "n"},
      {"model.headdim", "p"},
      {"train.batch", "b"},
      {"train.optimizer.lr", "lr"},
      {"train.optimizer.weight_decay", "wd"},
      {"train.optimizer.clip_norm", "clip"},
      {"task.modulus", "m"}};
  for (const auto& [full, brief] : forms) {
    if (full == key) return brief;
  }
  return key.substr(key.rfind('.') + 1);
}

std::string slug(const std::string& text) {
  std::string out;
  char before = 0;
  for (const char c : text) {
    const bool minus = c == '-' && (before == '[' || before == ',');
    before = c;
    if (minus) {  // as for plain numbers
      out += 'm';
      continue;
    }
    const bool keep =
        std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '+';
    if (keep) {
      out += c;
    } else if (!out.empty() && out.back() != '_') {
      out += '_';
    }
  }
  while (!out.empty() && out.back() == '_') out.pop_back();
  return out.substr(0, 20);
}

std::string part(const Field& field, const RunConfig& run) {
  if (!applies(field, run)) return "";
  const Value v = field.get(run);
  if (v.is(Value::Kind::kText)) return slug(v.text);
  if (v.is(Value::Kind::kBoolean)) return (v.boolean ? "" : "no_") + short_key(field.key);
  if (v.is_number()) {
    // A minus would read as a separator: -1 becomes m1, also within a list.
    std::string number = shortest(v.number);
    for (char& c : number) c = c == '-' ? 'm' : c;
    if (const size_t e = number.find("em"); e != std::string::npos) number[e + 1] = '_';
    return short_key(field.key) + number;
  }
  return short_key(field.key) + slug(to_canonical_json(v));
}

}  // namespace

std::vector<std::string> swept_keys(const std::vector<RunConfig>& runs) {
  std::vector<std::string> keys;
  for (const Field& field : fields()) {
    if (field.key == "seed" || runs.empty()) continue;
    const Value first = field.get(runs[0]);
    for (const RunConfig& run : runs) {
      if (!same_value(field.get(run), first)) {
        keys.push_back(field.key);
        break;
      }
    }
  }
  return keys;
}

std::vector<std::string> run_names(const std::string& sweep, const std::vector<RunConfig>& runs,
                                   const std::vector<std::string>& swept) {
  std::vector<std::string> names;
  for (const RunConfig& run : runs) {
    std::string name;
    for (const std::string& key : swept) {
      const std::string p = part(*find_field(key), run);
      if (p.empty() || name.size() + p.size() > 56) continue;
      name += (name.empty() ? "" : "-") + p;
    }
    if (name.empty()) name = slug(sweep);
    names.push_back(name + "-s" + std::to_string(run.seed) + '-' + run_id(run).substr(0, 8));
  }
  return names;
}

}  // namespace statelab

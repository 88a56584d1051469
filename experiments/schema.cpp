#include "experiments/schema.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "experiments/field.h"
#include "experiments/sweep.h"
#include "experiments/sweep_file.h"

namespace statelab {
namespace {

using Json = nlohmann::ordered_json;

Json number_rule(const Field& f, const char* type) {
  Json rule = {{"type", type}};
  if (f.min > -std::numeric_limits<double>::infinity())
    rule[f.min_open ? "exclusiveMinimum" : "minimum"] = f.min;
  if (f.max < std::numeric_limits<double>::infinity())
    rule[f.max_open ? "exclusiveMaximum" : "maximum"] = f.max;
  return rule;
}

Json list_of(Json item, int at_least = 0) {
  Json list = {{"type", "array"}, {"items", std::move(item)}};
  if (at_least > 0) list["minItems"] = at_least;
  return list;
}

Json pair_of(const Json& item) {
  return {{"type", "array"}, {"items", item}, {"minItems", 2}, {"maxItems", 2}};
}

Json closed(Json properties, std::vector<std::string> required = {}) {
  Json object = {
      {"type", "object"}, {"properties", std::move(properties)}, {"additionalProperties", false}};
  if (!required.empty()) object["required"] = required;
  return object;
}

Json field_schema(const Field& f) {
  const Json length = pair_of({{"type", "integer"}, {"minimum", 1}});
  const Json name = {{"type", {"string", "integer", "number", "boolean"}}};
  Json out;
  switch (f.type) {
    case FieldType::kBoolean:
      out = {{"type", "boolean"}};
      break;
    case FieldType::kInteger:
      out = number_rule(f, "integer");
      break;
    case FieldType::kNumber:
      out = number_rule(f, "number");
      break;
    case FieldType::kNumberOrNone:
      out["anyOf"] = {number_rule(f, "number"), {{"enum", {"none", nullptr}}}};
      break;
    case FieldType::kChoice:
      out["enum"] = f.choices;
      break;
    case FieldType::kText:
      out = {{"type", "string"}};
      break;
    case FieldType::kNumberPair:
      out = pair_of(number_rule(f, "number"));
      break;
    case FieldType::kIntegerList:
      out = list_of(number_rule(f, "integer"));
      break;
    case FieldType::kRangeList:
      out = list_of(length);
      break;
    case FieldType::kStages:
      out = list_of(closed({{"steps", {{"type", "integer"}, {"minimum", 1}}}, {"length", length}},
                           {"steps", "length"}),
                    1);
      break;
    case FieldType::kAutomaton: {
      const Json names = list_of(name, 1);
      const Json row = {{"type", "object"}, {"additionalProperties", name}};
      const Json automaton =
          closed({{"states", names},
                  {"symbols", names},
                  {"transitions", {{"type", "object"}, {"additionalProperties", row}}},
                  {"start", name},
                  {"outputs", {{"anyOf", {names, row}}}}},
                 {"states", "symbols", "transitions"});
      out["anyOf"] = {automaton, {{"type", "null"}}};
      break;
    }
    case FieldType::kGroup: {
      const Json rows = list_of(list_of({{"type", "integer"}, {"minimum", 0}}, 1), 1);
      out["anyOf"] = {
          {{"type", {"string", "null"}}},
          closed({{"generators", rows}, {"cayley_table", rows}, {"elements", list_of(name, 1)}})};
      break;
    }
  }
  out["description"] = f.doc;
  out["default"] = Json::parse(to_canonical_json(f.get(default_run())));
  return out;
}

/// Nested maps and dotted keys below `prefix`; `leaf` makes the schema of a field.
template <typename Leaf>
Json keys_below(const std::string& prefix, const Leaf& leaf) {
  Json properties = Json::object();
  for (const Field& f : fields()) {
    if (!prefix.empty() && f.key.rfind(prefix + '.', 0) != 0) continue;
    const std::string rest = prefix.empty() ? f.key : f.key.substr(prefix.size() + 1);
    for (size_t dot = rest.find('.'); dot != std::string::npos; dot = rest.find('.', dot + 1)) {
      const std::string section = rest.substr(0, dot);
      if (!properties.contains(section)) {
        properties[section] = keys_below(prefix.empty() ? section : prefix + '.' + section, leaf);
      }
    }
    properties[rest] = leaf(f);
  }
  return closed(std::move(properties));
}

Json reference(const Field& f) { return {{"$ref", "#/$defs/" + f.key}}; }

Json parameter(const Field& f) {
  const Json number = {{"type", "number"}};
  return closed({{"values", list_of(reference(f), 1)},
                 {"value", reference(f)},
                 {"distribution", {{"type", "string"}}},
                 {"min", number},
                 {"max", number},
                 {"count", {{"type", "integer"}, {"minimum", 1}}},
                 {"mu", number},
                 {"sigma", number},
                 {"q", number},
                 {"probabilities", list_of(number, 1)}});
}

/// W&B repeats the word `parameters` at every level.
Json allow_nested_word(Json object) {
  for (auto& [key, item] : object["properties"].items()) {
    if (is_section(key)) {
      Json inner = allow_nested_word(item);
      inner["properties"]["parameters"] = {{"type", "object"}};
      item = std::move(inner);
    }
  }
  return object;
}

std::string escaped(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2)
    text.insert(at, "\\");
  return text;
}

}  // namespace

std::string sweep_schema() {
  Json defs = Json::object();
  for (const Field& f : fields()) defs[f.key] = field_schema(f);
  const Json point = keys_below("", reference);
  const Json column = keys_below("", [](const Field& f) {
    return Json{
        {"anyOf", {list_of(reference(f), 1), closed({{"values", list_of(reference(f), 1)}})}}};
  });
  const Json seed = {{"type", "integer"}, {"minimum", 0}, {"maximum", 4294967295}};
  Json file_names;
  file_names["anyOf"] = {{{"type", "string"}}, list_of({{"type", "string"}}, 1)};
  Json seeds;
  seeds["anyOf"] = {{{"type", "integer"}, {"minimum", 1}, {"maximum", kMaxRuns}}, list_of(seed, 1)};
  Json properties = {{"name", {{"type", "string"}, {"pattern", "^[A-Za-z0-9_.-]{1,100}$"}}},
                     {"description", {{"type", "string"}}},
                     {"extends", file_names},
                     {"base", point},
                     {"parameters", allow_nested_word(keys_below("", parameter))},
                     {"zip", {{"type", "object"}, {"additionalProperties", column}}},
                     {"include", list_of(point)},
                     {"exclude", list_of(point)},
                     {"seeds", seeds},
                     {"method", {{"enum", {"grid", "random"}}}},
                     {"run_cap", {{"type", "integer"}, {"minimum", 1}, {"maximum", kMaxRuns}}},
                     {"sweep_seed", seed}};
  Json schema = closed(std::move(properties));
  Json root = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
               {"title", "statelab sweep"}};
  root.update(schema);
  root["$defs"] = std::move(defs);
  return root.dump(1) + '\n';
}

std::string configuration_page() {
  std::string out =
      "# Configuration reference\n\n"
      "Every key of a run, as `base:`, `parameters:`, `zip:`, `include:` and `exclude:` of a sweep "
      "file take it, and as\n"
      "`key=value` on the command line. Nested maps and dotted keys mean the same. Printed by "
      "`statelab schema --format md`.\n";
  std::string section = "none";
  for (const Field& f : fields()) {
    if (f.section() != section) {
      section = f.section();
      out += fmt::format("\n## {}\n\n| key | value | default | meaning |\n|---|---|---|---|\n",
                         section.empty() ? "seed" : section);
    }
    const std::string only =
        f.mixers.empty() ? "" : fmt::format("*{} only.* ", fmt::join(f.mixers, ", "));
    out += fmt::format("| `{}` | {} | `{}` | {}{} |\n", f.key, escaped(rule(f)),
                       to_canonical_json(f.get(default_run())), only, escaped(f.doc));
  }
  return out;
}

}  // namespace statelab

#include "experiments/schema.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>

#include "experiments/field.h"
#include "experiments/sweep.h"
#include "experiments/yaml_tree.h"
#include "tests/experiments/config_files.h"

namespace statelab {
namespace {

using Json = nlohmann::json;

/// The part of JSON Schema that ours uses. Unknown keywords fail, so that none is ignored in silence.
class Validator {
 public:
  explicit Validator(const Json& root) : root_(root) {}

  bool accepts(const Json& value) const { return accepts(root_, value); }

 private:
  static bool has_type(const std::string& type, const Json& v) {
    if (type == "integer")
      return v.is_number_integer() ||
             (v.is_number() && v.get<double>() == std::floor(v.get<double>()));
    if (type == "number") return v.is_number();
    return (type == "object" && v.is_object()) || (type == "array" && v.is_array()) ||
           (type == "string" && v.is_string()) || (type == "boolean" && v.is_boolean()) ||
           (type == "null" && v.is_null());
  }

  bool accepts(const Json& schema, const Json& v) const {
    for (const auto& [word, rule] : schema.items()) {
      if (word == "$schema" || word == "$defs" || word == "title" || word == "description" ||
          word == "default")
        continue;
      if (word == "$ref") {
        if (!accepts(root_.at("$defs").at(rule.get<std::string>().substr(8)), v)) return false;
      } else if (word == "type") {
        bool any = false;
        for (const Json& type : rule.is_array() ? rule : Json::array({rule}))
          any = any || has_type(type, v);
        if (!any) return false;
      } else if (word == "enum") {
        if (std::find(rule.begin(), rule.end(), v) == rule.end()) return false;
      } else if (word == "anyOf") {
        if (std::none_of(rule.begin(), rule.end(), [&](const Json& s) { return accepts(s, v); }))
          return false;
      } else if (word == "minimum" || word == "maximum" || word == "exclusiveMinimum" ||
                 word == "exclusiveMaximum") {
        if (!v.is_number()) continue;
        const double x = v.get<double>(), limit = rule.get<double>();
        const bool good = word == "minimum"            ? x >= limit
                          : word == "maximum"          ? x <= limit
                          : word == "exclusiveMinimum" ? x > limit
                                                       : x < limit;
        if (!good) return false;
      } else if (word == "items") {
        if (v.is_array() &&
            !std::all_of(v.begin(), v.end(), [&](const Json& i) { return accepts(rule, i); }))
          return false;
      } else if (word == "minItems" || word == "maxItems") {
        if (v.is_array() &&
            (word == "minItems" ? v.size() < rule.get<size_t>() : v.size() > rule.get<size_t>()))
          return false;
      } else if (word == "pattern") {
        if (v.is_string() &&
            !std::regex_search(v.get<std::string>(), std::regex(rule.get<std::string>())))
          return false;
      } else if (word == "required") {
        for (const Json& key : rule) {
          if (v.is_object() && !v.contains(key.get<std::string>())) return false;
        }
      } else if (word == "properties") {
        if (!v.is_object()) continue;
        for (const auto& [key, item] : v.items()) {
          if (rule.contains(key) && !accepts(rule[key], item)) return false;
        }
      } else if (word == "additionalProperties") {
        if (!v.is_object()) continue;
        for (const auto& [key, item] : v.items()) {
          if (schema.contains("properties") && schema["properties"].contains(key)) continue;
          if (rule == false || (rule.is_object() && !accepts(rule, item))) return false;
        }
      } else {
        ADD_FAILURE() << "keyword " << word << " is not known to the test";
        return false;
      }
    }
    return true;
  }

  const Json& root_;
};

Json as_json(const std::string& yaml) {
  Problems problems;
  NodeBudget budget;
  const Value value = parse_yaml(yaml, "s.yaml", budget, problems);
  EXPECT_TRUE(problems.empty());
  return Json::parse(to_canonical_json(value));
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Schema, AcceptsTheGrammarAndRefusesSlips) {
  const Json schema = Json::parse(sweep_schema());
  const Validator validator(schema);
  EXPECT_TRUE(validator.accepts(as_json(R"(
name: parity
base:
  task: { name: parity, group: S3 }
  train: { batch: 256, optimizer.lr: 0.001, optimizer: { betas: [0.9, 0.999] }, curriculum: [ { steps: 10, length: [3, 40] } ] }
  eval.stop_at: none
parameters:
  train.optimizer.lr: { distribution: logspace, min: 0.0001, max: 0.01, count: 8 }
  model: { parameters: { d_state: { values: [1] } } }
zip: { width: { model.n_layers: [1, 3], model.d_state: [64, 32] } }
exclude: [ { model.d_model: 32, model: { n_layers: 3 } } ]
seeds: 3
)")));
  for (const char* bad :
       {"base: { model: { d_stat: 1 } }", "bsae: {}", "seeds: 0", "base: { train.batch: x }",
        "base: { train.batch: 0 }", "base: { model.mixer: mamba9 }",
        "parameters: { train.batch: [1] }", "parameters: { train.batch: { values: [] } }",
        "base: { train.curriculum: [ { steps: 3 } ] }", "name: a b"}) {
    EXPECT_FALSE(validator.accepts(as_json(bad))) << bad;
  }
}

TEST(Schema, AcceptsWhatTheProgramResolves) {
  const Json schema = Json::parse(sweep_schema());
  const auto sweep = parse_sweep("parameters: { model.n_layers: { values: [1, 2] } }\nseeds: 2\n",
                                 "s.yaml", {"train.batch=3"});
  EXPECT_TRUE(Validator(schema).accepts(Json::parse(sweep.resolved))) << sweep.resolved;
}

TEST(Schema, AcceptsEveryShippedConfigAndSoDoesTheProgram) {
  const Json schema = Json::parse(sweep_schema());
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           std::filesystem::path(STATELAB_SOURCE_DIR) / "experiments/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    EXPECT_TRUE(Validator(schema).accepts(as_json(text_of(entry.path())))) << entry.path();
    EXPECT_NO_THROW(load_sweep(entry.path().string(), {})) << entry.path();
  }
  EXPECT_GE(count, 1);
}

TEST(Schema, HasEveryFieldWithItsDefault) {
  const Json schema = Json::parse(sweep_schema());
  for (const Field& f : fields()) {
    ASSERT_TRUE(schema["$defs"].contains(f.key)) << f.key;
    EXPECT_EQ(schema["$defs"][f.key]["default"].dump(),
              Json::parse(to_canonical_json(f.get(default_run()))).dump())
        << f.key;
    EXPECT_FALSE(f.doc.empty()) << f.key;
    EXPECT_TRUE(check(f, f.get(default_run())).empty())
        << f.key << ": the default breaks its own rule";
  }
}

TEST(Schema, ConfigurationPageIsUpToDate) {
  EXPECT_EQ(text_of(std::filesystem::path(STATELAB_SOURCE_DIR) / "experiments/configuration.md"),
            configuration_page())
      << "run: statelab schema --format md > experiments/configuration.md";
}

}  // namespace
}  // namespace statelab

#include "reports/protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>

namespace statelab {
namespace {

struct Choice {
  const char* name;
  std::string Protocol::*member;
};
constexpr Choice kChoices[] = {
    {"task", &Protocol::task},
    {"length convention", &Protocol::length_convention},
    {"multiplication", &Protocol::multiplication},
    {"supervision", &Protocol::supervision},
    {"BOS", &Protocol::bos},
    {"weights", &Protocol::weights},
    {"selection", &Protocol::selection},
    {"precision", &Protocol::precision},
    {"curriculum", &Protocol::curriculum},
};

bool is_arithmetic(const std::string& task) { return task.starts_with("modular_arithmetic"); }

std::string curriculum_of_stages(const std::string& json_text) {
  const auto stages = nlohmann::json::parse(json_text, nullptr, false);
  if (!stages.is_array() || stages.empty()) return kNotStated;
  try {
    auto low = [](const auto& stage) { return stage.at("length").at(0).template get<int64_t>(); };
    auto high = [](const auto& stage) { return stage.at("length").at(1).template get<int64_t>(); };
    if (stages.size() == 1) return fmt::format("train {}..{}", low(stages[0]), high(stages[0]));
    const int64_t steps = stages[0].at("steps").get<int64_t>();
    bool alike = true;
    std::string list, maxima;
    for (const auto& stage : stages) {
      alike &= stage.at("steps").get<int64_t>() == steps && low(stage) == low(stages[0]);
      maxima += fmt::format("{}{}", maxima.empty() ? "" : ", ", high(stage));
      list += fmt::format("{}{} steps at {}..{}", list.empty() ? "" : ", ",
                          stage.at("steps").get<int64_t>(), low(stage), high(stage));
    }
    if (!alike) return list;
    return fmt::format("min {}, max {}->{} in stages of {} steps: {}", low(stages[0]),
                       high(stages[0]), high(stages.back()), steps, maxima);
  } catch (const nlohmann::json::exception&) {
    return json_text;
  }
}

// "min 3, max 40->160 in stages of 10^4 steps; tested at 256" -> "min 3, max 40->160 in stages of
// 10000 steps"
std::string curriculum_of_lengths(const std::string& lengths) {
  std::string text = lengths.substr(0, lengths.find(';'));
  static const std::regex kPower(R"(10\^(\d))");
  std::smatch match;
  while (std::regex_search(text, match, kPower)) {
    text = match.prefix().str() + "1" + std::string(static_cast<size_t>(std::stoi(match[1])), '0') +
           match.suffix().str();
  }
  return text.empty() ? kNotStated : text;
}

std::string published_multiplication(const PublishedRecord& row) {
  if (!is_arithmetic(row.task)) return "";
  if (row.task == "modular_arithmetic")
    return row.profile.starts_with(kNotStated) ? kNotStated : "on";
  if (row.note.find("multiplication inside brackets on") != std::string::npos) return "on";
  if (row.note.find("multiplication inside brackets off") != std::string::npos) return "off";
  if (row.note.find("without multiplication") != std::string::npos) return "off (inferred)";
  return row.profile == "slice" ? "on" : kNotStated;
}

}  // namespace

Protocol protocol_of_run(const FlatConfig& config, const std::string& computed_with) {
  Protocol p;
  p.task = config_value(config, "task.name");
  p.length_convention = config_value(config, "task.profile");
  if (is_arithmetic(p.task))
    p.multiplication = config_value(config, "task.multiplication") == "false" ? "off" : "on";
  p.supervision = config_value(config, "task.supervision");
  p.bos = config_value(config, "task.bos") == "true" ? "with BOS" : "no BOS";
  const std::string& select = config_value(config, "eval.select");
  p.weights = select == "best" ? "weights of the best validation" : "last weights";
  if (const std::string& stop = config_value(config, "eval.stop_at");
      !stop.empty() && stop != "none") {
    p.weights += fmt::format(", stopped at validation {}", stop);
  }
  p.precision = computed_with.empty() ? config_value(config, "train.precision") : computed_with;
  p.curriculum = curriculum_of_stages(config_value(config, "train.curriculum"));
  return p;
}

Protocol protocol_of_published(const PublishedRecord& row) {
  Protocol p;
  const bool known_harness = row.profile == "xlstm" || row.profile == "slice";
  p.task = row.task;
  p.length_convention = row.profile.starts_with(kNotStated) ? kNotStated : row.profile;
  p.multiplication = published_multiplication(row);
  p.supervision =
      known_harness ? "last" : kNotStated;  // both harnesses mask all positions but the answer's
  p.bos = known_harness ? "no BOS" : kNotStated;
  p.weights = kNotStated;
  p.selection = row.selection;
  p.precision = kNotStated;
  p.curriculum = curriculum_of_lengths(row.lengths);
  return p;
}

std::vector<ProtocolDifference> protocol_differences(const Protocol& ours, const Protocol& theirs) {
  std::vector<ProtocolDifference> differences;
  for (const Choice& choice : kChoices) {
    const std::string &a = ours.*choice.member, &b = theirs.*choice.member;
    if (a != b || a == kNotStated) differences.push_back({choice.name, a, b});
  }
  return differences;
}

std::vector<std::string> differing_choices(const std::vector<Protocol>& protocols) {
  std::vector<std::string> names;
  for (const Choice& choice : kChoices) {
    const bool agree = std::all_of(protocols.begin(), protocols.end(), [&](const Protocol& p) {
      return p.*choice.member == protocols.front().*choice.member;
    });
    if (!agree) names.emplace_back(choice.name);
  }
  return names;
}

}  // namespace statelab

// Drawing samples in tests: buffers start dirty, so that a missing write shows up.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tasks/task.h"

namespace statelab::testing {

struct Sample {
  SampleInfo info;
  std::vector<int32_t> tokens;  // the used positions only
  std::vector<int32_t> targets;
};

/// One sample, drawn into buffers of -2.
inline Sample draw_one(const Task& task, RngKey key, uint32_t step, uint32_t index,
                       LengthRange lengths) {
  const auto width = static_cast<size_t>(task.seqlen(lengths.max));
  Sample sample;
  sample.tokens.assign(width, -2);
  sample.targets.assign(width, -2);
  sample.info = task.draw(key, step, index, lengths, sample.tokens, sample.targets);
  sample.tokens.resize(static_cast<size_t>(sample.info.tokens));
  sample.targets.resize(static_cast<size_t>(sample.info.tokens));
  return sample;
}

/// The first of `tries` samples whose tokens are the wanted ones.
inline std::optional<Sample> find_sample(const Task& task, LengthRange lengths,
                                         const std::vector<int32_t>& tokens, uint32_t tries) {
  for (uint32_t i = 0; i < tries; ++i) {
    Sample sample = draw_one(task, {20240501, Stream::kVerify}, 0, i, lengths);
    if (sample.tokens == tokens) return sample;
  }
  return std::nullopt;
}

inline TaskConfig config_of(const std::string& name, const std::string& profile,
                            const std::string& supervision = "last") {
  TaskConfig config;
  config.name = name;
  config.profile = profile;
  config.supervision = supervision;
  return config;
}

inline TaskConfig word_config(const std::string& group) {
  TaskConfig config = config_of("word_problem", "word", "all");
  config.group = group;
  return config;
}

inline TaskConfig liu_config(const std::string& machine, int size = 0) {
  TaskConfig config = config_of("liu", "liu", "all");
  config.machine = machine;
  config.size = size;
  return config;
}

/// A vending machine with 7 states that sells at 6 coins' worth.
inline TaskConfig vending_machine(const std::string& profile) {
  TaskConfig config = config_of("automaton", profile);
  AutomatonConfig& a = config.automaton;
  a.states = {"c0", "c1", "c2", "c3", "c4", "c5", "sold"};
  a.symbols = {"one", "two", "cancel"};
  for (int q = 0; q < 7; ++q) {
    const int from = q == 6 ? 0 : q;
    a.transitions.push_back({std::min(from + 1, 6), std::min(from + 2, 6), 0});
  }
  a.outputs = {"wait", "wait", "wait", "wait", "soon", "soon", "sold"};
  return config;
}

}  // namespace statelab::testing

// One configuration of each kind, for claims that hold for all tasks.
#pragma once

#include <string>
#include <vector>

#include "tests/tasks/drawing.h"

namespace statelab::testing {

struct Case {
  std::string label;
  TaskConfig config;
  LengthRange lengths;
};

/// Every task in every profile, both supervisions where defined, with and without BOS.
inline std::vector<Case> every_task() {
  std::vector<Case> cases;
  const auto add = [&](std::string label, TaskConfig config, LengthRange lengths) {
    for (const char* supervision : {"last", "all"}) {
      if (config.name == "modular_arithmetic_brackets" && supervision == std::string("all"))
        continue;
      for (const bool bos : {false, true}) {
        config.supervision = supervision;
        config.bos = bos;
        cases.push_back({label + " " + supervision + (bos ? " bos" : ""), config, lengths});
      }
    }
  };
  for (const std::string profile : {"xlstm", "slice", "chomsky"}) {
    for (const std::string name : {"parity", "even_pairs", "cycle_navigation", "modular_arithmetic",
                                   "modular_arithmetic_brackets"}) {
      add(name + "." + profile, config_of(name, profile), {3, 40});
    }
    TaskConfig moves = config_of("cycle_navigation", profile);
    moves.modulus = 7;
    moves.max_move = 3;
    add("cycle_navigation 7 3." + profile, moves, {3, 40});
    for (const std::string name : {"modular_arithmetic", "modular_arithmetic_brackets"}) {
      TaskConfig config = config_of(name, profile);
      config.modulus = 7;
      config.multiplication = false;
      add(name + " mod 7 no *." + profile, config, {3, 40});
    }
    add("automaton." + profile, vending_machine(profile), {3, 40});
  }
  add("automaton.liu", vending_machine("liu"), {3, 40});
  for (const std::string group :
       {"Z2", "Z60", "D8", "D10", "S3", "S5", "A4", "A5", "H3", "Q8", "A4xZ5", "Z2xS3xZ3"}) {
    add("word." + group, word_config(group), {1, 20});
  }
  TaskConfig swaps = word_config("S5");
  swaps.alphabet = "swaps";
  add("word.S5 swaps", swaps, {1, 20});
  TaskConfig fillers = word_config("S4");
  fillers.fillers = 4;
  add("word.S4 fillers 4", fillers, {1, 12});
  fillers.filler = "repeat";
  add("word.S4 fillers 4 repeat", fillers, {1, 12});
  TaskConfig hard = word_config("S3");
  hard.variant = "hard";
  add("word.S3 hard", hard, {4, 20});
  hard = swaps;
  hard.variant = "hard";
  add("word.S5 swaps hard", hard, {4, 20});
  add("flip_flop", config_of("flip_flop", "fflm"), {4, 64});
  const std::vector<std::pair<std::string, int>> machines = {{"parity", 0},
                                                             {"gridworld", 4},
                                                             {"abab", 0},
                                                             {"abab_accept", 0},
                                                             {"adder", 3},
                                                             {"adder_digit", 2},
                                                             {"adder_carry", 2},
                                                             {"flip_flop", 3},
                                                             {"cyclic", 5},
                                                             {"symmetric", 4},
                                                             {"symmetric_first", 4},
                                                             {"alternating", 4},
                                                             {"dihedral", 4},
                                                             {"dihedral_toggle", 5},
                                                             {"dihedral_position", 5},
                                                             {"quaternion", 0},
                                                             {"permutation_reset", 3}};
  for (const auto& [machine, size] : machines) {
    add("liu." + machine, liu_config(machine, size), {1, 30});
  }
  return cases;
}

}  // namespace statelab::testing

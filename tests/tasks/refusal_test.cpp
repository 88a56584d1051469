#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/tasks/drawing.h"

namespace statelab::testing {
namespace {

using ::testing::HasSubstr;

void expect_refusal(const TaskConfig& config, const std::string& parameter,
                    const std::string& text) {
  try {
    make_task(config);
    FAIL() << "accepted: " << text;
  } catch (const TaskError& error) {
    EXPECT_EQ(error.task, config.name);
    EXPECT_EQ(error.parameter, parameter);
    EXPECT_EQ(std::string(error.what()), text);
  }
}

void expect_refused_lengths(const TaskConfig& config, LengthRange lengths,
                            const std::string& text) {
  const auto task = make_task(config);
  try {
    task->check_lengths(lengths);
    FAIL() << "accepted: " << text;
  } catch (const TaskError& error) {
    EXPECT_EQ(error.parameter, "length");
    EXPECT_THAT(error.what(), HasSubstr(text));
  }
}

TaskConfig changed(TaskConfig config, const std::function<void(TaskConfig&)>& change) {
  change(config);
  return config;
}

TEST(Refusal, UnknownTaskNamesAllTasks) {
  expect_refusal(config_of("parrity", "xlstm"), "name",
                 "task name must be one of parity, even_pairs, cycle_navigation, "
                 "modular_arithmetic, modular_arithmetic_brackets, word_problem, flip_flop, liu, "
                 "automaton: parrity");
}

TEST(Refusal, PairsOfTaskAndProfileThatDoNotExist) {
  expect_refusal(config_of("parity", "word"), "profile",
                 "[parity] profile must be one of xlstm, slice, chomsky: word");
  expect_refusal(config_of("flip_flop", "xlstm"), "profile",
                 "[flip_flop] profile must be one of fflm: xlstm");
  expect_refusal(changed(word_config("S3"), [](auto& c) { c.profile = "xlstm"; }), "profile",
                 "[word_problem] profile must be one of word: xlstm");
  expect_refusal(changed(liu_config("abab"), [](auto& c) { c.profile = "slice"; }), "profile",
                 "[liu] profile must be one of liu: slice");
  expect_refusal(vending_machine("word"), "profile",
                 "[automaton] profile must be one of xlstm, slice, chomsky, liu: word");
}

TEST(Refusal, Supervision) {
  expect_refusal(config_of("parity", "xlstm", "some"), "supervision",
                 "[parity] supervision must be last or all: some");
  expect_refusal(config_of("modular_arithmetic_brackets", "xlstm", "all"), "supervision",
                 "[modular_arithmetic_brackets] supervision must be last (a part of a bracketed "
                 "expression has no value): all");
}

TEST(Refusal, NumbersOutOfRange) {
  expect_refusal(changed(config_of("cycle_navigation", "xlstm"), [](auto& c) { c.modulus = 1; }),
                 "modulus", "[cycle_navigation] modulus must be in 2..1024: 1");
  expect_refusal(changed(config_of("cycle_navigation", "xlstm"), [](auto& c) { c.max_move = 0; }),
                 "max_move", "[cycle_navigation] max_move must be in 1..64: 0");
  expect_refusal(changed(config_of("modular_arithmetic", "xlstm"), [](auto& c) { c.modulus = 33; }),
                 "modulus", "[modular_arithmetic] modulus must be in 2..32: 33");
  expect_refusal(changed(word_config("S3"), [](auto& c) { c.fillers = 0; }), "fillers",
                 "[word_problem] fillers must be in 1..64: 0");
  expect_refusal(changed(config_of("flip_flop", "fflm"), [](auto& c) { c.ignore_prob = 1.5; }),
                 "ignore_prob", "[flip_flop] ignore_prob must be in 0..1: 1.500000");
  expect_refusal(liu_config("gridworld", 1), "size", "[liu] size must be in 2..1024: 1");
  expect_refusal(liu_config("symmetric", 7), "size", "[liu] size must be in 3..6: 7");
}

TEST(Refusal, KeysThatTheTaskDoesNotRead) {
  expect_refusal(changed(config_of("parity", "xlstm"), [](auto& c) { c.modulus = 7; }), "modulus",
                 "[parity] modulus is not read by this task, which reads name, profile, "
                 "supervision, bos");
  expect_refusal(changed(word_config("S3"), [](auto& c) { c.machine = "abab"; }), "machine",
                 "[word_problem] machine is not read by this task, which reads name, profile, "
                 "supervision, bos, group, alphabet, alphabet_list, fillers, "
                 "filler, variant");
  expect_refusal(liu_config("quaternion", 8), "size",
                 "[liu] size is not read by machine quaternion: 8");
  expect_refusal(changed(word_config("S3"), [](auto& c) { c.alphabet_list = {1}; }),
                 "alphabet_list",
                 "[word_problem] alphabet_list is read only with alphabet: list, not with "
                 "alphabet: full");
}

TEST(Refusal, Groups) {
  const auto refused = [](const std::string& group, const std::string& text) {
    expect_refusal(word_config(group), "group", "[word_problem] group " + text);
  };
  refused("", "must be Z_n, D_m (m = order), S_n, A_n, H3, Q8 or a product such as A4xZ5: (none)");
  refused("B5", "must be Z_n, D_m (m = order), S_n, A_n, H3, Q8 or a product such as A4xZ5: B5");
  refused("S3x", "must be Z_n, D_m (m = order), S_n, A_n, H3, Q8 or a product such as A4xZ5: S3x");
  refused("H5", "must be Z_n, D_m (m = order), S_n, A_n, H3, Q8 or a product such as A4xZ5: H5");
  refused("D7", "D_m is named by its order m, even and at least 4: D7");
  refused("S7", "must have order at most 1024 (S6): S7");
  refused("Z2000", "must have order at most 1024 (Z1024): Z2000");
  refused("S5xS5", "must have order at most 1024: S5xS5 has 14400 or more");
}

TEST(Refusal, Alphabets) {
  expect_refusal(changed(word_config("Z5"), [](auto& c) { c.alphabet = "swaps"; }), "alphabet",
                 "[word_problem] alphabet swaps needs a group of permutations: Z5");
  expect_refusal(changed(word_config("A5"), [](auto& c) { c.alphabet = "swaps"; }), "alphabet",
                 "[word_problem] alphabet swaps must leave more than the identity: A5");
  expect_refusal(changed(word_config("S3"), [](auto& c) { c.alphabet = "half"; }), "alphabet",
                 "[word_problem] alphabet must be one of full, swaps, le3, list: half");
  const auto list = [](std::vector<int> elements) {
    return changed(word_config("S3"), [&](auto& c) {
      c.alphabet = "list";
      c.alphabet_list = elements;
    });
  };
  expect_refusal(list({}), "alphabet_list",
                 "[word_problem] alphabet_list must name at least one element: (empty)");
  expect_refusal(list({1, 6}), "alphabet_list",
                 "[word_problem] alphabet_list must hold elements 0..5 of S3: 6");
  expect_refusal(list({1, 1}), "alphabet_list",
                 "[word_problem] alphabet_list must hold each element once: 1");
}

TEST(Refusal, FillersAndVariants) {
  const auto word = [](int fillers, const char* filler, const char* variant) {
    return changed(word_config("S3"), [&](auto& c) {
      c.fillers = fillers;
      c.filler = filler;
      c.variant = variant;
    });
  };
  expect_refusal(word(2, "same", "plain"), "filler",
                 "[word_problem] filler must be one of token, repeat: same");
  expect_refusal(word(1, "repeat", "plain"), "filler",
                 "[word_problem] filler repeat needs fillers of at least 2: 1");
  expect_refusal(word(1, "token", "easy"), "variant",
                 "[word_problem] variant must be one of plain, hard: easy");
  const std::string hard =
      "[word_problem] fillers must be 1 with variant: hard, which puts three identities after each "
      "product: 2";
  expect_refusal(word(2, "token", "hard"), "fillers", hard);
  expect_refusal(word(2, "repeat", "hard"), "fillers", hard);
  expect_refusal(changed(config_of("parity", "xlstm"), [](auto& c) { c.filler = "repeat"; }),
                 "filler",
                 "[parity] filler is not read by this task, which reads name, profile, "
                 "supervision, bos");
  expect_refusal(changed(liu_config("abab"), [](auto& c) { c.variant = "hard"; }), "variant",
                 "[liu] variant is not read by this task, which reads name, profile, supervision, "
                 "bos, machine, size");
  expect_refused_lengths(word(1, "token", "hard"), {3, 40}, "length must be at least 4");
}

TaskConfig cayley(std::vector<std::vector<int>> table, std::vector<std::string> names = {}) {
  TaskConfig config = word_config("");
  config.custom_group.cayley_table = std::move(table);
  config.custom_group.elements = std::move(names);
  return config;
}

TEST(Refusal, TablesThatAreNoGroupNameTheElements) {
  const std::string key = "group.cayley_table", subject = "[word_problem] group.cayley_table ";
  expect_refusal(cayley({{0, 1}, {1}}), key, subject + "must be square: row 1 has 1 of 2 entries");
  expect_refusal(cayley({{0, 1}, {1, 2}}), key, subject + "must hold elements 0..1: 1 * 1 = 2");
  expect_refusal(cayley({{0, 0}, {0, 0}}), key,
                 subject + "has no identity: no e with e * a = a * e = a for all a");
  expect_refusal(cayley({{0, 1}, {1, 1}}, {"e", "a"}), key, subject + "gives a no inverse");
  // A loop of order 5: every element has an inverse, only associativity fails.
  expect_refusal(
      cayley({{0, 1, 2, 3, 4}, {1, 0, 3, 4, 2}, {2, 4, 0, 1, 3}, {3, 2, 4, 0, 1}, {4, 3, 1, 2, 0}},
             {"e", "a", "b", "c", "d"}),
      key, subject + "is not associative: (a * a) * b = b but a * (a * b) = d");
  expect_refusal(cayley({{0, 1}, {1, 0}}, {"e"}), "group.elements",
                 "[word_problem] group.elements must name each of the 2 elements once: 1 names");
}

TEST(Refusal, GeneratorsThatAreNoPermutations) {
  TaskConfig config = word_config("");
  config.custom_group.generators = {{2, 1, 3}, {2, 2, 1}};
  expect_refusal(config, "group.generators",
                 "[word_problem] group.generators must be permutations of 1..n in one-line form, "
                 "all of one n: [2 2 1]");
  config.custom_group.generators = {{2, 1, 3}, {2, 1}};
  expect_refusal(config, "group.generators",
                 "[word_problem] group.generators must be permutations of 1..n in one-line form, "
                 "all of one n: [2 1]");
  config.custom_group.generators = {{2, 3, 4, 5, 6, 7, 1}, {2, 1, 3, 4, 5, 6, 7}};
  expect_refusal(config, "group.generators",
                 "[word_problem] group.generators must generate at most 1024 elements: more than "
                 "that");
  config.custom_group.generators = {{2, 1}};
  config.custom_group.cayley_table = {{0}};
  expect_refusal(config, "group",
                 "[word_problem] group must give exactly one of generators and cayley_table: both");
  config.group = "S3";
  expect_refusal(config, "group",
                 "[word_problem] group must be a name or an own group, not both: S3");
}

TEST(Refusal, AutomataWithHoles) {
  const auto broken = [](const std::function<void(AutomatonConfig&)>& change) {
    TaskConfig config = vending_machine("xlstm");
    change(config.automaton);
    return config;
  };
  const std::string key = "automaton.transitions", subject = "[automaton] automaton.transitions ";
  expect_refusal(
      broken([](auto& a) { a.transitions[2][1] = -1; }), key,
      subject + "must name a next state for every symbol: state c2, symbol two has none");
  expect_refusal(broken([](auto& a) { a.transitions.pop_back(); }), key,
                 subject +
                     "must name a next state for every symbol: state sold, symbol one has "
                     "none");
  expect_refusal(broken([](auto& a) { a.transitions[0][0] = 7; }), key,
                 subject +
                     "must lead to one of the 7 states: state c0, symbol one leads to "
                     "index 7");
  expect_refusal(broken([](auto& a) { a.start = 9; }), "automaton.start",
                 "[automaton] automaton.start must be one of the 7 states: index 9");
  expect_refusal(broken([](auto& a) { a.outputs.pop_back(); }), "automaton.outputs",
                 "[automaton] automaton.outputs must hold one output per state, 7: 6");
  expect_refusal(broken([](auto& a) { a.states[1] = "c0"; }), "automaton.states",
                 "[automaton] automaton.states must hold each name once: c0");
  expect_refusal(broken([](auto& a) { a.symbols.clear(); }), "automaton.symbols",
                 "[automaton] automaton.symbols must not be empty");
}

TEST(Refusal, UnknownMachineNamesThem) {
  try {
    make_task(liu_config("gridwold"));
    FAIL();
  } catch (const TaskError& error) {
    EXPECT_EQ(error.parameter, "machine");
    EXPECT_THAT(error.what(), HasSubstr("[liu] machine must be one of parity, gridworld, abab,"));
    EXPECT_THAT(error.what(), HasSubstr(": gridwold"));
  }
}

TEST(RefusedLengths, EmptyReversedAndHuge) {
  const TaskConfig parity = config_of("parity", "xlstm");
  expect_refused_lengths(parity, {0, 40}, "[parity] length must be at least 1: [0, 40]");
  expect_refused_lengths(parity, {40, 3}, "[parity] length must have min <= max: [40, 3]");
  expect_refused_lengths(parity, {3, 70000}, "[parity] length must not exceed 65000: [3, 70000]");
}

TEST(RefusedLengths, TooShortForTheProfile) {
  expect_refused_lengths(config_of("parity", "xlstm"), {1, 40},
                         "[parity] length must be at least 2 in profile xlstm");
  expect_refused_lengths(config_of("even_pairs", "xlstm"), {2, 40},
                         "[even_pairs] length must be at least 3 in profile xlstm");
  expect_refused_lengths(config_of("modular_arithmetic", "xlstm"), {2, 40},
                         "[modular_arithmetic] length must be at least 3 in profile xlstm");
  expect_refused_lengths(config_of("modular_arithmetic_brackets", "xlstm"), {3, 4},
                         "[modular_arithmetic_brackets] length must reach 5");
  expect_refused_lengths(
      config_of("modular_arithmetic_brackets", "slice"), {1, 9},
      "[modular_arithmetic_brackets] length must be at least 2 in profile slice");
  expect_refused_lengths(config_of("flip_flop", "fflm"), {5, 5},
                         "[flip_flop] length must hold an even number: [5, 5]");
  expect_refused_lengths(config_of("flip_flop", "fflm"), {2, 8},
                         "[flip_flop] length must be at least 4 in profile fflm");
}

TEST(RefusedLengths, ShortestLegalLengthsAreTaken) {
  make_task(config_of("parity", "xlstm"))->check_lengths({2, 2});
  make_task(config_of("even_pairs", "slice"))->check_lengths({1, 1});
  make_task(config_of("modular_arithmetic", "xlstm"))->check_lengths({3, 3});
  make_task(config_of("modular_arithmetic", "slice"))->check_lengths({1, 1});
  make_task(config_of("modular_arithmetic", "chomsky"))->check_lengths({1, 2});
  make_task(config_of("modular_arithmetic_brackets", "xlstm"))->check_lengths({1, 5});
  make_task(config_of("flip_flop", "fflm"))->check_lengths({4, 4});
  make_task(word_config("S3"))->check_lengths({1, 1});
  const auto adder = make_task(liu_config("adder"));
  EXPECT_EQ(draw_one(*adder, {1, Stream::kTest}, 0, 0, {1, 1}).info.tokens, 2);
}

}  // namespace
}  // namespace statelab::testing

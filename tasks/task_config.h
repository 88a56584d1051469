// What a task is: the resolved `task:` block of a run. Plain data; make_task() says what is
// impossible.
#pragma once

#include <string>
#include <vector>

namespace statelab {

/// A user's own automaton (YAML `task.automaton`): states and symbols are names;
/// transitions[state][symbol] = next state.
struct AutomatonConfig {
  std::vector<std::string> states;
  std::vector<std::string> symbols;
  std::vector<std::vector<int>> transitions;  ///< (states, symbols), -1 = missing
  int start = 0;
  std::vector<std::string> outputs;  ///< one per state, what to predict; empty = the state itself
};

/// A user's own group (YAML `task.group`): exactly one of the two is given.
struct GroupConfig {
  std::vector<std::vector<int>> generators;    ///< one-line permutations of 1..n
  std::vector<std::vector<int>> cayley_table;  ///< cayley_table[a][b] = a * b, elements 0..n-1
  std::vector<std::string> elements;           ///< names, optional
};

/// Field names, values and defaults are those of the YAML. A field that the task does not read must
/// keep its default; which ones a task reads: list_tasks().
struct TaskConfig {
  std::string name = "parity";
  std::string profile = "xlstm";     ///< xlstm | slice | chomsky | word | liu | fflm
  std::string supervision = "last";  ///< last: the answer alone; all: the running answer everywhere
  bool bos = false;  ///< BOS before the data; id = the vocabulary's last (word: order + 1)
  int modulus = 5;   ///< cycle size or arithmetic modulus
  int max_move = 1;  ///< cycle navigation: moves 0, +-1 .. +-max_move
  bool multiplication = true;      ///< `*` in arithmetic; xlstm's released bracket files say false
  std::string group;               ///< word problem: Z_n, D_m, S_n, A_n, H3, Q8, products as A4xZ5
  std::string alphabet = "full";   ///< word problem: full | swaps | le3 | list
  std::vector<int> alphabet_list;  ///< element indices when alphabet: list
  int fillers = 1;                 ///< word problem: tokens per element
  std::string filler = "token";    ///< word problem: what follows an element: token | repeat
  std::string variant = "plain";   ///< word problem: plain | hard
  std::string machine;             ///< liu: name of the automaton, e.g. gridworld
  int size = 0;                    ///< liu: the automaton's n; 0 = the published default
  double ignore_prob = 0.8;        ///< flip-flop language: p_i
  AutomatonConfig automaton;       ///< name: automaton
  GroupConfig custom_group;        ///< name: word_problem with an own group
};

}  // namespace statelab

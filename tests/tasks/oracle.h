// An exact oracle: from the tokens of a row alone to the answer at each position.
//
// It shares nothing with the generators: expressions are read by a recursive-descent parser, groups
// are acted out with permutations, matrices and quaternions, automata are simulated in words.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tasks/task_config.h"

namespace statelab::testing {

// ---- expressions ----

/// One character per id; '_' padding, '#' blank, '?' query.
inline std::string expression_alphabet(const TaskConfig& config) {
  const std::string digits =
      std::string("0123456789").substr(0, static_cast<size_t>(config.modulus));
  const bool flat = config.name == "modular_arithmetic";
  if (config.profile == "chomsky") return digits + (flat ? "+-*#?" : "+-*()x?");
  if (flat) return "_+-*=" + digits;
  return config.profile == "slice" ? "_" + digits + "+-*()=" : digits + "+-*()=_";
}

class ExpressionParser {
 public:
  ExpressionParser(std::string text, int modulus) : text_(std::move(text)), modulus_(modulus) {}

  /// Value in 0..modulus-1. Throws std::runtime_error when the text is no expression.
  int value() {
    const int result = sum();
    if (at_ != text_.size()) throw std::runtime_error("trailing text: " + text_);
    return result;
  }

 private:
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  int reduce(long v) const { return static_cast<int>((v % modulus_ + modulus_) % modulus_); }

  int sum() {
    int left = product();
    while (peek() == '+' || peek() == '-') {
      const char op = text_[at_++];
      const int right = product();
      left = reduce(op == '+' ? left + right : left - right);
    }
    return left;
  }
  int product() {
    int left = factor();
    while (peek() == '*') {
      ++at_;
      left = reduce(static_cast<long>(left) * factor());
    }
    return left;
  }
  int factor() {
    const char c = peek();
    ++at_;
    if (c == '-') return reduce(-factor());
    if (c == '(') {
      const int inside = sum();
      if (peek() != ')') throw std::runtime_error("missing ): " + text_);
      ++at_;
      return inside;
    }
    if (c < '0' || c > '9') throw std::runtime_error("no digit: " + text_);
    return c - '0';
  }

  std::string text_;
  size_t at_ = 0;
  int modulus_;
};

inline std::string as_text(const TaskConfig& config, const std::vector<int32_t>& tokens) {
  const std::string alphabet = expression_alphabet(config);
  std::string text;
  for (const int32_t token : tokens) text += alphabet.at(static_cast<size_t>(token));
  return text;
}

// ---- groups ----

/// A group element as a list of factors, each a list of numbers in its own representation.
using OracleElement = std::vector<std::vector<int>>;

struct OracleFactor {
  char kind;  // Z, D, S, A, H, Q
  int n;      // as in the name
  std::vector<std::vector<int>> elements;

  std::vector<int> product(const std::vector<int>& a, const std::vector<int>& b) const {
    std::vector<int> c(a.size());
    if (kind == 'Z') {
      c[0] = (a[0] + b[0]) % n;
    } else if (kind == 'H') {  // upper unitriangular 3 x 3 matrices over Z_2, row by row
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          int sum = 0;
          for (int k = 0; k < 3; ++k) sum += a[size_t(3 * i + k)] * b[size_t(3 * k + j)];
          c[size_t(3 * i + j)] = sum % 2;
        }
      }
    } else if (kind == 'Q') {  // Hamilton's product
      c = {a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
           a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
           a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
           a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0]};
    } else {  // maps of points; the right factor acts first
      for (size_t i = 0; i < a.size(); ++i) c[i] = a[size_t(b[i])];
    }
    return c;
  }
};

inline OracleFactor oracle_factor(const std::string& name) {
  OracleFactor f{name[0], std::stoi(name.substr(1)), {}};
  if (f.kind == 'Z') {
    for (int i = 0; i < f.n; ++i) f.elements.push_back({i});
  } else if (f.kind == 'D') {  // x -> k + x and x -> k - x on a regular polygon's corners
    const int corners = f.n / 2;
    for (int flip = 0; flip < 2; ++flip) {
      for (int k = 0; k < corners; ++k) {
        std::vector<int> map;
        for (int x = 0; x < corners; ++x) {
          map.push_back((k + (flip ? corners - x : x)) % corners);
        }
        f.elements.push_back(map);
      }
    }
  } else if (f.kind == 'H') {
    for (int a = 0; a < 2; ++a) {
      for (int b = 0; b < 2; ++b) {
        for (int c = 0; c < 2; ++c) f.elements.push_back({1, a, c, 0, 1, b, 0, 0, 1});
      }
    }
  } else if (f.kind == 'Q') {
    for (int sign = 1; sign >= -1; sign -= 2) {
      for (size_t unit = 0; unit < 4; ++unit) {
        std::vector<int> q(4, 0);
        q[unit] = sign;
        f.elements.push_back(q);
      }
    }
  } else {
    std::vector<int> p(static_cast<size_t>(f.n));
    std::iota(p.begin(), p.end(), 0);
    do {
      int cycles = 0;  // parity of a permutation: points minus cycles
      std::vector<bool> seen(p.size(), false);
      for (size_t i = 0; i < p.size(); ++i) {
        if (!seen[i]) ++cycles;
        for (size_t j = i; !seen[j]; j = size_t(p[j])) seen[j] = true;
      }
      if (f.kind == 'S' || (f.n - cycles) % 2 == 0) f.elements.push_back(p);
    } while (std::next_permutation(p.begin(), p.end()));
  }
  return f;
}

class OracleGroup {
 public:
  explicit OracleGroup(const std::string& name) {  // "A4xZ5"
    size_t begin = 0;
    while (begin <= name.size()) {
      const size_t end = std::min(name.find('x', begin), name.size());
      factors_.push_back(oracle_factor(name.substr(begin, end - begin)));
      begin = end + 1;
    }
  }
  int order() const {
    int order = 1;
    for (const auto& f : factors_) order *= static_cast<int>(f.elements.size());
    return order;
  }
  int product(int a, int b) const {
    int index = 0, rest = order();
    for (const auto& f : factors_) {
      const int size = static_cast<int>(f.elements.size());
      rest /= size;
      const auto c =
          f.product(f.elements[size_t(a / rest % size)], f.elements[size_t(b / rest % size)]);
      const auto at = std::find(f.elements.begin(), f.elements.end(), c) - f.elements.begin();
      index = index * size + static_cast<int>(at);
    }
    return index;
  }

 private:
  std::vector<OracleFactor> factors_;
};

inline std::vector<int32_t> word_answers(const TaskConfig& config,
                                         const std::vector<int32_t>& data) {
  const OracleGroup group(config.group);
  const bool hard = config.variant == "hard";
  const size_t c = hard ? 4 : static_cast<size_t>(config.fillers);
  std::vector<int32_t> undelayed;
  for (size_t t = 0; t < data.size(); ++t) {
    if (t % c != 0) {
      const int filler = hard ? 0 : config.filler == "repeat" ? data[t - 1] : group.order();
      if (data[t] != filler) throw std::runtime_error("filler expected");
      undelayed.push_back(undelayed.back());
    } else {
      undelayed.push_back(t == 0 ? data[0] : group.product(undelayed.back(), data[t]));
    }
  }
  std::vector<int32_t> answers(c - 1, 0);
  answers.insert(answers.end(), undelayed.begin(), undelayed.end() - static_cast<long>(c - 1));
  return answers;
}

// ---- automata ----

inline int rank_of(const std::vector<int>& arrangement, bool even_only) {
  const OracleFactor f =
      oracle_factor((even_only ? "A" : "S") + std::to_string(arrangement.size()));
  return static_cast<int>(std::find(f.elements.begin(), f.elements.end(), arrangement) -
                          f.elements.begin());
}

inline std::vector<int32_t> liu_answers(const std::string& machine, int n,
                                        const std::vector<int32_t>& data) {
  std::vector<int32_t> answers;
  const auto starts = [&](const char* prefix) { return machine.rfind(prefix, 0) == 0; };
  int position = 0, toggle = 0, carry = 0, ones = 0, stored = 0, total = 0, reset = 0;
  bool broken = false;
  std::vector<int> line(static_cast<size_t>(std::max(n, 1)));
  std::iota(line.begin(), line.end(), 0);
  std::vector<int> quaternion = {1, 0, 0, 0};
  const OracleFactor q8 = oracle_factor("Q8");
  for (size_t t = 0; t < data.size(); ++t) {
    const int x = data[t];
    if (machine == "parity") {
      ones += x;
      answers.push_back(ones % 2);
    } else if (machine == "gridworld") {
      position = x == 1 ? std::min(position + 1, n - 1) : std::max(position - 1, 0);
      answers.push_back(position);
    } else if (starts("abab")) {
      broken = broken || x != static_cast<int>(t % 2);
      const int state = broken ? 4 : static_cast<int>(t % 4);
      answers.push_back(machine == "abab" ? state : (state == 3 ? 1 : 0));
    } else if (starts("adder")) {
      int sum = carry;
      for (int i = 0; i < n; ++i) sum += (x / (1 << i)) % 2;
      const int digit = sum % n;
      carry = sum / n;
      answers.push_back(machine == "adder"         ? digit + n * carry
                        : machine == "adder_digit" ? digit
                                                   : carry);
    } else if (machine == "flip_flop") {
      if (x != 0) stored = x;
      answers.push_back(stored);
    } else if (machine == "cyclic") {
      total += x;
      answers.push_back(total % n);
    } else if (starts("symmetric")) {
      if (x == 1) {
        line.push_back(line.front());
        line.erase(line.begin());
      } else if (x == 2) {
        std::swap(line[0], line[1]);
      }
      answers.push_back(machine == "symmetric" ? rank_of(line, false) : line[0]);
    } else if (machine == "alternating") {
      if (x > 0) {  // the arrangement's places 0, 1, x + 1 shift to the left
        const int first = line[0];
        line[0] = line[1];
        line[1] = line[size_t(x + 1)];
        line[size_t(x + 1)] = first;
      }
      answers.push_back(rank_of(line, true));
    } else if (starts("dihedral")) {
      if (x == 0) toggle = 1 - toggle;
      if (x == 1) position = (position + n + (toggle == 1 ? -1 : 1)) % n;
      answers.push_back(machine == "dihedral"          ? n * toggle + position
                        : machine == "dihedral_toggle" ? toggle
                                                       : position);
    } else if (machine == "quaternion") {
      quaternion = q8.product(quaternion, q8.elements[size_t(x)]);
      answers.push_back(static_cast<int>(
          std::find(q8.elements.begin(), q8.elements.end(), quaternion) - q8.elements.begin()));
    } else if (machine == "permutation_reset") {
      const OracleFactor all = oracle_factor("S" + std::to_string(n));
      const int count = static_cast<int>(all.elements.size());
      if (x < count) {
        line = all.elements[size_t(x)];
        ++reset;
      } else if (x == count) {
        std::swap(line[0], line[1]);
      } else {
        line.insert(line.begin(), line.back());
        line.pop_back();
      }
      answers.push_back(rank_of(line, false));
    } else {
      throw std::runtime_error("no oracle for machine " + machine);
    }
  }
  if (machine == "permutation_reset" && reset == 0) throw std::runtime_error("no reset");
  return answers;
}

inline std::vector<int32_t> automaton_answers(const TaskConfig& config,
                                              const std::vector<int32_t>& data) {
  const AutomatonConfig& a = config.automaton;
  std::map<std::pair<std::string, std::string>, std::string> next;
  std::map<std::string, std::string> output;
  std::vector<std::string> labels;  // by first appearance
  for (size_t q = 0; q < a.states.size(); ++q) {
    const std::string out = a.outputs.empty() ? a.states[q] : a.outputs[q];
    output[a.states[q]] = out;
    if (std::count(labels.begin(), labels.end(), out) == 0) labels.push_back(out);
    for (size_t x = 0; x < a.symbols.size(); ++x) {
      next[{a.states[q], a.symbols[x]}] = a.states[size_t(a.transitions[q][x])];
    }
  }
  const bool padded = config.profile == "xlstm" || config.profile == "slice";
  std::string state = a.states[size_t(a.start)];
  std::vector<int32_t> answers;
  for (const int32_t token : data) {
    state = next.at({state, a.symbols.at(size_t(token - (padded ? 1 : 0)))});
    const auto at = std::find(labels.begin(), labels.end(), output[state]) - labels.begin();
    answers.push_back(static_cast<int>(at) + (padded ? 1 + static_cast<int>(a.symbols.size()) : 0));
  }
  return answers;
}

// ---- all tasks ----

/// Expected targets of a row's used positions, -1 where nothing is supervised.
inline std::vector<int32_t> oracle_targets(const TaskConfig& config, std::vector<int32_t> tokens) {
  const bool chomsky = config.profile == "chomsky";
  const int base = chomsky ? 0 : 1;  // id of the first symbol in xlstm, slice
  std::vector<int32_t> answers;      // of the data tokens
  if (config.bos) tokens.erase(tokens.begin());
  std::vector<int32_t> data = tokens;
  const bool expression = config.name.rfind("modular_arithmetic", 0) == 0;
  const bool has_end = expression || chomsky;
  if (has_end) data.pop_back();
  if (expression) {
    const std::string alphabet = expression_alphabet(config);
    const char end = alphabet.at(static_cast<size_t>(tokens.back()));
    if (end != (chomsky ? '?' : '=')) throw std::runtime_error("row must end in = or ?");
    const std::string text = as_text(config, data);
    const bool flat = config.name == "modular_arithmetic";
    for (size_t t = 0; t < text.size(); ++t) {
      if (!flat && t + 1 < text.size()) {
        answers.push_back(-1);
        continue;
      }
      const bool digit = text[t] >= '0' && text[t] <= '9';
      const std::string part = text.substr(0, flat && !digit ? t : t + 1);
      const int value = ExpressionParser(part, config.modulus).value();
      answers.push_back(static_cast<int>(alphabet.find(static_cast<char>('0' + value))));
    }
  } else if (config.name == "parity") {
    for (size_t t = 0; t < data.size(); ++t) {
      const auto ones = std::count(data.begin(), data.begin() + long(t) + 1, base + 1);
      answers.push_back(base + static_cast<int>(ones % 2));
    }
  } else if (config.name == "even_pairs") {
    int changes = 0;
    for (size_t t = 0; t < data.size(); ++t) {
      if (t > 0 && data[t] != data[t - 1]) ++changes;
      answers.push_back(base + changes % 2);
    }
  } else if (config.name == "cycle_navigation") {
    const int m = config.max_move, n = config.modulus;
    int place = 0;
    for (const int32_t token : data) {
      const int move = chomsky ? token - m : token <= m + 1 ? token - 1 : -(token - m - 1);
      place = ((place + move) % n + n) % n;
      answers.push_back(place + (chomsky ? 0 : 2 * m + 2));
    }
  } else if (config.name == "word_problem") {
    answers = word_answers(config, data);
  } else if (config.name == "flip_flop") {
    int32_t last_written = -1;
    for (size_t t = 0; t < data.size(); ++t) {
      if (t % 2 == 1 && data[t - 1] == 0) last_written = data[t];
      answers.push_back(t % 2 == 0 && data[t] == 1 ? last_written : -1);
    }
  } else if (config.name == "liu") {
    answers = liu_answers(config.machine, config.size, data);
  } else if (config.name == "automaton") {
    answers = automaton_answers(config, data);
  } else {
    throw std::runtime_error("no oracle for task " + config.name);
  }
  if (has_end) {
    answers.push_back(answers.back());
    if (config.name == "modular_arithmetic_brackets") answers[answers.size() - 2] = -1;
  }
  if (config.bos) {
    const bool word = config.name == "word_problem";
    answers.insert(answers.begin(), word ? OracleGroup(config.group).order() + 1 : -1);
  }
  if (config.supervision == "last") std::fill(answers.begin(), answers.end() - 1, -1);
  return answers;
}

}  // namespace statelab::testing

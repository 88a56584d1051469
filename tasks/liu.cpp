// The tagging automata of Liu et al. (2023): after each token, the state (or a part of it).
//
// Ids: symbols and labels both count from 0 in one vocabulary; scored over the labels alone. A
// length is the number of tokens, drawn per sample; every position is supervised in the published
// code (supervision all), the last one alone with supervision last. Machine names with a suffix
// pick one of the published label types. `size` 0 takes the published default n.
//
// Deviates:
// - symmetric has its three default actions. With more, the released code numbers the further ones
// from
//   2 and so overwrites "swap the first two"; sizes of the action set are therefore no parameter.
// - adder works in base n with carry 0 or 1, as released: binary addition only for n = 2. It
// appends one
//   zero column, so a length T takes T + 1 tokens.
// - abab: one string in four is 0101..., the released default; the others are fair bits.
// - flip_flop labels are class ids; the released ones are floats.
// - gridworld returns the state; its other declared label types do nothing in the released code.
// - permutation_reset has two generators, swap the first two and rotate right, equally likely.
#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "tasks/permutation.h"
#include "tasks/profile.h"
#include "tasks/registry.h"
#include "tasks/walk_task.h"

namespace statelab {
namespace {

/// What a machine builds; labels count from 0.
struct Machine {
  WalkTable table;
  int nlabels = 0;
  std::vector<std::string> symbols;  ///< names; empty = numbers
  std::vector<std::string> labels;   ///< names; empty = numbers
  int overhead = 0, final_symbol = -1, alternate = 0, resets = 0;
};

/// A machine of `nstates` states over `nsymbols` symbols whose labels are its states.
Machine state_machine(int nstates, int nsymbols, const std::function<int(int, int)>& next) {
  Machine machine;
  machine.table = make_walk_table(nstates, nsymbols);
  machine.nlabels = nstates;
  for (int q = 0; q < nstates; ++q) {
    machine.table.label_of_state[static_cast<size_t>(q)] = q;
    for (int x = 0; x < nsymbols; ++x) machine.table.set_next(q, x, next(q, x));
  }
  return machine;
}

void relabel(Machine& machine, int nlabels, const std::function<int(int)>& label) {
  machine.nlabels = nlabels;
  for (int q = 0; q < machine.table.nstates; ++q) {
    machine.table.label_of_state[static_cast<size_t>(q)] = label(q);
  }
}

Machine parity(int) {
  return state_machine(2, 2, [](int q, int x) { return q ^ x; });
}

Machine gridworld(int n) {
  Machine machine = state_machine(
      n, 2, [n](int q, int x) { return std::clamp(q + (x == 1 ? 1 : -1), 0, n - 1); });
  machine.symbols = {"left", "right"};
  return machine;
}

Machine abab(int) {
  // States 3 -> 0 -> 1 -> 2 -> 3 on the expected bits 0 1 0 1; anything else ends in 4 for good.
  Machine machine = state_machine(5, 2, [](int q, int x) {
    const int expected = (q + 1) % 2;
    return q == 4 || x != expected ? 4 : (q + 1) % 4;
  });
  machine.table.start = 3;
  machine.alternate = 4;
  return machine;
}

Machine abab_accept(int) {
  Machine machine = abab(0);
  relabel(machine, 2, [](int q) { return q == 3 ? 1 : 0; });
  return machine;
}

Machine adder(int n) {
  Machine machine = state_machine(2 * n, 1 << n, [n](int q, int x) {
    int sum = q / n;  // the carry
    for (int bit = 0; bit < n; ++bit) sum += x >> bit & 1;
    return sum % n + n * (sum / n);
  });
  machine.overhead = -1;
  machine.final_symbol = 0;
  return machine;
}

Machine adder_digit(int n) {
  Machine machine = adder(n);
  relabel(machine, n, [n](int q) { return q % n; });
  return machine;
}

Machine adder_carry(int n) {
  Machine machine = adder(n);
  relabel(machine, 2, [n](int q) { return q / n; });
  return machine;
}

Machine flip_flop(int n) {
  Machine machine = state_machine(n + 1, n + 1, [](int q, int x) { return x == 0 ? q : x; });
  // Half of the tokens write, each value alike: n reads and n writes, all equally likely.
  machine.table.draw_symbol.assign(static_cast<size_t>(n), 0);
  for (int value = 1; value <= n; ++value) {
    machine.table.draw_symbol.push_back(static_cast<uint16_t>(value));
  }
  machine.symbols = {"read"};
  for (int value = 1; value <= n; ++value) {
    machine.symbols.push_back("write" + std::to_string(value));
  }
  return machine;
}

Machine cyclic(int n) {
  return state_machine(n, 2, [n](int q, int x) { return (q + x) % n; });
}

/// States are arrangements; action a turns `old` into new[i] = old[a[i]].
Machine arrangements(const std::vector<Permutation>& states,
                     const std::vector<Permutation>& actions) {
  std::map<Permutation, int> rank;
  for (size_t q = 0; q < states.size(); ++q) rank[states[q]] = static_cast<int>(q);
  return state_machine(
      static_cast<int>(states.size()), static_cast<int>(actions.size()), [&](int q, int x) {
        return rank.at(compose(states[static_cast<size_t>(q)], actions[static_cast<size_t>(x)]));
      });
}

Permutation identity(int n) { return all_permutations(n, false).front(); }

Permutation rotate_left(int n) {
  Permutation p = identity(n);
  std::rotate(p.begin(), p.begin() + 1, p.end());
  return p;
}

Permutation swap_first_two(int n) {
  Permutation p = identity(n);
  std::swap(p[0], p[1]);
  return p;
}

Machine symmetric(int n) {
  Machine machine =
      arrangements(all_permutations(n, false), {identity(n), rotate_left(n), swap_first_two(n)});
  machine.symbols = {"keep", "rotate", "swap"};
  return machine;
}

Machine symmetric_first(int n) {
  Machine machine = symmetric(n);
  const auto states = all_permutations(n, false);
  relabel(machine, n, [&](int q) { return states[static_cast<size_t>(q)][0]; });
  return machine;
}

Machine alternating(int n) {
  std::vector<Permutation> actions = {identity(n)};
  for (size_t j = 2; j < static_cast<size_t>(n); ++j) {
    Permutation p = identity(n);
    const int last = p[j];
    p[0] = 1;
    p[1] = last;
    p[j] = 0;
    actions.push_back(std::move(p));
  }
  return arrangements(all_permutations(n, true), actions);
}

Machine dihedral(int n) {
  Machine machine = state_machine(2 * n, 2, [n](int q, int x) {
    const int toggle = q / n, position = q % n;
    if (x == 0) return n * (1 - toggle) + position;
    return n * toggle + (position + (toggle == 0 ? 1 : n - 1)) % n;
  });
  machine.symbols = {"toggle", "step"};
  return machine;
}

Machine dihedral_toggle(int n) {
  Machine machine = dihedral(n);
  relabel(machine, 2, [n](int q) { return q / n; });
  return machine;
}

Machine dihedral_position(int n) {
  Machine machine = dihedral(n);
  relabel(machine, n, [n](int q) { return q % n; });
  return machine;
}

Machine quaternion(int) {
  constexpr int kUnits[4][4] = {{0, 1, 2, 3}, {1, 4, 3, 6}, {2, 7, 4, 1}, {3, 2, 5, 4}};
  Machine machine =
      state_machine(8, 4, [&](int q, int x) { return (kUnits[q % 4][x] + (q & 4)) % 8; });
  machine.symbols = {"1", "i", "j", "k"};
  machine.labels = {"1", "i", "j", "k", "-1", "-i", "-j", "-k"};
  return machine;
}

Machine permutation_reset(int n) {
  const auto states = all_permutations(n, false);
  const int count = static_cast<int>(states.size());
  Permutation rotate_right = identity(n);
  std::rotate(rotate_right.begin(), rotate_right.end() - 1, rotate_right.end());
  const Machine moves = arrangements(states, {swap_first_two(n), rotate_right});
  Machine machine = state_machine(count, count + 2, [&](int q, int x) {
    return x < count ? x
                     : static_cast<int>(moves.table.next[static_cast<size_t>(2 * q + x - count)]);
  });
  machine.resets = count;
  return machine;
}

struct MachineKind {
  const char* name;
  int default_size, min_size, max_size;  ///< 0 = takes no size
  Machine (*build)(int size);
};

constexpr MachineKind kMachines[] = {
    {"parity", 0, 0, 0, parity},
    {"gridworld", 9, 2, 1024, gridworld},
    {"abab", 0, 0, 0, abab},
    {"abab_accept", 0, 0, 0, abab_accept},
    {"adder", 2, 2, 8, adder},
    {"adder_digit", 2, 2, 8, adder_digit},
    {"adder_carry", 2, 2, 8, adder_carry},
    {"flip_flop", 2, 1, 512, flip_flop},
    {"cyclic", 5, 2, 1024, cyclic},
    {"symmetric", 5, 3, 6, symmetric},
    {"symmetric_first", 5, 3, 6, symmetric_first},
    {"alternating", 5, 3, 6, alternating},
    {"dihedral", 4, 2, 512, dihedral},
    {"dihedral_toggle", 4, 2, 512, dihedral_toggle},
    {"dihedral_position", 4, 2, 512, dihedral_position},
    {"quaternion", 0, 0, 0, quaternion},
    {"permutation_reset", 4, 3, 5, permutation_reset},
};

const MachineKind& find_machine(const TaskConfig& config) {
  std::string names;
  for (const MachineKind& kind : kMachines) {
    if (config.machine == kind.name) return kind;
    names += (names.empty() ? "" : ", ") + std::string(kind.name);
  }
  throw TaskError(config.name, "machine",
                  "[" + config.name + "] machine must be one of " + names + ": " +
                      (config.machine.empty() ? "(none)" : config.machine));
}

}  // namespace

std::vector<std::string> liu_machines() {
  std::vector<std::string> names;
  for (const MachineKind& kind : kMachines) names.push_back(kind.name);
  return names;
}

std::shared_ptr<const Task> make_liu(const TaskConfig& config) {
  parse_profile(config, {Profile::kLiu});
  const MachineKind& kind = find_machine(config);
  if (kind.max_size == 0 && config.size != 0) {
    throw TaskError(config.name, "size",
                    "[" + config.name + "] size is not read by machine " + kind.name + ": " +
                        std::to_string(config.size));
  }
  const int size = config.size == 0 ? kind.default_size : config.size;
  if (kind.max_size > 0) check_range(config, "size", size, kind.min_size, kind.max_size);
  Machine machine = kind.build(size);

  WalkTraits traits;
  traits.layout.overhead = machine.overhead;
  traits.final_symbol = machine.final_symbol;
  traits.alternate = machine.alternate;
  traits.resets = machine.resets;
  traits.chance = 1.0 / machine.nlabels;
  traits.legal_end = machine.nlabels;
  const int vocab = std::max(machine.table.nsymbols, machine.nlabels);
  for (int id = 0; id < vocab; ++id) {
    const auto at = static_cast<size_t>(id);
    const std::string number = std::to_string(id);
    traits.names.tokens.push_back(at < machine.symbols.size() ? machine.symbols[at] : number);
    traits.names.answers.push_back(at < machine.labels.size() ? machine.labels[at] : number);
  }
  return std::make_shared<WalkTask>(config, std::move(machine.table), std::move(traits));
}

}  // namespace statelab

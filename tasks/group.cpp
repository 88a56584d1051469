#include "tasks/group.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "tasks/permutation.h"
#include "tasks/task.h"

namespace statelab {
namespace {

template <typename Product>
void fill_table(Group& group, Product product) {
  const int n = group.order();
  group.table.resize(static_cast<size_t>(n) * static_cast<size_t>(n));
  for (int a = 0; a < n; ++a) {
    for (int b = 0; b < n; ++b) {
      group.table[static_cast<size_t>(a) * static_cast<size_t>(n) + static_cast<size_t>(b)] =
          static_cast<uint16_t>(product(a, b));
    }
  }
}

Group cyclic_group(int n) {
  Group group;
  for (int i = 0; i < n; ++i) group.elements.push_back(std::to_string(i));
  fill_table(group, [n](int a, int b) { return (a + b) % n; });
  return group;
}

Group dihedral_group(int order) {
  const int n = order / 2;
  Group group;
  for (int k = 0; k < order; ++k) {
    std::string name = k % n == 0 ? "" : std::to_string(k % n).insert(0, 1, 'r');
    if (k >= n) name += 's';
    group.elements.push_back(name.empty() ? "e" : name);
  }
  fill_table(group, [n](int a, int b) {
    const int k = a % n, l = b % n;
    const bool f = a >= n, g = b >= n;
    return (k + (f ? n - l : l)) % n + (f != g ? n : 0);
  });
  return group;
}

Group heisenberg_group() {
  Group group;
  for (int i = 0; i < 8; ++i) {
    std::string name = "(0,0,0)";
    for (int bit = 0; bit < 3; ++bit)
      name[static_cast<size_t>(5 - 2 * bit)] = (i >> bit & 1) != 0 ? '1' : '0';
    group.elements.push_back(name);
  }
  // Bits of an index are a, b, c from the top: xor adds all three, a b' goes to c.
  fill_table(group, [](int x, int y) { return (x ^ y) ^ ((x >> 2) & (y >> 1 & 1)); });
  return group;
}

Group quaternion_group() {
  Group group;
  group.elements = {"1", "i", "j", "k", "-1", "-i", "-j", "-k"};
  // Products of 1, i, j, k as index of the unit, + 4 for a minus sign.
  constexpr int kUnits[4][4] = {{0, 1, 2, 3}, {1, 4, 3, 6}, {2, 7, 4, 1}, {3, 2, 5, 4}};
  fill_table(group, [&](int a, int b) { return (kUnits[a % 4][b % 4] + (a & 4) + (b & 4)) % 8; });
  return group;
}

Group permutation_group(const std::vector<Permutation>& elements) {
  Group group;
  std::map<Permutation, int> index;
  for (const Permutation& p : elements) {
    index.emplace(p, group.order());
    group.elements.push_back(cycle_notation(p));
    group.moved.push_back(moved_points(p));
  }
  fill_table(group, [&](int a, int b) {
    return index.at(compose(elements[static_cast<size_t>(a)], elements[static_cast<size_t>(b)]));
  });
  return group;
}

Group direct_product(const Group& left, const Group& right) {
  Group group;
  const int m = right.order();
  for (const std::string& a : left.elements) {
    for (const std::string& b : right.elements) group.elements.push_back("<" + a + "," + b + ">");
  }
  fill_table(group, [&](int a, int b) {
    return left.product(a / m, b / m) * m + right.product(a % m, b % m);
  });
  group.identity = left.identity * m + right.identity;
  return group;
}

[[noreturn]] void fail(const TaskConfig& config, const std::string& parameter,
                       const std::string& message) {
  throw TaskError(config.name, parameter, "[" + config.name + "] " + parameter + " " + message);
}

// Each factor is a letter and a number: "Z5", "S_3".
Group parse_factor(const TaskConfig& config, std::string factor) {
  const std::string text = factor;
  std::erase(factor, '_');
  int n = 0;
  const char* end = factor.data() + factor.size();
  const bool numbered =
      factor.size() >= 2 && std::from_chars(factor.data() + 1, end, n).ptr == end && n >= 1;
  const auto too_large = [&](const std::string& most) {
    fail(config, "group",
         "must have order at most " + std::to_string(kMaxGroupOrder) + " (" + most + "): " + text);
  };
  if (numbered) {
    switch (factor[0]) {
      case 'Z':
        if (n > kMaxGroupOrder) too_large("Z1024");
        return cyclic_group(n);
      case 'D':
        if (n % 2 != 0 || n < 4) {
          fail(config, "group", "D_m is named by its order m, even and at least 4: " + text);
        }
        if (n > kMaxGroupOrder) too_large("D1024");
        return dihedral_group(n);
      case 'S':
        if (n > 6) too_large("S6");
        return permutation_group(all_permutations(n, false));
      case 'A':
        if (n > 6) too_large("A6");
        return permutation_group(all_permutations(n, true));
      case 'H':
        if (n == 3) return heisenberg_group();
        break;
      case 'Q':
        if (n == 8) return quaternion_group();
        break;
      default:
        break;
    }
  }
  fail(config, "group",
       "must be Z_n, D_m (m = order), S_n, A_n, H3, Q8 or a product such as A4xZ5: " +
           (config.group.empty() ? std::string("(none)") : config.group));
}

std::string element_name(const Group& group, int element) {
  return group.elements[static_cast<size_t>(element)];
}

Group group_from_table(const TaskConfig& config) {
  const auto& rows = config.custom_group.cayley_table;
  const std::string key = "group.cayley_table";
  const int n = static_cast<int>(rows.size());
  if (n > kMaxCayleyOrder) {
    fail(config, key,
         "must have at most " + std::to_string(kMaxCayleyOrder) + " rows: " + std::to_string(n));
  }
  Group group;
  group.elements = config.custom_group.elements;
  if (group.elements.empty()) {
    for (int i = 0; i < n; ++i) group.elements.push_back(std::to_string(i));
  }
  if (group.order() != n) {
    fail(config, "group.elements",
         "must name each of the " + std::to_string(n) +
             " elements once: " + std::to_string(group.order()) + " names");
  }
  for (int a = 0; a < n; ++a) {
    const auto& row = rows[static_cast<size_t>(a)];
    if (static_cast<int>(row.size()) != n) {
      fail(config, key,
           "must be square: row " + element_name(group, a) + " has " + std::to_string(row.size()) +
               " of " + std::to_string(n) + " entries");
    }
    for (int b = 0; b < n; ++b) {
      const int c = row[static_cast<size_t>(b)];
      if (c < 0 || c >= n) {
        fail(config, key,
             "must hold elements 0.." + std::to_string(n - 1) + ": " + element_name(group, a) +
                 " * " + element_name(group, b) + " = " + std::to_string(c));
      }
    }
  }
  fill_table(group,
             [&](int a, int b) { return rows[static_cast<size_t>(a)][static_cast<size_t>(b)]; });
  group.identity = -1;
  for (int e = 0; e < n && group.identity < 0; ++e) {
    bool neutral = true;
    for (int a = 0; a < n; ++a)
      neutral = neutral && group.product(e, a) == a && group.product(a, e) == a;
    if (neutral) group.identity = e;
  }
  if (group.identity < 0)
    fail(config, key, "has no identity: no e with e * a = a * e = a for all a");
  for (int a = 0; a < n; ++a) {
    for (int b = 0; b < n; ++b) {
      for (int c = 0; c < n; ++c) {
        const int left = group.product(group.product(a, b), c);
        const int right = group.product(a, group.product(b, c));
        if (left == right) continue;
        const std::string x = element_name(group, a), y = element_name(group, b),
                          z = element_name(group, c);
        fail(config, key,
             "is not associative: (" + x + " * " + y + ") * " + z + " = " +
                 element_name(group, left) + " but " + x + " * (" + y + " * " + z +
                 ") = " + element_name(group, right));
      }
    }
  }
  for (int a = 0; a < n; ++a) {
    bool inverse = false;
    for (int b = 0; b < n; ++b) {
      inverse = inverse ||
                (group.product(a, b) == group.identity && group.product(b, a) == group.identity);
    }
    if (!inverse) fail(config, key, "gives " + element_name(group, a) + " no inverse");
  }
  return group;
}

Group group_from_generators(const TaskConfig& config) {
  const std::string key = "group.generators";
  std::vector<Permutation> generators;
  for (const auto& line : config.custom_group.generators) {
    Permutation p;
    std::string text;
    std::vector<char> seen(line.size(), 0);
    bool valid = !line.empty() && line.size() == config.custom_group.generators[0].size();
    for (const int image : line) {
      if (!text.empty()) text += ' ';
      text += std::to_string(image);
      const bool fresh = image >= 1 && image <= static_cast<int>(line.size()) &&
                         seen[static_cast<size_t>(image - 1)] == 0;
      valid = valid && fresh;
      if (fresh) seen[static_cast<size_t>(image - 1)] = 1;
      p.push_back(image - 1);
    }
    if (!valid) {
      fail(config, key,
           "must be permutations of 1..n in one-line form, all of one n: [" + text + "]");
    }
    generators.push_back(std::move(p));
  }
  Permutation identity(generators[0].size());
  for (size_t i = 0; i < identity.size(); ++i) identity[i] = static_cast<int>(i);
  std::map<Permutation, int> seen = {{identity, 0}};  // ordered: lexicographic
  std::vector<Permutation> open = {identity};
  while (!open.empty()) {
    const Permutation p = std::move(open.back());
    open.pop_back();
    for (const Permutation& g : generators) {
      Permutation next = compose(p, g);
      if (seen.emplace(next, 0).second) open.push_back(std::move(next));
    }
    if (seen.size() > static_cast<size_t>(kMaxGroupOrder)) {
      fail(config, key,
           "must generate at most " + std::to_string(kMaxGroupOrder) + " elements: more than that");
    }
  }
  std::vector<Permutation> elements;
  for (const auto& [p, unused] : seen) elements.push_back(p);
  Group group = permutation_group(elements);
  if (!config.custom_group.elements.empty()) {
    if (config.custom_group.elements.size() != elements.size()) {
      fail(config, "group.elements",
           "must name each of the " + std::to_string(elements.size()) +
               " generated elements once: " + std::to_string(config.custom_group.elements.size()) +
               " names");
    }
    group.elements = config.custom_group.elements;
  }
  return group;
}

}  // namespace

Group parse_group(const TaskConfig& config) {
  std::optional<Group> group;
  std::string rest = config.group;
  std::replace(rest.begin(), rest.end(), 'x', ' ');
  while (true) {
    const size_t cut = rest.find(' ');
    const Group factor = parse_factor(config, rest.substr(0, cut));
    const int order = (group ? group->order() : 1) * factor.order();
    if (order > kMaxGroupOrder) {
      fail(config, "group",
           "must have order at most " + std::to_string(kMaxGroupOrder) + ": " + config.group +
               " has " + std::to_string(order) + " or more");
    }
    group = group ? direct_product(*group, factor) : factor;
    if (cut == std::string::npos) break;
    rest = rest.substr(cut + 1);
  }
  group->name = config.group;
  return *group;
}

Group build_custom_group(const TaskConfig& config) {
  const GroupConfig& custom = config.custom_group;
  if (custom.generators.empty() == custom.cayley_table.empty()) {
    fail(config, "group",
         std::string("must give exactly one of generators and cayley_table: ") +
             (custom.generators.empty() ? "neither" : "both"));
  }
  Group group =
      custom.generators.empty() ? group_from_table(config) : group_from_generators(config);
  group.name = "own group";
  return group;
}

}  // namespace statelab

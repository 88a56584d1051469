// Group word problem: the running product of random elements of a group.
//
//   y_0 = x_0,  y_i = y_{i-1} * x_i  (right multiplication);  x_i uniform over the alphabet
//
// Ids: elements 0 .. |G|-1, then PAD, BOS, UNK, EOS, SEP, CLS, MASK: |G| + 7, scored over all of
// them. A length counts elements. With bos, BOS comes first and, under supervision all, is itself
// supervised with target BOS, as in the published files; those always have BOS and supervise every
// position.
//
// `fillers` = c > 1: each element is followed by c - 1 PAD tokens (filler: token, the published
// filler id) or stands c times (filler: repeat); targets come c - 1 positions late and the first
// c - 1 are the identity. c = 1 is the plain task, which the published filler code cannot express.
//
// `variant: hard` multiplies the drawn elements in blocks of four; the row shows
//   z_i = x_4i * x_4i+1 * x_4i+2 * x_4i+3,  then e e e,   for each block i
// and the targets are the running products of that row, three positions late, the first three the
// identity: z_0 * ... * z_i stands at positions 4i + 3 .. 4i + 6. A small alphabet shows elements
// outside itself, and a model has four positions for each. A length counts x, hence tokens. As in
// the published generator a last block of r < 4 elements shows their product and r - 1 identities,
// and the delay keeps it out of the answers; lengths below 4 have no answer and are refused.
//
// Deviates: without bos the row starts at x_0; supervision last asks for the last product alone;
// padding is not supervised (the published loss trains it, which matters only for mixed lengths);
// samples are independent draws, not N distinct ones; with fillers a length counts elements, where
// the published files count tokens and may end inside an element.
#include <numeric>
#include <utility>

#include "tasks/group.h"
#include "tasks/profile.h"
#include "tasks/registry.h"
#include "tasks/walk_task.h"

namespace statelab {
namespace {

constexpr int kHardBlock = 4;

std::vector<uint16_t> alphabet_of(const TaskConfig& config, const Group& group) {
  const auto fail = [&](const std::string& key, const std::string& message) {
    throw TaskError(config.name, key, "[" + config.name + "] " + key + " " + message);
  };
  if (config.alphabet != "list" && !config.alphabet_list.empty()) {
    fail("alphabet_list",
         "is read only with alphabet: list, not with alphabet: " + config.alphabet);
  }
  std::vector<uint16_t> symbols;
  if (config.alphabet == "full") {
    symbols.resize(static_cast<size_t>(group.order()));
    std::iota(symbols.begin(), symbols.end(), uint16_t{0});
  } else if (config.alphabet == "swaps" || config.alphabet == "le3") {
    if (group.moved.empty()) {
      fail("alphabet", config.alphabet + " needs a group of permutations: " + group.name);
    }
    const int most = config.alphabet == "swaps" ? 2 : 3;
    for (int a = 0; a < group.order(); ++a) {
      if (group.moved[static_cast<size_t>(a)] <= most) symbols.push_back(static_cast<uint16_t>(a));
    }
    if (symbols.size() < 2) {
      fail("alphabet", config.alphabet + " must leave more than the identity: " + group.name);
    }
  } else if (config.alphabet == "list") {
    std::vector<char> seen(static_cast<size_t>(group.order()), 0);
    for (const int a : config.alphabet_list) {
      if (a < 0 || a >= group.order()) {
        fail("alphabet_list", "must hold elements 0.." + std::to_string(group.order() - 1) +
                                  " of " + group.name + ": " + std::to_string(a));
      }
      if (seen[static_cast<size_t>(a)] != 0) {
        fail("alphabet_list", "must hold each element once: " + std::to_string(a));
      }
      seen[static_cast<size_t>(a)] = 1;
      symbols.push_back(static_cast<uint16_t>(a));
    }
    if (symbols.empty()) fail("alphabet_list", "must name at least one element: (empty)");
  } else {
    fail("alphabet", "must be one of full, swaps, le3, list: " + config.alphabet);
  }
  return symbols;
}

bool is_custom(const GroupConfig& group) {
  return !group.generators.empty() || !group.cayley_table.empty() || !group.elements.empty();
}

/// The elements that variant hard shows: products of kHardBlock drawn ones, ascending.
std::vector<uint16_t> block_products(const WalkTable& table) {
  const auto order = static_cast<size_t>(table.nsymbols);
  std::vector<uint16_t> products = {static_cast<uint16_t>(table.start)};
  for (int i = 0; i < kHardBlock; ++i) {
    std::vector<char> seen(order, 0);
    for (const uint16_t a : products) {
      for (const uint16_t x : table.draw_symbol) seen[table.next[a * order + x]] = 1;
    }
    products.clear();
    for (size_t a = 0; a < order; ++a) {
      if (seen[a] != 0) products.push_back(static_cast<uint16_t>(a));
    }
  }
  return products;
}

void check_variant(const TaskConfig& config) {
  const auto fail = [&](const std::string& key, const std::string& message) {
    throw TaskError(config.name, key, "[" + config.name + "] " + key + " " + message);
  };
  check_range(config, "fillers", config.fillers, 1, 64);
  if (config.filler != "token" && config.filler != "repeat") {
    fail("filler", "must be one of token, repeat: " + config.filler);
  }
  if (config.filler == "repeat" && config.fillers == 1) {
    fail("filler", "repeat needs fillers of at least 2: 1");
  }
  if (config.variant != "plain" && config.variant != "hard") {
    fail("variant", "must be one of plain, hard: " + config.variant);
  }
  if (config.variant == "hard" && config.fillers != 1) {
    fail("fillers",
         "must be 1 with variant: hard, which puts three identities after each product: " +
             std::to_string(config.fillers));
  }
}

}  // namespace

std::shared_ptr<const Task> make_word_problem(const TaskConfig& config) {
  parse_profile(config, {Profile::kWord});
  check_variant(config);
  const bool custom = is_custom(config.custom_group);
  if (custom && !config.group.empty()) {
    throw TaskError(
        config.name, "group",
        "[" + config.name + "] group must be a name or an own group, not both: " + config.group);
  }
  const Group group = custom ? build_custom_group(config) : parse_group(config);
  const int order = group.order();

  WalkTable table = make_walk_table(order, order);
  table.start = group.identity;
  table.next = group.table;
  std::iota(table.label_of_state.begin(), table.label_of_state.end(), 0);
  table.draw_symbol = alphabet_of(config, group);

  WalkTraits traits;
  traits.layout.tokens_per_item = config.fillers;
  if (config.bos) {
    traits.layout.bos_token = order + 1;
    traits.layout.bos_target = order + 1;
  }
  traits.filler_token = config.filler == "repeat" ? -1 : order;
  WalkTable shown = table;  // with the elements that rows are made of
  if (config.variant == "hard") {
    traits.block = kHardBlock;
    traits.min_data = kHardBlock;
    shown.draw_symbol = block_products(table);
  }
  traits.chance = 1.0 / order;
  traits.names.separator = " · ";
  traits.names.tokens = group.elements;
  for (const char* special : {"<pad>", "<bos>", "<unk>", "<eos>", "<sep>", "<cls>", "<mask>"}) {
    traits.names.tokens.push_back(special);
  }
  const std::vector<int> missing = unreachable_states(shown);
  if (!missing.empty()) {
    traits.warnings.push_back(
        "[" + config.name + "] " +
        (traits.block > 0 ? "products of four of the alphabet generate "
                          : "the alphabet generates ") +
        std::to_string(order - static_cast<int>(missing.size())) + " of " + std::to_string(order) +
        " elements; never an answer: " + group.elements[static_cast<size_t>(missing[0])] +
        (missing.size() > 1 ? ", ..." : ""));
  }
  return std::make_shared<WalkTask>(config, std::move(table), std::move(traits));
}

}  // namespace statelab

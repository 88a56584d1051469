// Even pairs: is the number of unequal neighbours odd, that is, do first and last symbol differ?
//
// Ids as in parity; label 1 (class 0) when first and last are equal. Profile xlstm starts at length
// 3, two data symbols: its released code indexes before the row's start for length 2.
#include <utility>

#include "tasks/profile.h"
#include "tasks/registry.h"
#include "tasks/walk_task.h"

namespace statelab {

std::shared_ptr<const Task> make_even_pairs(const TaskConfig& config) {
  const Profile profile =
      parse_profile(config, {Profile::kXlstm, Profile::kSlice, Profile::kChomsky});
  const int first = first_symbol(profile);
  WalkTable table = make_walk_table(5, 2);  // 0 = nothing read, 1 + 2 * first + last
  for (int symbol = 0; symbol < 2; ++symbol) table.set_next(0, symbol, 1 + 3 * symbol);
  table.label_of_state[0] = first;
  for (int head = 0; head < 2; ++head) {
    for (int tail = 0; tail < 2; ++tail) {
      const int state = 1 + 2 * head + tail;
      table.label_of_state[static_cast<size_t>(state)] = first + (head != tail ? 1 : 0);
      for (int symbol = 0; symbol < 2; ++symbol)
        table.set_next(state, symbol, 1 + 2 * head + symbol);
    }
  }
  WalkTraits traits;
  traits.layout = symbol_layout(profile, 2);
  traits.first_token = first;
  traits.chance = 0.5;
  traits.min_data = profile == Profile::kXlstm ? 2 : 1;
  if (profile == Profile::kChomsky) {
    traits.names.tokens = {"0", "1", "?"};
    traits.legal_end = 2;
  } else {
    traits.names.tokens = {"<pad>", "0", "1"};
  }
  return std::make_shared<WalkTask>(config, std::move(table), std::move(traits));
}

}  // namespace statelab

// Parity: is the number of ones odd?
//
// xlstm, slice: ids 0 PAD, 1 = zero, 2 = one; the label is 1 for even, 2 for odd, over the whole
// vocabulary. chomsky:      ids 0, 1, 2 = query; classes 0 and 1.
#include <utility>

#include "tasks/profile.h"
#include "tasks/registry.h"
#include "tasks/walk_task.h"

namespace statelab {

std::shared_ptr<const Task> make_parity(const TaskConfig& config) {
  const Profile profile =
      parse_profile(config, {Profile::kXlstm, Profile::kSlice, Profile::kChomsky});
  const int first = first_symbol(profile);
  WalkTable table = make_walk_table(2, 2);
  for (int state = 0; state < 2; ++state) {
    for (int bit = 0; bit < 2; ++bit) table.set_next(state, bit, state ^ bit);
    table.label_of_state[static_cast<size_t>(state)] = first + state;
  }
  WalkTraits traits;
  traits.layout = symbol_layout(profile, 2);
  traits.first_token = first;
  traits.chance = 0.5;
  if (profile == Profile::kChomsky) {
    traits.names.tokens = {"0", "1", "?"};
    traits.legal_end = 2;
  } else {
    traits.names.tokens = {"<pad>", "0", "1"};
  }
  return std::make_shared<WalkTask>(config, std::move(table), std::move(traits));
}

}  // namespace statelab

// Cycle navigation: where on a cycle of `modulus` places do iid moves 0, +-1 .. +-max_move end?
//
// xlstm, slice: ids 0 PAD, 1 stay, then +1 .. +m, then -1 .. -m, then the places.
// chomsky:      ids -m .. +m in ascending order from 0, then the query; classes are the places from
// 0.
//               Inputs and classes share ids there, so the vocabulary is the larger of the two
//               sets.
#include <algorithm>
#include <utility>

#include "tasks/profile.h"
#include "tasks/registry.h"
#include "tasks/walk_task.h"

namespace statelab {
namespace {

std::string move_name(int move) {
  if (move == 0) return "stay";
  std::string name = std::to_string(move);
  if (move > 0) name.insert(name.begin(), '+');
  return name;
}

}  // namespace

std::shared_ptr<const Task> make_cycle_navigation(const TaskConfig& config) {
  const Profile profile =
      parse_profile(config, {Profile::kXlstm, Profile::kSlice, Profile::kChomsky});
  check_range(config, "modulus", config.modulus, 2, 1024);
  check_range(config, "max_move", config.max_move, 1, 64);
  const bool chomsky = profile == Profile::kChomsky;
  const int n = config.modulus, m = config.max_move, nmoves = 2 * m + 1;
  std::vector<int> moves;
  if (chomsky) {
    for (int move = -m; move <= m; ++move) moves.push_back(move);
  } else {
    for (int move = 0; move <= m; ++move) moves.push_back(move);
    for (int move = 1; move <= m; ++move) moves.push_back(-move);
  }
  const int first_answer = chomsky ? 0 : 1 + nmoves;
  WalkTable table = make_walk_table(n, nmoves);
  for (int place = 0; place < n; ++place) {
    table.label_of_state[static_cast<size_t>(place)] = first_answer + place;
    for (int symbol = 0; symbol < nmoves; ++symbol) {
      const int to = place + moves[static_cast<size_t>(symbol)];
      table.set_next(place, symbol, positive_mod(to, n));
    }
  }
  WalkTraits traits;
  traits.layout = symbol_layout(profile, nmoves);
  traits.first_token = first_symbol(profile);
  traits.chance = 1.0 / n;
  TaskNames& names = traits.names;
  if (!chomsky) names.tokens.push_back("<pad>");
  for (const int move : moves) names.tokens.push_back(move_name(move));
  if (chomsky) {
    names.tokens.push_back("?");
    traits.legal_end = n;
    for (int place = 0; place < n; ++place) names.answers.push_back(std::to_string(place));
    const size_t vocab = std::max(names.tokens.size(), names.answers.size());
    names.tokens.resize(vocab, "<class>");
    names.answers.resize(vocab);
  } else {
    for (int place = 0; place < n; ++place) names.tokens.push_back(std::to_string(place));
  }
  return std::make_shared<WalkTask>(config, std::move(table), std::move(traits));
}

}  // namespace statelab

#include "tasks/walk_task.h"

#include <numeric>
#include <utility>

namespace statelab {

WalkTable make_walk_table(int nstates, int nsymbols) {
  WalkTable table;
  table.nstates = nstates;
  table.nsymbols = nsymbols;
  table.next.assign(static_cast<size_t>(nstates) * static_cast<size_t>(nsymbols), 0);
  table.label_of_state.assign(static_cast<size_t>(nstates), 0);
  return table;
}

WalkTask::WalkTask(TaskConfig config, WalkTable table, WalkTraits traits)
    : DrawnTask(std::move(config)),
      table_(std::move(table)),
      labels_(table_.label_of_state.begin(), table_.label_of_state.end()),
      probability_(static_cast<size_t>(table_.nsymbols), 0.0),
      warnings_(std::move(traits.warnings)) {
  if (table_.draw_symbol.empty()) {
    table_.draw_symbol.resize(static_cast<size_t>(table_.nsymbols));
    std::iota(table_.draw_symbol.begin(), table_.draw_symbol.end(), uint16_t{0});
  }
  for (const uint16_t symbol : table_.draw_symbol) {
    probability_[symbol] += 1.0 / static_cast<double>(table_.draw_symbol.size());
  }
  spec_.kind = DrawKind::kWalk;
  spec_.layout = traits.layout;
  WalkParams& walk = spec_.walk;
  walk.nstates = table_.nstates;
  walk.nsymbols = table_.nsymbols;
  walk.draws = static_cast<int32_t>(table_.draw_symbol.size());
  walk.start = table_.start;
  walk.first_token = traits.first_token;
  walk.next = table_.next.data();
  walk.label = labels_.data();
  walk.draw_symbol = table_.draw_symbol.data();
  walk.filler_token = traits.filler_token;
  walk.final_symbol = traits.final_symbol;
  walk.alternate = traits.alternate;
  walk.resets = traits.resets;
  walk.block = traits.block;
  names_ = std::move(traits.names);
  chance_ = traits.chance;
  min_data_ = traits.min_data;
  legal_begin_ = traits.legal_begin;
  legal_end_ = traits.legal_end;
  finish();
}

std::vector<double> WalkTask::labels_of(const std::vector<double>& states) const {
  std::vector<double> labels(names_.tokens.size(), 0.0);
  for (size_t q = 0; q < states.size(); ++q) labels[static_cast<size_t>(labels_[q])] += states[q];
  return labels;
}

std::vector<double> WalkTask::advance(const std::vector<double>& states) const {
  std::vector<double> after(states.size(), 0.0);
  const auto nsymbols = static_cast<size_t>(table_.nsymbols);
  for (size_t q = 0; q < states.size(); ++q) {
    if (states[q] == 0) continue;
    for (size_t x = 0; x < nsymbols; ++x) {
      if (probability_[x] > 0) after[table_.next[q * nsymbols + x]] += states[q] * probability_[x];
    }
  }
  return after;
}

LabelMarginals WalkTask::label_marginals(int max_data) const {
  const WalkParams& walk = spec_.walk;
  const auto nstates = static_cast<size_t>(table_.nstates);
  const auto nsymbols = static_cast<size_t>(table_.nsymbols);
  const int per_item = spec_.layout.tokens_per_item;
  const int items = max_data / per_item;
  std::vector<double> states(nstates, 0.0);
  states[static_cast<size_t>(table_.start)] = 1;
  const std::vector<double> at_start = labels_of(states);
  size_t pattern_state = static_cast<size_t>(table_.start);
  const double pattern = walk.alternate > 0 ? 1.0 / walk.alternate : 0.0;
  std::vector<std::vector<double>> running, last;  // per item
  bool settled = false;
  for (int i = 0; i < items; ++i) {
    if (settled) {
      running.push_back(running.back());
      last.push_back(last.back());
      continue;
    }
    std::vector<double> after;
    if (walk.resets > 0) {  // uniform after the first token, and every other symbol is a bijection
      after.assign(nstates, 1.0 / static_cast<double>(nstates));
    } else {
      after = advance(states);
    }
    std::vector<double> labels = labels_of(after);
    if (pattern > 0) {
      pattern_state = table_.next[pattern_state * nsymbols + static_cast<size_t>(i % 2)];
      for (double& p : labels) p *= 1 - pattern;
      labels[static_cast<size_t>(labels_[pattern_state])] += pattern;
    }
    if (walk.final_symbol >= 0) {
      std::vector<double> closed(nstates, 0.0);
      for (size_t q = 0; q < nstates; ++q) {
        closed[table_.next[q * nsymbols + static_cast<size_t>(walk.final_symbol)]] += states[q];
      }
      last.push_back(labels_of(closed));
    } else {
      last.push_back(labels);
    }
    running.push_back(std::move(labels));
    settled = after == states && pattern == 0;
    states = std::move(after);
  }
  if (per_item == 1 && walk.block == 0) return {std::move(running), std::move(last)};
  LabelMarginals marginals;  // a label is shown from the last filler of its item or block on
  for (int t = 0; t < max_data; ++t) {
    const int item = (walk.block > 0 ? (t + 1) / walk.block * walk.block : (t + 1) / per_item) - 1;
    const auto& now = item < 0 ? at_start : running[static_cast<size_t>(item)];
    marginals.running.push_back(now);
    marginals.last.push_back(now);
  }
  return marginals;
}

std::vector<int> unreachable_states(const WalkTable& table) {
  std::vector<char> seen(static_cast<size_t>(table.nstates), 0);
  std::vector<int> open = {table.start};
  seen[static_cast<size_t>(table.start)] = 1;
  std::vector<uint16_t> symbols = table.draw_symbol;
  if (symbols.empty()) {
    symbols.resize(static_cast<size_t>(table.nsymbols));
    std::iota(symbols.begin(), symbols.end(), uint16_t{0});
  }
  while (!open.empty()) {
    const auto q = static_cast<size_t>(open.back());
    open.pop_back();
    for (const uint16_t x : symbols) {
      const uint16_t to = table.next[q * static_cast<size_t>(table.nsymbols) + x];
      if (seen[to] == 0) open.push_back(to);
      seen[to] = 1;
    }
  }
  std::vector<int> missing;
  for (int q = 0; q < table.nstates; ++q) {
    if (seen[static_cast<size_t>(q)] == 0) missing.push_back(q);
  }
  return missing;
}

}  // namespace statelab

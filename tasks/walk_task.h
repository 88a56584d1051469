// A task that walks an automaton table (tasks/draw/walk.h), and its label distribution.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tasks/drawn_task.h"

namespace statelab {

/// Automaton to be walked. Shapes: next (nstates * nsymbols), row = state; label_of_state
/// (nstates).
struct WalkTable {
  int nstates = 0;
  int nsymbols = 0;
  int start = 0;
  std::vector<uint16_t> next;
  std::vector<int> label_of_state;    ///< label ids
  std::vector<uint16_t> draw_symbol;  ///< equally likely symbols; empty = all once

  void set_next(int state, int symbol, int to) {
    next[static_cast<size_t>(state) * static_cast<size_t>(nsymbols) + static_cast<size_t>(symbol)] =
        static_cast<uint16_t>(to);
  }
};

/// A table of the given size, all transitions to state 0 and all labels 0.
WalkTable make_walk_table(int nstates, int nsymbols);

/// Everything but the table that makes a walk a task.
struct WalkTraits {
  Layout layout;
  int first_token = 0;
  int filler_token = 0;
  int final_symbol = -1;  ///< see WalkParams
  int alternate = 0;
  int resets = 0;
  int block = 0;
  double chance = 0;
  int min_data = 1;
  int legal_begin = 0, legal_end = 0;
  TaskNames names;
  std::vector<std::string> warnings;
};

class WalkTask : public DrawnTask {
 public:
  WalkTask(TaskConfig config, WalkTable table, WalkTraits traits);
  std::vector<std::string> warnings() const override { return warnings_; }

 protected:
  LabelMarginals label_marginals(int max_data) const override;

 private:
  std::vector<double> labels_of(const std::vector<double>& states) const;
  std::vector<double> advance(const std::vector<double>& states) const;

  WalkTable table_;
  std::vector<int32_t> labels_;      // label_of_state, as the draw reads it
  std::vector<double> probability_;  // of each symbol
  std::vector<std::string> warnings_;
};

/// States that no drawn symbol leads to from the start, ascending.
std::vector<int> unreachable_states(const WalkTable& table);

}  // namespace statelab

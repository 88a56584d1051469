// The tasks by name. A new task is one factory here and one row in registry.cpp.
#pragma once

#include <memory>

#include "tasks/task.h"

namespace statelab {

/// Each builds its task from a configuration whose name is the task's and whose unused keys are at
/// their defaults. Throws TaskError.
std::shared_ptr<const Task> make_parity(const TaskConfig& config);
std::shared_ptr<const Task> make_even_pairs(const TaskConfig& config);
std::shared_ptr<const Task> make_cycle_navigation(const TaskConfig& config);
std::shared_ptr<const Task> make_modular_arithmetic(const TaskConfig& config);
std::shared_ptr<const Task> make_modular_arithmetic_brackets(const TaskConfig& config);
std::shared_ptr<const Task> make_word_problem(const TaskConfig& config);
std::shared_ptr<const Task> make_flip_flop(const TaskConfig& config);
std::shared_ptr<const Task> make_liu(const TaskConfig& config);
std::shared_ptr<const Task> make_automaton(const TaskConfig& config);

/// Values of task.machine that make_liu() knows, in the order to be shown.
std::vector<std::string> liu_machines();

/// Throws TaskError `[name] key must be in lo..hi: value` unless lo <= value <= hi.
void check_range(const TaskConfig& config, const char* key, int value, int lo, int hi);

}  // namespace statelab

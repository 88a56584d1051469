// Profiles: whose conventions a task follows.
#pragma once

#include <string>
#include <vector>

#include "tasks/draw/layout.h"
#include "tasks/task_config.h"

namespace statelab {

/// The harness whose numbers a run can stand beside; what each one does is in the README.
enum class Profile { kXlstm, kSlice, kChomsky, kWord, kLiu, kFflm };

std::string profile_name(Profile profile);

/// config.profile among `allowed`. Throws TaskError (parameter "profile") that names the allowed
/// ones.
Profile parse_profile(const TaskConfig& config, const std::vector<Profile>& allowed);

/// Rows of symbols whose answer is read at the last symbol, or at chomsky's query symbol after it.
/// `query_token` is used by chomsky only.
Layout symbol_layout(Profile profile, int query_token);

/// First token id of the symbols: 1 where id 0 is padding (xlstm, slice), else 0.
int first_symbol(Profile profile);

/// Whether answers are counted from 0 again, apart from the tokens (chomsky, liu).
bool answers_from_zero(Profile profile);

}  // namespace statelab

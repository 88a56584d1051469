#include "tasks/profile.h"

#include <algorithm>
#include <array>
#include <utility>

#include "tasks/task.h"

namespace statelab {
namespace {

constexpr std::array<std::pair<Profile, const char*>, 6> kNames = {{
    {Profile::kXlstm, "xlstm"},
    {Profile::kSlice, "slice"},
    {Profile::kChomsky, "chomsky"},
    {Profile::kWord, "word"},
    {Profile::kLiu, "liu"},
    {Profile::kFflm, "fflm"},
}};

}  // namespace

std::string profile_name(Profile profile) {
  const auto at = std::find_if(kNames.begin(), kNames.end(),
                               [&](const auto& entry) { return entry.first == profile; });
  return at->second;
}

Profile parse_profile(const TaskConfig& config, const std::vector<Profile>& allowed) {
  std::string names;
  for (const Profile profile : allowed) {
    if (config.profile == profile_name(profile)) return profile;
    names += (names.empty() ? "" : ", ") + profile_name(profile);
  }
  throw TaskError(config.name, "profile",
                  "[" + config.name + "] profile must be one of " + names + ": " + config.profile);
}

Layout symbol_layout(Profile profile, int query_token) {
  Layout layout;
  if (profile == Profile::kXlstm) layout.overhead = 1;  // the label's own slot
  if (profile == Profile::kChomsky) {
    layout.end_token = query_token;
    layout.length_per_step = 1;
  }
  return layout;
}

int first_symbol(Profile profile) {
  return profile == Profile::kXlstm || profile == Profile::kSlice ? 1 : 0;
}

bool answers_from_zero(Profile profile) {
  return profile == Profile::kChomsky || profile == Profile::kLiu;
}

}  // namespace statelab

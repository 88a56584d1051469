// doctor: what works on this machine, and what to do about the rest.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "experiments/commands.h"
#include "experiments/doctor.h"

namespace statelab {
namespace {

const char* word(Finding::State state) {
  switch (state) {
    case Finding::State::kOk:
      return "ok";
    case Finding::State::kNote:
      return "note";
    case Finding::State::kProblem:
      return "problem";
  }
  return "";
}

int doctor(const Arguments& arguments) {
  bool problem = false;
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const Finding& f : examine(database_path(arguments))) {
    problem = problem || f.state == Finding::State::kProblem;
    if (arguments.has("--json")) {
      out.push_back({{"subject", f.subject},
                     {"state", word(f.state)},
                     {"text", f.text},
                     {"remedy", f.remedy}});
    } else {
      fmt::print("{:<8} {:<11}{}\n", word(f.state), f.subject, f.text);
      if (!f.remedy.empty()) fmt::print("{:<20}-> {}\n", "", f.remedy);
    }
  }
  if (arguments.has("--json")) fmt::print("{}\n", out.dump());
  return problem ? kExitFailure : kExitOk;
}

}  // namespace

std::vector<Command> doctor_commands() {
  return {{"doctor",
           "check machine, libraries, disk, database and GPU",
           "",
           0,
           0,
           WordKind::kNone,
           {{"statelab doctor",
             "what works here, and remedies for the rest; exit code 1 when there is a problem"}},
           {database_option(), json_option()},
           doctor}};
}

}  // namespace statelab

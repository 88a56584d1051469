// From what a user types to one run.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "reports/query.h"

namespace statelab {

/// No run, or more than one, fits what was asked for; the message lists the candidates.
class RunLookupError : public std::invalid_argument {
 public:
  RunLookupError(const std::string& message, std::vector<std::string> matches)
      : std::invalid_argument(message), candidates(std::move(matches)) {}
  std::vector<std::string> candidates;  ///< full run ids, at most kListedCandidates
};
inline constexpr size_t kListedCandidates = 10;

/// `text` is the beginning of a run id (at least 4 hex digits), or a run's whole name. Returns the
/// full run id.
/// Errors: RunLookupError.
std::string find_run(Database& database, const std::string& text);

/// Full ids that begin with `text`, at most `limit`, sorted; also for command completion.
std::vector<std::string> run_ids_beginning_with(Database& database, const std::string& text,
                                                size_t limit);

}  // namespace statelab

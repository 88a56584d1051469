// Which program this is: what executions record, what --version and doctor print.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace statelab {

struct BuildInfo {
  std::string version;     ///< "0.1.0"
  std::string commit;      ///< full hash, "unknown" without git
  bool dirty = false;      ///< sources differed from the commit when this was built
  std::string compiler;    ///< "GNU 12.2.0"
  std::string build_type;  ///< "Release"
  std::string flags;       ///< compiler flags, -march included
  std::string
      id;  ///< 16 hex digits of all the above and numerics_version: runs resume within one id only
};

const BuildInfo& build_info();

/// Libraries that the program runs with, name and version.
std::vector<std::pair<std::string, std::string>> library_versions();
/// The same as one JSON object.
std::string library_versions_json();

}  // namespace statelab

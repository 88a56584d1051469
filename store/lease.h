// Who holds a run. A worker's lease ends by time, or at once when its process on this machine is gone.
//
//   owner = <machine>:<pid>:<start time of the process, clock ticks>:<8 random hex digits>
//   machine = host name, boot id and process namespace, so that a pid means the same process
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "store/database.h"

namespace statelab {

/// A new token for this process. The last 8 digits are its own, as in token_of().
std::string new_lease_owner();
std::string token_of(const std::string& owner);

/// True when the owner's process is known to be gone; false when it lives or runs on another machine.
bool is_dead_on_this_machine(const std::string& owner);

/// Renews all leases of one owner from a thread of its own, every third of their duration, so that a long evaluation
/// does not lose them. Failures are left to the next try: a lease that ran out shows at the next commit.
class LeaseKeeper {
 public:
  LeaseKeeper(const std::filesystem::path& database, std::string owner, double lease_seconds);
  ~LeaseKeeper();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace statelab

// A sweep of two shapes that trains in a fraction of a second and meets every kind of ending: selection of the best
// checkpoint over two stages, a member that diverges, members that stop early at different steps.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiments/runner.h"

namespace statelab {

RunConfig tiny_run(uint32_t seed, double lr);
std::vector<NamedRun> lab_sweep();

RunnerOptions lab_options(const std::filesystem::path& database);

/// Everything that must not depend on interruptions: states, metrics, evaluations, curves, checkpoint hashes. Throws
/// std::runtime_error when the database is damaged, or its files are not those that the rows name.
std::string fingerprint(const std::filesystem::path& database);

}  // namespace statelab

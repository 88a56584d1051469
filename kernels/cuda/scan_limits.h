// What the scans' kernels can hold in the shared memory of one multiprocessor.
#pragma once

#include <string>

namespace statelab::cuda {

/// Why heads of this size with chunks of this many tokens do not run, "" when they do.
std::string scan_limit(int headdim, int d_state, int chunk_size);
/// The same of the delta rule's.
std::string delta_scan_limit(int headdim, int d_state, int chunk_size);

}  // namespace statelab::cuda

// The CUDA devices of this machine, as seen by this build. The header is the same with and without CUDA.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace statelab {

struct CudaDevice {
  int index = 0;          ///< as in `--device cuda:index`; CUDA_VISIBLE_DEVICES is already applied
  std::string name;       ///< e.g. "NVIDIA H200"
  int compute_major = 0;  ///< compute capability 9.0: major 9, minor 0
  int compute_minor = 0;
  int multiprocessors = 0;
  int64_t total_bytes = 0;  ///< device memory
  int driver_version = 0;   ///< newest CUDA that the driver serves, 1000 * major + 10 * minor
  int runtime_version = 0;  ///< CUDA runtime linked into this build, same form
  std::string problem;  ///< empty when code of this build runs on the device, else why it does not
};

/// Whether this build has the CUDA backend at all (STATELAB_CUDA).
bool built_with_cuda();

/// "13.0" for 13000; "none" for 0.
std::string cuda_version_text(int version);

/// All visible devices in index order; each is asked to run a one-thread kernel, which is how `problem` is found.
/// Empty when there is none; `reason`, if given, then says why in one sentence, and is cleared otherwise.
/// Errors: none are thrown. A machine without GPU, driver or CUDA build is an answer, not a failure.
/// Cost:   opens a context on every device, some 0.1 s each.
std::vector<CudaDevice> cuda_devices(std::string* reason = nullptr);

}  // namespace statelab

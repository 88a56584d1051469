// Rows of a task drawn by a CUDA device: the host's bits, for all members of a cohort at once. No CUDA header is needed to
// include this file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/rng.h"
#include "tasks/draw/draw.h"

struct CUstream_st;  // cudaStream_t

namespace statelab {

/// Draws on one device; owns copies of the task's tables there. Move-only.
///   training    sample (step, row):                     step = the device's step word
///   evaluation  sample (data_step, pass * batch + row): pass = the device's step word
/// Errors: std::bad_alloc when the device has no memory left; std::runtime_error that names the call for everything else,
///         also in a build without CUDA.
class DeviceDraw {
 public:
  /// A stretch of steps whose samples have lengths from one range.
  struct Stage {
    int64_t end = 0;  ///< first step after it, counted from the start of training
    LengthRange lengths;
  };
  /// What is drawn. The ends ascend; steps past the last stage have the last stage's lengths.
  struct Plan {
    std::vector<RngKey> keys;  ///< one per member, or a single one with same_key
    bool same_key = false;     ///< all members see the same samples
    std::vector<Stage> stages;
    std::optional<uint32_t> data_step;  ///< set = evaluation
    bool one_thread_per_row = false;    ///< always the path that serves any task; for tests
  };
  /// Device memory of all members: member m's part lies m strides behind the pointer.
  struct Call {
    const std::byte* step = nullptr;  ///< (1) int32
    int64_t step_stride_bytes = 0;
    std::byte* tokens = nullptr;  ///< (batch, seqlen) int32; unused tail 0
    int64_t tokens_stride_bytes = 0;
    std::byte* targets =
        nullptr;  ///< (batch, seqlen) int32; -1 = not supervised, as is the unused tail
    int64_t targets_stride_bytes = 0;
    int members = 1, batch = 1, seqlen = 1;
  };

  /// Copies what it needs. Makes `device` the calling thread's current one, as launch() does.
  DeviceDraw(int device, const DrawSpec& spec, const Plan& plan);
  ~DeviceDraw();
  DeviceDraw(DeviceDraw&&) noexcept;
  DeviceDraw& operator=(DeviceDraw&&) noexcept;

  /// Enqueues one kernel, without allocation or synchronisation: may be captured in a graph. A row that is longer than
  /// seqlen stops the kernel by a trap, as the step then belongs to a stage with longer rows.
  /// Errors: std::invalid_argument for fewer keys than members, or extents below 1.
  void launch(const Call& call, CUstream_st* stream) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace statelab

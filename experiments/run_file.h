// A run's weights as a file of their own: what `statelab export` writes and `statelab import` reads.
//
//   arrays       = models/interchange.h
//   __metadata__ = format "pt" (what other libraries' loaders ask for), and, written by export,
//                  statelab.format "statelab-interchange-1", .layout, .run_id, .name, .config (canonical JSON), .step,
//                  .diverged_at, .checkpoint (last | best), .numerics_version, .constructor (Python lines),
//                  unread.<tensor> (rows that the configuration never reads)
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/run_config.h"
#include "models/checkpoint.h"
#include "store/run_store.h"

namespace statelab {

struct RunIdentity {
  std::string run_id, name;
  std::string config;  ///< canonical JSON
};

/// Bytes of such a file; equal arguments give equal bytes. `checkpoint`: last | best.
/// Errors: std::invalid_argument when the layout lacks a switch of the configuration.
std::string write_run_file(const RunIdentity& identity, const MemberState& state,
                           const std::string& checkpoint, const std::string& layout);

/// A file that cannot become a run: the reasons, one a line, with remedies.
class ImportRefused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct RunFile {
  RunIdentity identity;
  RunConfig config;
  MemberState state;  ///< without the optimiser's moments
  std::string layout;
  std::vector<std::string> notes;  ///< what was assumed or rounded
};

/// A run that `given` describes, with a name: for files that carry no configuration.
struct GivenRun {
  RunConfig config;
  std::string name;
};

/// Reads and checks everything; nothing is written.
/// Errors: ImportRefused.
RunFile read_run_file(std::string_view bytes, const std::optional<GivenRun>& given = std::nullopt);

enum class ImportOutcome {
  kAdded,         ///< the run is new here, or was waiting without a step
  kAlreadyThere,  ///< one of the run's checkpoints has the same bits: nothing was written
};

/// Makes the file a final run whose execution says backend and precision "imported", `source` in place of the device. It has
/// neither metrics nor scores; `eval` adds scores.
/// Errors: ImportRefused when the run has other weights or is being trained; StoreError.
ImportOutcome store_run_file(RunStore& store, const RunFile& file, const std::string& source,
                             const std::string& command_line);

}  // namespace statelab

// The rows that cross the store's border: plain data, columns as in schema.sql.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "store/checkpoint_files.h"

namespace statelab {

struct NewRun {
  std::string run_id;  ///< 64 hex digits
  std::string group_id;
  std::string shape_key;
  std::string name;    ///< for people; the first sweep that has the run names it
  std::string config;  ///< canonical JSON
  int64_t total_steps = 0;
};

struct SweepRecord {
  std::string name;
  std::string config;            ///< resolved sweep
  std::string overrides = "[]";  ///< JSON array of strings
  std::string command_line;
};

/// Same bits only when all three agree.
struct Origin {
  std::string backend;  ///< cpu | cuda
  std::string device;   ///< model name
  std::string build;
  bool operator==(const Origin&) const = default;
};

struct ExecutionRecord {
  Origin origin;
  std::string code_commit;
  bool dirty = false;
  std::string libraries = "{}";  ///< JSON object, name -> version
  std::string command_line;
  std::string host;
  int64_t pid = 0;
  std::string precision = "fp32";
  int threads = 1;
};

struct MetricRecord {
  int64_t step = 0;
  double loss = 0, accuracy = 0, grad_norm = 0, lr = 0;  ///< NaN is stored as NULL
};

/// One supervised position of an evaluation.
struct CurvePoint {
  int64_t position = 0, total = 0, correct = 0, prefix_correct = 0;
};

struct EvaluationRecord {
  std::string split;  ///< validation | test
  int64_t step = 0;
  int length_min = 0, length_max = 0;
  uint32_t data_seed = 0;
  int64_t samples = 0;
  bool configured = true;
  int64_t sequences = 0, sequences_correct = 0, tokens = 0, tokens_correct = 0;
  double loss = 0;  ///< mean over supervised positions
  double chance = 0, constant_answer = 0;
  std::vector<CurvePoint> curve;  ///< empty = none is stored

  double accuracy() const {
    return static_cast<double>(tokens_correct) / static_cast<double>(tokens);
  }
  /// sqrt(p (1 - p) / sequences): the answers of one sequence are not independent, so they count once.
  double standard_error() const;
};

struct CheckpointRecord {
  int64_t step = 0;
  StoredFile file;
};

/// A run that this worker holds.
struct ClaimedRun {
  std::string run_id, name, config, shape_key;
  int64_t steps_done = 0;
  std::optional<CheckpointRecord> last, best;
};

/// What a checkpoint adds to one run. Bytes go to files, the rest into one transaction with the other members.
struct MemberCommit {
  std::string run_id;
  int64_t steps_done = 0;
  int64_t parameters = 0;
  std::vector<MetricRecord> metrics;
  std::vector<EvaluationRecord> evaluations;
  std::optional<std::string>
      last;  ///< safetensors of steps_done; nullopt = keep the one that is there
  std::optional<std::string> best;  ///< likewise, of best_step
  int64_t best_step = 0;
  std::string status = "running";  ///< running, or final: finished | diverged
  std::optional<int64_t> selected_step, diverged_at;
  bool stopped_early = false;
  int64_t from_step = 0;    ///< where this execution took the run up
  double wall_seconds = 0;  ///< since then, of the whole cohort
  int members = 1;          ///< of the cohort when it started
};

struct RunSummary {
  std::string run_id, name, status, error;
  int64_t steps_done = 0, total_steps = 0;
};

/// Another row of `published`.
struct PublishedRecord {
  std::string source, paper_table, task, profile, lengths, model, metric;
  std::optional<double> value;
  std::string selection, note;
};

struct VerificationRecord {
  std::string suite, claim;
  std::string parameters = "{}";  ///< JSON object
  double value = 0, bound = 0;
  bool passed = false;
  std::string note;
};

}  // namespace statelab

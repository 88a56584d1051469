// One run, resolved: every choice that can change a number, and nothing else (no name, path or device).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/cohort.h"
#include "models/model_config.h"
#include "tasks/task.h"

namespace statelab {

/// Curriculum stage: `steps` optimiser steps on samples of these reported lengths.
struct StageConfig {
  int64_t steps = 2000;
  LengthRange length;
};

struct OptimizerConfig {
  std::string name = "adamw";
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;  ///< YAML: betas
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;  ///< 0 = none
};

struct TrainConfig {
  int batch = 256;
  std::string precision = "tf32";  ///< fp32 | tf32 | bf16; the CPU computes and records fp32
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  std::vector<StageConfig> curriculum;
  int bucket_multiple = 8;  ///< a stage's positions are rounded up to a multiple of this
  std::string init_from =
      "none";  ///< none, or the id of a run whose selected weights are the initial ones
};

struct EvalConfig {
  std::vector<int> lengths;         ///< exact reported lengths
  std::vector<LengthRange> ranges;  ///< pooled mixed-length scores
  int samples = 8192;               ///< sequences per length or range, for validation and test each
  int64_t every = 1000;             ///< steps between validations; 0 = only at the end
  std::string select =
      "last";  ///< last | best (highest validation token accuracy at the longest length, first such step)
  std::optional<double>
      stop_at;  ///< stop when validation accuracy at every length <= the longest trained reaches this (YAML: none)
  uint32_t seed = 0;  ///< of validation and test data, shared by all runs so that scores pair
};

struct RunConfig {
  TaskConfig task;
  ModelConfig model;  ///< vocab_size is filled in from the task
  TrainConfig train;
  EvalConfig eval;
  uint32_t seed = 0;  ///< of initial weights and of training data
};

/// Canonical JSON: all defaults filled in, sorted keys, shortest numbers, one line, with bucket rule, chunk size and numerics_version.
/// Two configurations that compute the same numbers give the same text.
std::string canonical_json(const RunConfig& run);
/// Inverse of canonical_json. Throws std::invalid_argument.
RunConfig run_config_from_json(const std::string& canonical);

/// 64 hex digits: SHA-256 of canonical_json.
std::string run_id(const RunConfig& run);
/// Like run_id, but without the seed: runs that differ in luck only.
std::string group_id(const RunConfig& run);
/// Runs with equal keys can train in one cohort: everything but seed, lr, betas, eps, weight_decay, clip_norm.
std::string shape_key(const RunConfig& run);

}  // namespace statelab

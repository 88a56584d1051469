#include "experiments/run_file.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "experiments/cohort_trainer.h"
#include "experiments/execution.h"
#include "experiments/run_check.h"
#include "experiments/run_row.h"
#include "models/interchange.h"
#include "models/model.h"
#include "models/numerics.h"
#include "store/lease.h"

namespace statelab {
namespace {

constexpr const char* kFormat = "statelab-interchange-1";
constexpr size_t kShownDigits = 12;
constexpr int kMaxDepth = 64;
const std::string kPrefix = "statelab.";

std::string text_of(const Metadata& metadata, const std::string& key) {
  const auto it = metadata.find(kPrefix + key);
  return it == metadata.end() ? "" : it->second;
}

int64_t integer_of(const Metadata& metadata, const std::string& key, int64_t least) {
  const std::string text = text_of(metadata, key);
  size_t used = 0;
  int64_t value = least - 1;
  try {
    value = std::stoll(text, &used);
  } catch (const std::exception&) {
  }
  if (used != text.size() || value < least) {
    throw ImportRefused("__metadata__: " + kPrefix + key + " must be an integer of at least " +
                        std::to_string(least) + ", is \"" + text + "\"");
  }
  return value;
}

/// The configuration that the file carries, checked against the id that it carries.
RunConfig config_of(const Metadata& metadata) {
  const std::string text = text_of(metadata, "config");
  int depth = 0, deepest = 0;  // reading descends with the text
  for (const char c : text) {
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    deepest = std::max(deepest, depth);
  }
  if (deepest > kMaxDepth)
    throw ImportRefused("__metadata__: " + kPrefix + "config is nested too deeply");
  RunConfig run;
  try {
    run = run_config_from_json(text);
  } catch (const std::invalid_argument& e) {
    throw ImportRefused("__metadata__: " + kPrefix + "config: " + e.what());
  }
  std::string reasons;
  const int vocab_size = run.model.vocab_size;
  for (const RunProblem& p : complete_and_check(run))
    reasons += (reasons.empty() ? "" : "\n") + p.key + ": " + p.message;
  if (reasons.empty() && run.model.vocab_size != vocab_size) {
    reasons = "model.vocab_size: must be the task's " + std::to_string(run.model.vocab_size) +
              ", is " + std::to_string(vocab_size);
  }
  if (!reasons.empty()) throw ImportRefused(reasons);
  const std::string id = run_id(run), stated = text_of(metadata, "run_id");
  if (id != stated) {
    throw ImportRefused("__metadata__: " + kPrefix + "run_id must follow from " + kPrefix +
                        "config, " + id.substr(0, kShownDigits) + ", is " +
                        stated.substr(0, kShownDigits) +
                        ": the file was changed or written by another version; give its "
                        "configuration with --config");
  }
  return run;
}

/// The layout whose tensor names fit best.
std::string likely_layout(const ModelConfig& model, const std::vector<NamedTensor>& tensors) {
  std::set<std::string> names;
  for (const NamedTensor& t : tensors) names.insert(t.name);
  const auto hits = [&](const std::string& layout) {
    const auto expected = interchange_tensors(model, layout);
    return std::count_if(expected.begin(), expected.end(),
                         [&](const NamedTensor& t) { return names.count(t.name) != 0; });
  };
  const Counterpart counterpart = counterpart_of(model);
  const bool official = counterpart.missing.empty() && hits(counterpart.layout) >= hits(kOwnLayout);
  return official ? counterpart.layout : kOwnLayout;
}

bool same_weights(const MemberState& a, const MemberState& b) {
  const auto same = [](const NamedTensor& x, const NamedTensor& y) {
    return x.name == y.name && x.shape == y.shape && x.data.size() == y.data.size() &&
           std::memcmp(x.data.data(), y.data.data(), x.data.size() * sizeof(float)) == 0;
  };
  return std::equal(a.weights.begin(), a.weights.end(), b.weights.begin(), b.weights.end(), same);
}

bool has_these_weights(RunStore& store, const RunFile& file) {
  for (const char* kind : {"last", "best"}) {
    const auto record = store.checkpoint(file.identity.run_id, kind);
    if (record && same_weights(from_safetensors(store.read_checkpoint(*record)), file.state))
      return true;
  }
  return false;
}

MemberCommit commit_of(const RunFile& file) {
  MemberCommit commit;
  commit.run_id = file.identity.run_id;
  commit.steps_done = commit.from_step = file.state.step;
  commit.parameters = parameter_count(file.config.model);
  commit.last = to_safetensors(
      file.state,
      {{"run_id", file.identity.run_id}, {"config", file.identity.config}, {"origin", "imported"}});
  if (file.config.eval.select == "best") {
    commit.best = commit.last;
    commit.best_step = file.state.step;
  }
  const bool diverged = file.state.diverged_at >= 0;
  commit.status = diverged ? "diverged" : "finished";
  commit.selected_step = file.state.step;
  if (diverged) commit.diverged_at = file.state.diverged_at;
  return commit;
}

}  // namespace

std::string write_run_file(const RunIdentity& identity, const MemberState& state,
                           const std::string& checkpoint, const std::string& layout) {
  const ModelConfig model = run_config_from_json(identity.config).model;
  Metadata metadata;
  const std::vector<NamedTensor> tensors = to_interchange(model, layout, state.weights, metadata);
  std::string constructor;
  if (layout != kOwnLayout) {
    for (const std::string& line : counterpart_of(model).constructor)
      constructor += (constructor.empty() ? "" : "\n") + line;
  }
  metadata["format"] = "pt";
  const std::pair<const char*, std::string> rows[] = {
      {"format", kFormat},
      {"layout", layout},
      {"run_id", identity.run_id},
      {"name", identity.name},
      {"config", identity.config},
      {"step", std::to_string(state.step)},
      {"diverged_at", std::to_string(state.diverged_at)},
      {"checkpoint", checkpoint},
      {"numerics_version", std::to_string(kNumericsVersion)},
      {"constructor", constructor}};
  for (const auto& [key, value] : rows) metadata[kPrefix + key] = value;
  return write_safetensors(tensors, metadata);
}

RunFile read_run_file(std::string_view bytes, const std::optional<GivenRun>& given) {
  SafetensorsFile file;
  try {
    file = read_safetensors(bytes);
  } catch (const SafetensorsError& e) {
    throw ImportRefused(std::string("not a well-formed safetensors file: ") + e.what());
  }
  RunFile out;
  const std::string format = text_of(file.metadata, "format");
  if (!format.empty() && format != kFormat) {
    throw ImportRefused("__metadata__: " + kPrefix + "format must be " + kFormat + ", is " +
                        format);
  }
  if (given) {
    out.config = given->config;
    out.identity.name = given->name;
  } else if (!format.empty()) {
    out.config = config_of(file.metadata);
    out.identity.name = text_of(file.metadata, "name");
  } else {
    throw ImportRefused("the file carries no configuration: give one with --config run.yaml");
  }
  out.identity.config = canonical_json(out.config);
  out.identity.run_id = run_id(out.config);
  if (out.identity.name.empty())
    out.identity.name = "imported-" + out.identity.run_id.substr(0, kShownDigits);
  if (!format.empty()) {
    out.state.step = integer_of(file.metadata, "step", 0);
    out.state.diverged_at = integer_of(file.metadata, "diverged_at", -1);
    out.layout = text_of(file.metadata, "layout");
    if (const std::string id = text_of(file.metadata, "run_id"); id != out.identity.run_id) {
      out.notes.push_back("--config describes run " + out.identity.run_id.substr(0, kShownDigits) +
                          ", the file was exported from run " + id.substr(0, kShownDigits));
    }
  } else {
    out.layout = likely_layout(out.config.model, file.tensors);
    out.notes.push_back(
        "the file does not say how long its weights were trained: recorded as 0 steps");
  }
  for (const auto& [name, dtype] : file.dtypes) {
    if (dtype == "F64") out.notes.push_back(name + " was rounded from F64");
  }
  try {
    out.state.weights = from_interchange(out.config.model, out.layout, file.tensors, file.metadata);
  } catch (const InterchangeError& e) {
    throw ImportRefused(e.what());
  }
  return out;
}

ImportOutcome store_run_file(RunStore& store, const RunFile& file, const std::string& source,
                             const std::string& command_line) {
  const std::string& id = file.identity.run_id;
  const std::vector<std::string> ids = {id};
  const std::string shown = "run " + id.substr(0, kShownDigits);
  const auto known = store.summaries(ids);
  if (!known.empty()) {
    if (has_these_weights(store, file)) return ImportOutcome::kAlreadyThere;
    if (known[0].status != "pending" || known[0].steps_done > 0) {
      throw ImportRefused(shown + " is in this database already, " + known[0].status + " at step " +
                          std::to_string(known[0].steps_done) +
                          ", with other weights; import into another database with --db, or remove "
                          "that run first with `statelab rm`");
    }
  }
  const NewRun row = run_row(file.config, file.identity.name);
  store.add_runs(std::span(&row, 1));
  ExecutionRecord record = execution_record(ComputeDevice(1), command_line);
  record.origin.backend = record.precision = "imported";
  record.origin.device = source;
  const std::string owner = new_lease_owner();
  store.select_work(ids);
  if (store.claim(owner, record.origin, 1).empty())
    throw ImportRefused(shown +
                        " is being trained by another process, or waits for the run of its "
                        "train.init_from");
  try {
    const int64_t execution = store.begin_execution(record);
    const MemberCommit commit = commit_of(file);
    store.commit(owner, execution, std::span(&commit, 1));
    store.end_execution(execution, "imported", peak_memory_bytes());
  } catch (...) {
    store.release(owner, ids);
    throw;
  }
  return ImportOutcome::kAdded;
}

}  // namespace statelab

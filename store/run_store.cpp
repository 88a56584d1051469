#include "store/run_store.h"

#include <set>

#include "store/failpoint.h"
#include "store/lease.h"
#include "store/sha256.h"

namespace statelab {
namespace {

constexpr int kBusy = 5;  // SQLITE_BUSY

}  // namespace

RunStore::RunStore(const std::filesystem::path& database, Database::Access access)
    : database_(database, access) {}

int64_t RunStore::add_runs(std::span<const NewRun> runs, const std::optional<SweepRecord>& sweep) {
  const double now = unix_now();
  int64_t added = 0;
  Transaction transaction(database_);
  Statement insert(database_,
                   "INSERT INTO runs (run_id, group_id, shape_key, name, config, total_steps, "
                   "created_at, updated_at) "
                   "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) ON CONFLICT (run_id) DO NOTHING");
  for (size_t i = 0; i < runs.size(); ++i) {
    const NewRun& run = runs[i];
    added += insert.bind(1, run.run_id)
                 .bind(2, run.group_id)
                 .bind(3, run.shape_key)
                 .bind(4, run.name)
                 .bind(5, run.config)
                 .bind(6, run.total_steps)
                 .bind(7, now)
                 .run();
    if (i == runs.size() / 2) failpoint("runs.before_commit");
  }
  if (sweep) {
    const std::string sweep_id = sha256_hex(sweep->name + '\n' + sweep->config);
    Statement(database_,
              "INSERT INTO sweeps (sweep_id, name, config, overrides, command_line, created_at) "
              "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sweep_id) DO NOTHING")
        .bind(1, sweep_id)
        .bind(2, sweep->name)
        .bind(3, sweep->config)
        .bind(4, sweep->overrides)
        .bind(5, sweep->command_line)
        .bind(6, now)
        .run();
    Statement refer(
        database_,
        "INSERT OR IGNORE INTO sweep_runs (sweep, run, position) "
        "SELECT s.id, r.id, ?3 FROM sweeps s, runs r WHERE s.sweep_id = ?1 AND r.run_id = ?2");
    for (size_t i = 0; i < runs.size(); ++i) {
      refer.bind(1, sweep_id).bind(2, runs[i].run_id).bind(3, static_cast<int64_t>(i)).run();
    }
  }
  transaction.commit();
  failpoint("runs.after_commit");
  return added;
}

std::vector<RunSummary> RunStore::summaries(std::span<const std::string> run_ids) {
  std::vector<RunSummary> found;
  Statement query(
      database_,
      "SELECT run_id, name, status, steps_done, total_steps, error FROM runs WHERE run_id = ?1");
  for (const std::string& id : run_ids) {
    query.bind(1, id);
    if (query.step()) {
      found.push_back({query.text(0), query.text(1), query.text(2), query.text(5), query.integer(3),
                       query.integer(4)});
    }
    query.reset();
  }
  return found;
}

std::vector<std::string> RunStore::find(const std::string& prefix) {
  std::vector<std::string> ids;
  // The id's range scan uses the index, LIKE would not.
  Statement query(database_,
                  "SELECT run_id FROM runs WHERE run_id >= ?1 AND run_id < ?1 || 'g' "
                  "UNION SELECT run_id FROM runs WHERE name = ?1");
  query.bind(1, prefix);
  while (query.step()) ids.push_back(query.text(0));
  return ids;
}

std::optional<std::string> RunStore::config(const std::string& run_id) {
  Statement query(database_, "SELECT config FROM runs WHERE run_id = ?1");
  query.bind(1, run_id);
  return query.step() ? std::optional(query.text(0)) : std::nullopt;
}

int64_t RunStore::row_of(const std::string& run_id) {
  Statement query(database_, "SELECT id FROM runs WHERE run_id = ?1");
  query.bind(1, run_id);
  if (!query.step()) {
    throw StoreError("[" + database_.path().string() + "] has no run " + run_id,
                     StoreError::kMismatch, StoreError::kMismatch, "SELECT id FROM runs");
  }
  return query.integer(0);
}

int64_t RunStore::free_dead_leases() {
  const double now = unix_now();
  std::set<std::string> dead;
  {
    Statement owners(
        database_,
        "SELECT lease_owner, max(lease_until) FROM runs WHERE status = 'running' GROUP BY 1");
    while (owners.step()) {
      const std::string owner = owners.text(0);
      if (!(owners.real(1) > now) || is_dead_on_this_machine(owner)) dead.insert(owner);
    }
  }
  int64_t freed = 0;
  Statement free(database_,
                 "UPDATE runs SET status = 'pending', lease_owner = NULL, lease_until = NULL "
                 "WHERE status = 'running' AND lease_owner IS ?1");
  for (const std::string& owner : dead) freed += free.bind(1, owner).run();
  return freed;
}

int64_t RunStore::retry_failed(std::span<const std::string> run_ids) {
  Transaction transaction(database_);
  Statement update(database_,
                   "UPDATE runs SET status = 'pending', error = NULL, finished_at = NULL "
                   "WHERE run_id = ?1 AND status = 'failed'");
  int64_t changed = 0;
  for (const std::string& id : run_ids) changed += update.bind(1, id).run();
  transaction.commit();
  return changed;
}

std::vector<std::string> RunStore::delete_results(int64_t run) {
  std::vector<std::string> paths;
  Statement files(database_, "SELECT path FROM checkpoints WHERE run = ?1");
  files.bind(1, run);
  while (files.step()) paths.push_back(files.text(0));
  for (const char* table : {"metrics", "evaluations", "checkpoints", "run_executions"}) {
    Statement(database_, std::string("DELETE FROM ") + table + " WHERE run = ?1")
        .bind(1, run)
        .run();
  }
  return paths;
}

int64_t RunStore::reset(std::span<const std::string> run_ids) {
  std::vector<std::string> paths;
  int64_t changed = 0;
  Transaction transaction(database_);
  free_dead_leases();
  Statement update(
      database_,
      "UPDATE runs SET status = 'pending', steps_done = 0, parameters = NULL, selected_step = "
      "NULL, "
      "stopped_early = 0, diverged_at = NULL, error = NULL, finished_at = NULL, updated_at = ?2 "
      "WHERE run_id = ?1 AND status <> 'running'");
  for (const std::string& id : run_ids) {
    if (update.bind(1, id).bind(2, unix_now()).run() == 0) continue;
    ++changed;
    const std::vector<std::string> files = delete_results(row_of(id));
    paths.insert(paths.end(), files.begin(), files.end());
  }
  transaction.commit();
  delete_unreferenced(paths);
  return changed;
}

int64_t RunStore::remove(std::span<const std::string> run_ids) {
  std::vector<std::string> paths;
  int64_t changed = 0;
  Transaction transaction(database_);
  free_dead_leases();
  Statement erase(database_, "DELETE FROM runs WHERE id = ?1");
  for (const RunSummary& run : summaries(run_ids)) {
    if (run.status == "running") {
      throw StoreError("[" + database_.path().string() + "] run " + run.name +
                           " cannot be removed: it is being trained",
                       kBusy, kBusy, "DELETE FROM runs");
    }
    const int64_t row = row_of(run.run_id);
    const std::vector<std::string> files = delete_results(row);
    paths.insert(paths.end(), files.begin(), files.end());
    changed += erase.bind(1, row).run();
  }
  transaction.commit();
  delete_unreferenced(paths);
  return changed;
}

std::map<std::string, Origin> RunStore::computed_elsewhere(std::span<const std::string> run_ids,
                                                           const Origin& here) {
  std::map<std::string, Origin> foreign;
  Statement query(
      database_,
      "SELECT e.backend, e.device, e.build FROM runs r JOIN run_executions x ON x.run = r.id "
      "JOIN executions e ON e.id = x.execution "
      "WHERE r.run_id = ?1 AND r.status IN ('pending', 'running', 'failed') AND r.steps_done > 0");
  for (const std::string& id : run_ids) {
    query.bind(1, id);
    while (query.step()) {
      const Origin origin{query.text(0), query.text(1), query.text(2)};
      if (origin != here) foreign[id] = origin;
    }
    query.reset();
  }
  return foreign;
}

int64_t RunStore::sweep_orphans() {
  std::vector<std::string> orphans;
  const std::filesystem::path folder = database_.files_folder();
  Transaction transaction(database_);
  free_dead_leases();
  Statement held(database_, "SELECT 1 FROM runs WHERE run_id = ?1 AND status = 'running'");
  Statement referenced(database_, "SELECT 1 FROM checkpoints WHERE path = ?1");
  for (const std::string& path : list_checkpoint_files(folder)) {
    const std::string run_id = run_of_checkpoint_file(path);
    if (run_id.empty()) continue;  // not ours
    const bool keep = held.bind(1, run_id).step() || referenced.bind(1, path).step();
    held.reset();
    referenced.reset();
    if (!keep) orphans.push_back(path);
  }
  failpoint("sweep_orphans.before_delete");
  // Still inside the transaction: nobody can claim one of these runs before the files are gone.
  for (const std::string& path : orphans) delete_checkpoint_file(folder, path);
  transaction.commit();
  return static_cast<int64_t>(orphans.size());
}

std::vector<EvaluationRecord> RunStore::evaluations(const std::string& run_id,
                                                    const std::string& split) {
  std::vector<EvaluationRecord> found;
  Statement query(
      database_,
      "SELECT v.step, v.length_min, v.length_max, v.data_seed, v.samples, v.configured, "
      "v.sequences, "
      "v.sequences_correct, v.tokens, v.tokens_correct, v.loss, v.chance, v.constant_answer "
      "FROM evaluations v JOIN runs r ON r.id = v.run WHERE r.run_id = ?1 AND v.split = ?2 "
      "ORDER BY v.step, v.length_max, v.length_min");
  query.bind(1, run_id).bind(2, split);
  while (query.step()) {
    EvaluationRecord e;
    e.split = split;
    e.step = query.integer(0);
    e.length_min = static_cast<int>(query.integer(1));
    e.length_max = static_cast<int>(query.integer(2));
    e.data_seed = static_cast<uint32_t>(query.integer(3));
    e.samples = query.integer(4);
    e.configured = query.integer(5) != 0;
    e.sequences = query.integer(6);
    e.sequences_correct = query.integer(7);
    e.tokens = query.integer(8);
    e.tokens_correct = query.integer(9);
    e.loss = query.real(10);
    e.chance = query.real(11);
    e.constant_answer = query.real(12);
    found.push_back(std::move(e));
  }
  return found;
}

std::optional<CheckpointRecord> RunStore::checkpoint(const std::string& run_id,
                                                     const std::string& kind) {
  Statement query(
      database_,
      "SELECT c.step, c.path, c.sha256, c.bytes FROM checkpoints c JOIN runs r ON r.id = c.run "
      "WHERE r.run_id = ?1 AND c.kind = ?2");
  query.bind(1, run_id).bind(2, kind);
  if (!query.step()) return std::nullopt;
  return CheckpointRecord{query.integer(0), {query.text(1), query.text(2), query.integer(3)}};
}

std::string RunStore::read_checkpoint(const CheckpointRecord& record) {
  return read_checkpoint_file(database_.files_folder(), record.file);
}

void RunStore::add_evaluations(const std::string& run_id,
                               std::span<const EvaluationRecord> evaluations) {
  Transaction transaction(database_);
  const int64_t run = row_of(run_id);
  for (const EvaluationRecord& evaluation : evaluations) insert_evaluation(run, evaluation);
  transaction.commit();
}

void RunStore::set_published(std::span<const PublishedRecord> records) {
  Transaction transaction(database_);
  std::set<std::string> sources;
  for (const PublishedRecord& r : records) sources.insert(r.source);
  for (const std::string& source : sources) {
    Statement(database_, "DELETE FROM published WHERE source = ?1").bind(1, source).run();
  }
  Statement insert(database_,
                   "INSERT INTO published (source, paper_table, task, profile, lengths, model, "
                   "metric, value, selection, "
                   "note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
  for (const PublishedRecord& r : records) {
    insert.bind(1, r.source)
        .bind(2, r.paper_table)
        .bind(3, r.task)
        .bind(4, r.profile)
        .bind(5, r.lengths)
        .bind(6, r.model)
        .bind(7, r.metric)
        .bind(8, r.value)
        .bind(9, r.selection)
        .bind(10, r.note)
        .run();
  }
  transaction.commit();
}

void RunStore::add_verifications(int64_t execution, std::span<const VerificationRecord> records) {
  Transaction transaction(database_);
  Statement insert(
      database_,
      "INSERT INTO verifications (execution, suite, claim, parameters, value, bound, passed, note, "
      "created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
  for (const VerificationRecord& r : records) {
    insert.bind(1, execution)
        .bind(2, r.suite)
        .bind(3, r.claim)
        .bind(4, r.parameters)
        .bind(5, r.value)
        .bind(6, r.bound)
        .bind(7, r.passed ? 1 : 0)
        .bind(8, r.note)
        .bind(9, unix_now())
        .run();
  }
  transaction.commit();
}

}  // namespace statelab

#include "store/merge.h"

#include <string>
#include <vector>

#include "store/checkpoint_files.h"
#include "store/lease.h"

namespace statelab {
namespace {

// Rank of a run's progress, to be compared within one run id.
constexpr const char* kRank =
    "CASE status WHEN 'finished' THEN 3 WHEN 'diverged' THEN 3 WHEN 'failed' THEN 1 ELSE 2 END";

struct Attached {
  Database& database;
  Attached(Database& target, const std::filesystem::path& source) : database(target) {
    Statement(database, "ATTACH DATABASE ?1 AS source").bind(1, source.string()).run();
  }
  ~Attached() {
    try {
      database.execute("DETACH DATABASE source");
    } catch (const StoreError&) {
      // The connection goes away with its attachments.
    }
  }
};

void copy_independent_tables(Database& db) {
  db.execute(
      "INSERT OR IGNORE INTO main.sweeps (sweep_id, name, config, overrides, command_line, "
      "created_at) "
      "SELECT sweep_id, name, config, overrides, command_line, created_at FROM source.sweeps;"
      "INSERT INTO main.executions (execution_id, backend, device, build, code_commit, dirty, "
      "libraries, command_line, "
      " host, pid, precision, threads, started_at, ended_at, exit_reason, peak_memory_bytes) "
      "SELECT execution_id, backend, device, build, code_commit, dirty, libraries, command_line, "
      "host, pid, precision, "
      " threads, started_at, ended_at, exit_reason, peak_memory_bytes FROM source.executions WHERE "
      "true "
      "ON CONFLICT (execution_id) DO UPDATE SET ended_at = excluded.ended_at, exit_reason = "
      "excluded.exit_reason, "
      " peak_memory_bytes = excluded.peak_memory_bytes WHERE main.executions.ended_at IS NULL;"
      "INSERT OR IGNORE INTO main.published (source, paper_table, task, profile, lengths, model, "
      "metric, value, "
      " selection, note) SELECT source, paper_table, task, profile, lengths, model, metric, value, "
      "selection, note "
      " FROM source.published;"
      "INSERT OR IGNORE INTO main.verifications (execution, suite, claim, parameters, value, "
      "bound, passed, note, "
      " created_at) SELECT e.id, v.suite, v.claim, v.parameters, v.value, v.bound, v.passed, "
      "v.note, v.created_at "
      " FROM source.verifications v JOIN source.executions x ON x.id = v.execution "
      " JOIN main.executions e ON e.execution_id = x.execution_id;");
}

// temp.moved (there, here): source runs to be copied with their children and the target row they go to.
void copy_moved_runs(Database& db) {
  db.execute(
      "INSERT INTO main.metrics SELECT m.here, s.step, s.loss, s.accuracy, s.grad_norm, s.lr "
      " FROM source.metrics s JOIN temp.moved m ON m.there = s.run;"
      "INSERT INTO main.checkpoints SELECT m.here, s.kind, s.step, s.path, s.sha256, s.bytes, "
      "s.created_at "
      " FROM source.checkpoints s JOIN temp.moved m ON m.there = s.run;"
      "INSERT INTO main.run_executions SELECT m.here, e.id, s.from_step, s.to_step, "
      "s.wall_seconds, s.members "
      " FROM source.run_executions s JOIN temp.moved m ON m.there = s.run "
      " JOIN source.executions x ON x.id = s.execution JOIN main.executions e ON e.execution_id = "
      "x.execution_id;");
}

void copy_evaluations(Database& db) {
  // Of runs that stay as they are, only the scores of the same final weights that were asked for later.
  db.execute(
      "CREATE TEMP TABLE taken AS "
      "SELECT v.id AS there, m.here FROM source.evaluations v JOIN temp.moved m ON m.there = v.run "
      "UNION ALL SELECT v.id, r.id FROM source.evaluations v JOIN source.runs s ON s.id = v.run "
      " JOIN main.runs r ON r.run_id = s.run_id AND r.status = 'finished' AND r.selected_step = "
      "v.step "
      " WHERE v.configured = 0 AND s.id NOT IN (SELECT there FROM temp.moved);"
      "INSERT OR IGNORE INTO main.evaluations (run, split, step, length_min, length_max, "
      "data_seed, samples, "
      " configured, sequences, sequences_correct, tokens, tokens_correct, loss, chance, "
      "constant_answer, "
      " standard_error) SELECT t.here, v.split, v.step, v.length_min, v.length_max, v.data_seed, "
      "v.samples, "
      " v.configured, v.sequences, v.sequences_correct, v.tokens, v.tokens_correct, v.loss, "
      "v.chance, "
      " v.constant_answer, v.standard_error FROM source.evaluations v JOIN temp.taken t ON t.there "
      "= v.id;"
      "INSERT OR IGNORE INTO main.curves (evaluation, points) SELECT e.id, c.points FROM "
      "source.curves c "
      " JOIN temp.taken t ON t.there = c.evaluation JOIN source.evaluations v ON v.id = "
      "c.evaluation "
      " JOIN main.evaluations e ON e.run = t.here AND (e.split, e.step, e.length_min, "
      "e.length_max, e.data_seed, "
      " e.samples) = (v.split, v.step, v.length_min, v.length_max, v.data_seed, v.samples);"
      "DROP TABLE temp.taken;");
}

}  // namespace

MergeCounts merge(Database& target, const std::filesystem::path& source) {
  const Database check(source,
                       Database::Access::kReadOnly);  // exists, is ours, has this program's schema
  const std::filesystem::path source_files = check.files_folder(), files = target.files_folder();
  if (std::filesystem::equivalent(source, target.path())) {
    throw StoreError("[" + source.string() + "] cannot be merged into itself",
                     StoreError::kMismatch, StoreError::kMismatch, "ATTACH DATABASE");
  }
  MergeCounts counts;
  const Attached attached(target, source);
  std::vector<std::string> superseded, copied;
  try {
    Transaction transaction(target);
    target.execute(
        "DROP TABLE IF EXISTS temp.moved;"
        "CREATE TEMP TABLE moved (there INTEGER PRIMARY KEY, here INTEGER, run_id TEXT UNIQUE)");
    const std::string rank = kRank;
    counts.replaced = Statement(target,
                                "INSERT INTO temp.moved SELECT s.id, r.id, s.run_id FROM "
                                " (SELECT *, " +
                                    rank +
                                    " AS rank FROM source.runs) s JOIN "
                                    " (SELECT *, " +
                                    rank +
                                    " AS rank FROM main.runs) r ON r.run_id = s.run_id "
                                    "WHERE r.status <> 'running' AND (s.rank > r.rank OR (s.rank = "
                                    "r.rank AND s.rank = 2 AND "
                                    " s.steps_done > r.steps_done))")
                          .run();
    {
      Statement old(target,
                    "SELECT c.path FROM main.checkpoints c JOIN temp.moved m ON m.here = c.run");
      while (old.step()) superseded.push_back(old.text(0));
    }
    for (const char* table : {"metrics", "evaluations", "checkpoints", "run_executions"}) {
      target.execute(std::string("DELETE FROM main.") + table +
                     " WHERE run IN (SELECT here FROM temp.moved)");
    }
    counts.added = Statement(target,
                             "INSERT INTO temp.moved SELECT id, NULL, run_id FROM source.runs "
                             "WHERE run_id NOT IN (SELECT run_id FROM main.runs)")
                       .run();
    target.execute(
        "INSERT INTO main.runs (run_id, group_id, shape_key, name, config, status, total_steps, "
        "steps_done, parameters, "
        " selected_step, stopped_early, diverged_at, error, created_at, updated_at, finished_at) "
        "SELECT s.run_id, group_id, shape_key, name, config, replace(status, 'running', "
        "'pending'), total_steps, "
        " steps_done, parameters, selected_step, stopped_early, diverged_at, error, created_at, "
        "updated_at, finished_at "
        "FROM source.runs s JOIN temp.moved m ON m.there = s.id ORDER BY s.id "
        "ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, steps_done = "
        "excluded.steps_done, "
        " parameters = excluded.parameters, selected_step = excluded.selected_step, "
        " stopped_early = excluded.stopped_early, diverged_at = excluded.diverged_at, error = "
        "excluded.error, "
        " updated_at = excluded.updated_at, finished_at = excluded.finished_at;"
        "UPDATE temp.moved SET here = (SELECT id FROM main.runs r WHERE r.run_id = moved.run_id);");
    copy_independent_tables(target);
    copy_moved_runs(target);
    copy_evaluations(target);
    target.execute(
        "INSERT OR IGNORE INTO main.sweep_runs SELECT w.id, r.id, x.position FROM "
        "source.sweep_runs x "
        " JOIN source.sweeps v ON v.id = x.sweep JOIN main.sweeps w ON w.sweep_id = v.sweep_id "
        " JOIN source.runs s ON s.id = x.run JOIN main.runs r ON r.run_id = s.run_id;");
    {
      Statement total(target, "SELECT count(*) FROM source.runs");
      total.step();
      counts.kept = total.integer(0) - counts.added - counts.replaced;
    }
    // The rows name new files: paths hold the writer's token, which another database may use as well.
    const std::string token = token_of(new_lease_owner());
    struct Copy {
      int64_t run;
      std::string run_id;
      int64_t step;
      StoredFile file;
    };
    std::vector<Copy> copies;
    {
      Statement rows(
          target,
          "SELECT c.run, m.run_id, c.step, c.path, c.sha256, c.bytes FROM main.checkpoints c "
          "JOIN temp.moved m ON m.here = c.run GROUP BY c.path");
      while (rows.step()) {
        copies.push_back({rows.integer(0),
                          rows.text(1),
                          rows.integer(2),
                          {rows.text(3), rows.text(4), rows.integer(5)}});
      }
    }
    Statement rename(target, "UPDATE main.checkpoints SET path = ?3 WHERE run = ?1 AND path = ?2");
    for (const Copy& copy : copies) {
      const std::string bytes = read_checkpoint_file(source_files, copy.file);
      const StoredFile file = write_checkpoint_file(files, copy.run_id, copy.step, token, bytes);
      copied.push_back(file.path);
      rename.bind(1, copy.run).bind(2, copy.file.path).bind(3, file.path).run();
    }
    counts.files = static_cast<int64_t>(copied.size());
    transaction.commit();
  } catch (...) {
    for (const std::string& path : copied) delete_checkpoint_file(files, path);
    throw;
  }
  for (const std::string& path : superseded) delete_checkpoint_file(files, path);
  target.execute("DROP TABLE temp.moved");
  return counts;
}

}  // namespace statelab

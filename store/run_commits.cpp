// The worker's side of RunStore: executions, claims, and the commit that makes a checkpoint true.
#include <cmath>
#include <random>

#include "store/failpoint.h"
#include "store/lease.h"
#include "store/run_store.h"

namespace statelab {
namespace {

std::string random_id() {
  std::random_device random;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string id;
  for (int i = 0; i < 32; ++i) id += kDigits[random() & 15];
  return id;
}

std::string points_json(const std::vector<CurvePoint>& curve) {
  std::string json = "[";
  for (const CurvePoint& p : curve) {
    if (json.size() > 1) json += ',';
    json += '[' + std::to_string(p.position) + ',' + std::to_string(p.total) + ',' +
            std::to_string(p.correct) + ',' + std::to_string(p.prefix_correct) + ']';
  }
  return json + ']';
}

}  // namespace

double EvaluationRecord::standard_error() const {
  const double p = accuracy();
  return std::sqrt(p * (1 - p) / static_cast<double>(sequences));
}

int64_t RunStore::begin_execution(const ExecutionRecord& r) {
  Statement insert(database_,
                   "INSERT INTO executions (execution_id, backend, device, build, code_commit, "
                   "dirty, libraries, "
                   "command_line, host, pid, precision, threads, started_at) "
                   "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)");
  insert.bind(1, random_id())
      .bind(2, r.origin.backend)
      .bind(3, r.origin.device)
      .bind(4, r.origin.build)
      .bind(5, r.code_commit)
      .bind(6, r.dirty ? 1 : 0)
      .bind(7, r.libraries)
      .bind(8, r.command_line)
      .bind(9, r.host)
      .bind(10, r.pid)
      .bind(11, r.precision)
      .bind(12, r.threads)
      .bind(13, unix_now())
      .run();
  const int64_t id = database_.last_insert_id();
  failpoint("execution.after_begin");
  return id;
}

void RunStore::end_execution(int64_t execution, const std::string& reason,
                             int64_t peak_memory_bytes) {
  failpoint("execution.before_end");
  Statement(
      database_,
      "UPDATE executions SET ended_at = ?2, exit_reason = ?3, peak_memory_bytes = ?4 WHERE id = ?1")
      .bind(1, execution)
      .bind(2, unix_now())
      .bind(3, reason)
      .bind(4, peak_memory_bytes)
      .run();
}

void RunStore::select_work(std::span<const std::string> run_ids) {
  database_.execute(
      "CREATE TEMP TABLE IF NOT EXISTS work (position INTEGER PRIMARY KEY, run INTEGER NOT NULL "
      "UNIQUE)");
  Transaction transaction(database_);
  database_.execute("DELETE FROM temp.work");
  Statement insert(
      database_,
      "INSERT OR IGNORE INTO temp.work (position, run) SELECT ?1, id FROM runs WHERE run_id = ?2");
  for (size_t i = 0; i < run_ids.size(); ++i)
    insert.bind(1, static_cast<int64_t>(i)).bind(2, run_ids[i]).run();
  transaction.commit();
}

std::map<std::string, int64_t> RunStore::work_by_status() {
  std::map<std::string, int64_t> counts;
  Statement query(
      database_,
      "SELECT r.status, count(*) FROM temp.work w JOIN runs r ON r.id = w.run GROUP BY r.status");
  while (query.step()) counts[query.text(0)] = query.integer(1);
  return counts;
}

std::vector<ClaimedRun> RunStore::claim(const std::string& owner, const Origin& here,
                                        int max_members, double lease_seconds) {
  // A run with steps from elsewhere would not get the bits of an undisturbed run; one that starts from another run's
  // weights waits for them.
  static const std::string kClaimable =
      " FROM temp.work w JOIN runs r ON r.id = w.run WHERE r.status = 'pending'"
      " AND NOT (r.steps_done > 0 AND EXISTS (SELECT 1 FROM run_executions x JOIN executions e ON "
      "e.id = x.execution"
      "   WHERE x.run = r.id AND (e.backend, e.device, e.build) <> (?1, ?2, ?3)))"
      " AND NOT EXISTS (SELECT 1 FROM runs s WHERE s.run_id = r.init_from AND s.status IN "
      "('pending', 'running'))";
  std::vector<ClaimedRun> claimed;
  Transaction transaction(database_);
  free_dead_leases();
  {
    Statement first(database_, "SELECT r.shape_key, r.steps_done" + kClaimable +
                                   " ORDER BY w.position LIMIT 1");
    first.bind(1, here.backend).bind(2, here.device).bind(3, here.build);
    if (!first.step()) {
      transaction.commit();
      return claimed;
    }
    Statement members(
        database_, "SELECT r.run_id, r.name, r.config, r.shape_key, r.steps_done" + kClaimable +
                       " AND r.shape_key = ?4 AND r.steps_done = ?5 ORDER BY w.position LIMIT ?6");
    members.bind(1, here.backend).bind(2, here.device).bind(3, here.build);
    members.bind(4, first.text(0)).bind(5, first.integer(1)).bind(6, max_members);
    while (members.step()) {
      ClaimedRun run;
      run.run_id = members.text(0);
      run.name = members.text(1);
      run.config = members.text(2);
      run.shape_key = members.text(3);
      run.steps_done = members.integer(4);
      claimed.push_back(std::move(run));
    }
  }
  Statement mark(
      database_,
      "UPDATE runs SET status = 'running', lease_owner = ?2, lease_until = ?3, updated_at = ?4 "
      "WHERE run_id = ?1");
  const double now = unix_now();
  for (ClaimedRun& run : claimed) {
    mark.bind(1, run.run_id).bind(2, owner).bind(3, now + lease_seconds).bind(4, now).run();
    run.last = checkpoint(run.run_id, "last");
    run.best = checkpoint(run.run_id, "best");
  }
  failpoint("claim.before_commit");
  transaction.commit();
  failpoint("claim.after_commit");
  return claimed;
}

void RunStore::commit(const std::string& owner, int64_t execution,
                      std::span<const MemberCommit> members, double lease_seconds) {
  const std::filesystem::path folder = database_.files_folder();
  std::vector<std::optional<StoredFile>> last(members.size()), best(members.size());
  std::vector<std::string> written, superseded;
  try {
    for (size_t i = 0; i < members.size(); ++i) {
      const MemberCommit& m = members[i];
      if (m.last) {
        last[i] = write_checkpoint_file(folder, m.run_id, m.steps_done, token_of(owner), *m.last);
        written.push_back(last[i]->path);
      }
      if (m.best && m.last && m.best_step == m.steps_done && *m.best == *m.last) {
        best[i] = last[i];
      } else if (m.best) {
        best[i] = write_checkpoint_file(folder, m.run_id, m.best_step, token_of(owner), *m.best);
        written.push_back(best[i]->path);
      }
    }
    failpoint("checkpoint.files_done");
    Transaction transaction(database_);
    failpoint("commit.after_begin");
    for (size_t i = 0; i < members.size(); ++i) {
      write_member(owner, execution, members[i], last[i], best[i], lease_seconds, superseded);
      if (i == 0) failpoint("commit.half_of_members");
    }
    failpoint("commit.before_commit");
    transaction.commit();
  } catch (...) {
    delete_unreferenced(written);
    throw;
  }
  failpoint("commit.after_commit");
  delete_unreferenced(superseded);
}

void RunStore::write_member(const std::string& owner, int64_t execution, const MemberCommit& m,
                            const std::optional<StoredFile>& last,
                            const std::optional<StoredFile>& best, double lease_seconds,
                            std::vector<std::string>& superseded) {
  const double now = unix_now();
  const bool final = m.status != "running";
  Statement update(database_,
                   "UPDATE runs SET status = ?3, steps_done = ?4, parameters = ?5, selected_step = "
                   "?6, diverged_at = ?7, "
                   "stopped_early = ?8, updated_at = ?9, finished_at = ?10, lease_owner = ?11, "
                   "lease_until = ?12 "
                   "WHERE run_id = ?1 AND status = 'running' AND lease_owner = ?2");
  update.bind(1, m.run_id)
      .bind(2, owner)
      .bind(3, m.status)
      .bind(4, m.steps_done)
      .bind(5, m.parameters);
  update.bind(6, m.selected_step)
      .bind(7, m.diverged_at)
      .bind(8, m.stopped_early ? 1 : 0)
      .bind(9, now);
  update.bind(10, final ? std::optional(now) : std::nullopt);
  update.bind(11, final ? std::nullopt : std::optional(owner));
  update.bind(12, final ? std::nullopt : std::optional(now + lease_seconds));
  if (update.run() != 1) {
    throw LeaseLost("[" + database_.path().string() + "] run " + m.run_id +
                    " is held by another worker: this one was stopped for longer than its lease");
  }
  const int64_t run = row_of(m.run_id);
  Statement metric(database_,
                   "INSERT INTO metrics (run, step, loss, accuracy, grad_norm, lr) VALUES (?1, ?2, "
                   "?3, ?4, ?5, ?6)");
  for (const MetricRecord& r : m.metrics) {
    metric.bind(1, run)
        .bind(2, r.step)
        .bind(3, r.loss)
        .bind(4, r.accuracy)
        .bind(5, r.grad_norm)
        .bind(6, r.lr)
        .run();
  }
  for (const EvaluationRecord& evaluation : m.evaluations) insert_evaluation(run, evaluation);

  Statement old_path(database_, "SELECT path FROM checkpoints WHERE run = ?1 AND kind = ?2");
  Statement put(database_,
                "INSERT INTO checkpoints (run, kind, step, path, sha256, bytes, created_at) "
                "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (run, kind) DO UPDATE SET step = "
                "excluded.step, "
                "path = excluded.path, sha256 = excluded.sha256, bytes = excluded.bytes, "
                "created_at = excluded.created_at");
  const auto store = [&](const char* kind, int64_t step, const StoredFile& file) {
    if (old_path.bind(1, run).bind(2, kind).step()) superseded.push_back(old_path.text(0));
    old_path.reset();
    put.bind(1, run)
        .bind(2, kind)
        .bind(3, step)
        .bind(4, file.path)
        .bind(5, file.sha256)
        .bind(6, file.bytes)
        .bind(7, now)
        .run();
  };
  if (last) store("last", m.steps_done, *last);
  if (best) store("best", m.best_step, *best);

  Statement(
      database_,
      "INSERT INTO run_executions (run, execution, from_step, to_step, wall_seconds, members) "
      "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (run, execution, from_step) DO UPDATE SET "
      "to_step = excluded.to_step, wall_seconds = excluded.wall_seconds")
      .bind(1, run)
      .bind(2, execution)
      .bind(3, m.from_step)
      .bind(4, m.steps_done)
      .bind(5, m.wall_seconds)
      .bind(6, m.members)
      .run();
}

void RunStore::insert_evaluation(int64_t run, const EvaluationRecord& e) {
  Statement insert(database_,
                   "INSERT OR REPLACE INTO evaluations (run, split, step, length_min, length_max, "
                   "data_seed, samples, "
                   "configured, sequences, sequences_correct, tokens, tokens_correct, loss, "
                   "chance, constant_answer, "
                   "standard_error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, "
                   "?13, ?14, ?15, ?16)");
  insert.bind(1, run).bind(2, e.split).bind(3, e.step).bind(4, e.length_min).bind(5, e.length_max);
  insert.bind(6, static_cast<int64_t>(e.data_seed))
      .bind(7, e.samples)
      .bind(8, e.configured ? 1 : 0);
  insert.bind(9, e.sequences)
      .bind(10, e.sequences_correct)
      .bind(11, e.tokens)
      .bind(12, e.tokens_correct);
  insert.bind(13, e.loss)
      .bind(14, e.chance)
      .bind(15, e.constant_answer)
      .bind(16, e.standard_error())
      .run();
  if (e.curve.empty()) return;
  const int64_t evaluation = database_.last_insert_id();
  Statement(database_, "INSERT INTO curves (evaluation, points) VALUES (?1, ?2)")
      .bind(1, evaluation)
      .bind(2, points_json(e.curve))
      .run();
}

void RunStore::release(const std::string& owner, std::span<const std::string> run_ids) {
  Transaction transaction(database_);
  Statement update(
      database_,
      "UPDATE runs SET status = 'pending', lease_owner = NULL, lease_until = NULL, updated_at = ?3 "
      "WHERE run_id = ?1 AND status = 'running' AND lease_owner = ?2");
  for (const std::string& id : run_ids) update.bind(1, id).bind(2, owner).bind(3, unix_now()).run();
  transaction.commit();
}

void RunStore::fail(const std::string& owner, std::span<const std::string> run_ids,
                    const std::string& error) {
  Transaction transaction(database_);
  Statement update(
      database_,
      "UPDATE runs SET status = 'failed', lease_owner = NULL, lease_until = NULL, updated_at = ?3, "
      "finished_at = ?3, error = ?4 WHERE run_id = ?1 AND status = 'running' AND lease_owner = ?2");
  for (const std::string& id : run_ids)
    update.bind(1, id).bind(2, owner).bind(3, unix_now()).bind(4, error).run();
  transaction.commit();
}

void RunStore::delete_unreferenced(const std::vector<std::string>& paths) {
  Statement referenced(database_, "SELECT 1 FROM checkpoints WHERE path = ?1");
  for (const std::string& path : paths) {
    const bool keep = referenced.bind(1, path).step();
    referenced.reset();
    if (keep) continue;
    delete_checkpoint_file(database_.files_folder(), path);
    failpoint("commit.after_delete");
  }
}

}  // namespace statelab

#include "store/results_file.h"

#include <fstream>
#include <ostream>
#include <string_view>
#include <vector>

namespace statelab {
namespace {

constexpr std::string_view kHead = "{\"statelab_results\":";

int64_t write_rows(Database& database, const std::string& sql, const std::string& sweep,
                   std::ostream& out) {
  Statement rows(database, sql);
  rows.bind(1, sweep);
  int64_t count = 0;
  for (; rows.step(); ++count) out << rows.text(0) << '\n';
  return count;
}

// ?1 = name of the sweep, '' = all.
const std::string kChosen =
    "r.status IN ('finished', 'diverged', 'failed') AND (?1 = '' OR r.id IN (SELECT x.run FROM "
    "sweep_runs x JOIN sweeps s ON s.id = x.sweep WHERE s.name = ?1))";

// A real as JSON with the 17 digits that give the same double again; SQLite's own JSON has 15.
std::string exact(const std::string& column) {
  return "iif(" + column + " IS NULL, NULL, json(printf('%!.17g', " + column + ")))";
}

const std::string kSweeps =
    "SELECT json_object('sweep', json_object('sweep_id', sweep_id, 'name', name, 'config', config,"
    " 'overrides', json(overrides), 'created_at', " +
    exact("created_at") +
    ")) FROM sweeps s"
    " WHERE (?1 = '' OR name = ?1) AND id IN (SELECT x.sweep FROM sweep_runs x JOIN runs r ON r.id "
    "="
    " x.run WHERE " +
    kChosen + ") ORDER BY id";

const std::string kExecutions =
    "SELECT json_object('execution', json_object('execution_id', execution_id, 'backend', backend,"
    " 'device', device, 'build', build, 'code_commit', code_commit, 'dirty', dirty,"
    " 'libraries', json(libraries), 'precision', precision, 'threads', threads,"
    " 'started_at', " +
    exact("started_at") + ", 'ended_at', " + exact("ended_at") +
    ", 'exit_reason', exit_reason,"
    " 'peak_memory_bytes', peak_memory_bytes)) FROM executions e"
    " WHERE id IN (SELECT x.execution FROM run_executions x JOIN runs r ON r.id = x.run WHERE " +
    kChosen + ") ORDER BY id";

// The inner selects are ordered, so that equal results give equal text.
const std::string kRuns =
    "SELECT json_object('run', json_object('run_id', run_id, 'group_id', group_id, 'shape_key',"
    " shape_key, 'name', name, 'config', json(config), 'status', status, 'total_steps', "
    "total_steps,"
    " 'steps_done', steps_done, 'parameters', parameters, 'selected_step', selected_step,"
    " 'stopped_early', stopped_early, 'diverged_at', diverged_at, 'error', error, 'created_at',"
    " " +
    exact("created_at") + ", 'updated_at', " + exact("updated_at") + ", 'finished_at', " +
    exact("finished_at") +
    ","
    " 'sweeps', (SELECT json_group_array(json_array(sweep_id, position)) FROM (SELECT s.sweep_id,"
    "   x.position FROM sweep_runs x JOIN sweeps s ON s.id = x.sweep WHERE x.run = r.id AND"
    "   (?1 = '' OR s.name = ?1) ORDER BY s.id)),"
    " 'executions', (SELECT json_group_array(json_array(execution_id, from_step, to_step, " +
    exact("wall_seconds") +
    ", members)) FROM (SELECT e.execution_id, x.from_step, x.to_step, "
    "x.wall_seconds,"
    "   x.members FROM run_executions x JOIN executions e ON e.id = x.execution WHERE x.run = r.id"
    "   ORDER BY e.id, x.from_step)),"
    " 'evaluations', (SELECT json_group_array(json_object('split', split, 'step', step,"
    "   'length_min', length_min, 'length_max', length_max, 'data_seed', data_seed, 'samples',"
    "   samples, 'configured', configured, 'sequences', sequences, 'sequences_correct',"
    "   sequences_correct, 'tokens', tokens, 'tokens_correct', tokens_correct, 'loss', " +
    exact("loss") +
    ","
    "   'chance', " +
    exact("chance") + ", 'constant_answer', " + exact("constant_answer") + ", 'standard_error', " +
    exact("standard_error") +
    "))"
    "   FROM (SELECT * FROM evaluations v WHERE v.run = r.id ORDER BY v.split, v.step, "
    "v.length_min, v.length_max, v.data_seed, v.samples))))"
    " FROM runs r WHERE " +
    kChosen + " ORDER BY r.id";

// ?1 = a line's JSON.
constexpr const char* kAddSweep =
    "INSERT INTO sweeps (sweep_id, name, config, overrides, created_at) SELECT"
    " value ->> 'sweep_id', value ->> 'name', value ->> 'config', value -> 'overrides',"
    " value ->> 'created_at' FROM (SELECT ?1 -> 'sweep' AS value) WHERE true ON CONFLICT DO "
    "NOTHING";

constexpr const char* kAddExecution =
    "INSERT INTO executions (execution_id, backend, device, build, code_commit, dirty,"
    " libraries, host, pid, precision, threads, started_at, ended_at, exit_reason,"
    " peak_memory_bytes) SELECT value ->> 'execution_id', value ->> 'backend', value ->> 'device',"
    " value ->> 'build', value ->> 'code_commit', value ->> 'dirty', value -> 'libraries', '', 0,"
    " value ->> 'precision', value ->> 'threads', value ->> 'started_at', value ->> 'ended_at',"
    " value ->> 'exit_reason', value ->> 'peak_memory_bytes'"
    " FROM (SELECT ?1 -> 'execution' AS value) WHERE true ON CONFLICT DO NOTHING";

constexpr const char* kAddRun =
    "INSERT INTO runs (run_id, group_id, shape_key, name, config, status, total_steps,"
    " steps_done, parameters, selected_step, stopped_early, diverged_at, error, created_at,"
    " updated_at, finished_at) SELECT value ->> 'run_id', value ->> 'group_id', value ->>"
    " 'shape_key', value ->> 'name', value -> 'config', value ->> 'status', value ->> "
    "'total_steps',"
    " value ->> 'steps_done', value ->> 'parameters', value ->> 'selected_step', value ->>"
    " 'stopped_early', value ->> 'diverged_at', value ->> 'error', value ->> 'created_at',"
    " value ->> 'updated_at', value ->> 'finished_at' FROM (SELECT ?1 -> 'run' AS value) WHERE "
    "true ON CONFLICT DO NOTHING";

constexpr const char* kRunChildren[] = {
    "INSERT INTO sweep_runs (sweep, run, position) SELECT"
    " (SELECT id FROM sweeps WHERE sweep_id = x.value ->> 0), ?2, x.value ->> 1"
    " FROM json_each(?1, '$.run.sweeps') x WHERE true ON CONFLICT DO NOTHING",
    "INSERT INTO run_executions (run, execution, from_step, to_step, wall_seconds,"
    " members) SELECT ?2, (SELECT id FROM executions WHERE execution_id = x.value ->> 0),"
    " x.value ->> 1, x.value ->> 2, x.value ->> 3, x.value ->> 4"
    " FROM json_each(?1, '$.run.executions') x WHERE true ON CONFLICT DO NOTHING"};

constexpr const char* kAddEvaluations =
    "INSERT INTO evaluations (run, split, step, length_min, length_max, data_seed,"
    " samples, configured, sequences, sequences_correct, tokens, tokens_correct, loss, chance,"
    " constant_answer, standard_error) SELECT ?2, x.value ->> 'split', x.value ->> 'step',"
    " x.value ->> 'length_min', x.value ->> 'length_max', x.value ->> 'data_seed', x.value ->>"
    " 'samples', x.value ->> 'configured', x.value ->> 'sequences', x.value ->>"
    " 'sequences_correct', x.value ->> 'tokens', x.value ->> 'tokens_correct', x.value ->> 'loss',"
    " x.value ->> 'chance', x.value ->> 'constant_answer', x.value ->> 'standard_error'"
    " FROM json_each(?1, '$.run.evaluations') x";

class Reader {
 public:
  explicit Reader(Database& database)
      : kind_(database, "SELECT key FROM json_each(?1) LIMIT 1"),
        add_sweep_(database, kAddSweep),
        add_execution_(database, kAddExecution),
        add_run_(database, kAddRun),
        find_run_(database, "SELECT id FROM runs WHERE run_id = ?1 ->> '$.run.run_id'"),
        add_evaluations_(database, kAddEvaluations) {
    for (const char* sql : kRunChildren) children_.emplace_back(database, sql);
  }

  void line(const std::string& text, ResultCounts& counts) {
    kind_.bind(1, text);
    const std::string kind = kind_.step() ? kind_.text(0) : "";
    kind_.reset();
    if (kind == "sweep") {
      counts.sweeps += insert(add_sweep_, text);
    } else if (kind == "execution") {
      counts.executions += insert(add_execution_, text);
    } else if (kind == "run") {
      const int64_t added = insert(add_run_, text);
      counts.runs += added;
      counts.kept += added == 0;
      find_run_.bind(1, text);
      const int64_t run = find_run_.step() ? find_run_.integer(0) : 0;
      find_run_.reset();
      for (Statement& child : children_) child.bind(1, text).bind(2, run).run();
      if (added > 0) counts.evaluations += add_evaluations_.bind(1, text).bind(2, run).run();
    } else {
      throw StoreError("begins with the key \"" + kind + "\", not sweep, execution or run",
                       StoreError::kMismatch, StoreError::kMismatch, "");
    }
  }

 private:
  static int64_t insert(Statement& statement, const std::string& text) {
    return statement.bind(1, text).run();
  }

  Statement kind_, add_sweep_, add_execution_, add_run_, find_run_, add_evaluations_;
  std::vector<Statement> children_;
};

}  // namespace

ResultCounts write_results(Database& database, const std::string& sweep, std::ostream& out) {
  ResultCounts counts;
  out << kHead << kResultsFormat << "}\n";
  counts.sweeps = write_rows(database, kSweeps, sweep, out);
  counts.executions = write_rows(database, kExecutions, sweep, out);
  counts.runs = write_rows(database, kRuns, sweep, out);
  Statement evaluations(
      database, "SELECT count(*) FROM evaluations v JOIN runs r ON r.id = v.run WHERE " + kChosen);
  evaluations.bind(1, sweep);
  if (evaluations.step()) counts.evaluations = evaluations.integer(0);
  if (counts.runs == 0) {
    throw StoreError("[" + database.path().string() + "] holds no finished run" +
                         (sweep.empty() ? "" : " of sweep " + sweep),
                     StoreError::kMismatch, StoreError::kMismatch, "");
  }
  return counts;
}

ResultCounts read_results(Database& database, const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text;
  int64_t number = 1;
  const auto fail = [&](const std::string& reason) {
    throw StoreError(file.string() + ":" + std::to_string(number) + ": " + reason,
                     StoreError::kMismatch, StoreError::kMismatch, "");
  };
  if (!in) fail("cannot be read");
  std::getline(in, text);
  if (text != std::string(kHead) + std::to_string(kResultsFormat) + "}") {
    fail("must begin with " + std::string(kHead) + std::to_string(kResultsFormat) +
         "}; a newer program writes another format");
  }
  ResultCounts counts;
  Transaction transaction(database);
  Reader reader(database);
  while (std::getline(in, text)) {
    ++number;
    if (text.empty()) continue;
    try {
      reader.line(text, counts);
    } catch (const StoreError& e) {
      fail(e.what());
    }
  }
  transaction.commit();
  return counts;
}

bool is_results_file(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) return false;
  std::ifstream in(file, std::ios::binary);
  std::string head(kHead.size(), '\0');
  in.read(head.data(), static_cast<std::streamsize>(head.size()));
  return in && head == kHead;
}

}  // namespace statelab

#include "tests/experiments/runner/lab_sweep.h"

#include <stdexcept>

#include "experiments/run_check.h"
#include "store/checkpoint_files.h"
#include "store/database.h"

namespace statelab {

RunConfig tiny_run(uint32_t seed, double lr) {
  RunConfig run;
  run.task.name = "parity";
  run.task.supervision = "all";
  run.model.mixer = "mamba3";
  run.model.d_model = 8;
  run.model.expand = 1;
  run.model.headdim = 8;
  run.model.d_state = 8;
  run.train.batch = 8;
  run.train.optimizer.lr = lr;
  run.train.curriculum = {{30, {3, 6}}, {25, {3, 8}}};
  run.eval.lengths = {6, 12};
  run.eval.ranges = {{3, 8}};
  run.eval.samples = 32;
  run.eval.every = 15;  // not a multiple of the read interval: rows are then made of uneven parts
  run.eval.select = "best";
  run.seed = seed;
  if (const auto problems = complete_and_check(run); !problems.empty()) {
    throw std::runtime_error(problems[0].key + ": " + problems[0].message);
  }
  return run;
}

std::vector<NamedRun> lab_sweep() {
  std::vector<NamedRun> runs;
  for (const double lr : {0.003, 100.0, 0.03}) {
    RunConfig run = tiny_run(1, lr);
    if (lr > 1)
      run.train.optimizer.weight_decay =
          10;  // weights grow 999-fold a step: not finite after some fifteen
    runs.push_back({run, "best-" + std::to_string(runs.size())});
  }
  for (const uint32_t seed : {1, 2, 3, 4}) {
    RunConfig run = tiny_run(seed, 0.01);
    run.eval.select = "last";
    run.eval.stop_at = 0.6;
    runs.push_back({run, "stop-" + std::to_string(seed)});
  }
  return runs;
}

RunnerOptions lab_options(const std::filesystem::path& database) {
  RunnerOptions options;
  options.database = database;
  options.max_members = 4;
  options.checkpoint_seconds = 0;  // at every read point: as many places to be killed as there are
  return options;
}

std::string fingerprint(const std::filesystem::path& database) {
  Database db(database, Database::Access::kReadOnly);
  std::string text;
  const auto add = [&](const std::string& sql) {
    Statement query(db, sql);
    while (query.step()) {
      for (int i = 0; i < query.columns(); ++i)
        text += query.text(i) + (i + 1 < query.columns() ? " " : "\n");
    }
  };
  add("PRAGMA integrity_check");
  add("PRAGMA foreign_key_check");
  if (text != "ok\n") throw std::runtime_error("the database is damaged: " + text);
  add("SELECT name, status, steps_done, selected_step, stopped_early, diverged_at, parameters, "
      "error, lease_owner "
      "FROM runs ORDER BY name");
  add("SELECT r.name, m.step, m.loss, m.accuracy, m.grad_norm, m.lr FROM metrics m JOIN runs r ON "
      "r.id = m.run "
      "ORDER BY 1, 2");
  add("SELECT name, split, step, length_min, length_max, sequences_correct, tokens, "
      "tokens_correct, loss, "
      "standard_error FROM v_evaluations ORDER BY 1, 2, 3, 4, 5");
  add("SELECT name, length_min, length_max, position, total, correct, prefix_correct FROM v_curves "
      "ORDER BY 1, 2, 3, 4");
  add("SELECT r.name, c.kind, c.step, c.bytes, c.sha256 FROM checkpoints c JOIN runs r ON r.id = "
      "c.run ORDER BY 1, 2");

  std::vector<std::string> named;
  Statement rows(db, "SELECT DISTINCT path FROM checkpoints ORDER BY path");
  while (rows.step()) named.push_back(rows.text(0));
  if (named != list_checkpoint_files(db.files_folder())) {
    throw std::runtime_error("files and rows differ below " + db.files_folder().string());
  }
  Statement files(db, "SELECT path, sha256, bytes FROM checkpoints");
  while (files.step())
    read_checkpoint_file(db.files_folder(), {files.text(0), files.text(1), files.integer(2)});
  return text;
}

}  // namespace statelab

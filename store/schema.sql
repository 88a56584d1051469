-- The database of one lab: version 1. A run is a row; everything else says how it came about or what it scored.
--
-- Grammar:   run 1-n metrics, evaluations, checkpoints, run_executions; evaluation 0-1 curve; sweep n-m run; execution n-m run.
-- Keys:      inside one file rows refer to each other by small integers (`id`). What is stable across files, and what readers
--            should keep, are runs.run_id, sweeps.sweep_id and executions.execution_id.
-- Times:     REAL, seconds since 1970-01-01 UTC. Durations: REAL seconds. NULL = not known (yet); a NaN is stored as NULL.
-- Identity:  application_id is kApplicationId, user_version the number of migrations applied (database.h).
-- Readers:   use the views of views.sql; tables may change with the version, the views' columns only grow.

-- One file of a sweep as it was resolved, so that no range lives in a shell history only.
CREATE TABLE sweeps (
  id           INTEGER PRIMARY KEY,
  sweep_id     TEXT NOT NULL UNIQUE,          -- SHA-256 of name and config: the same sweep again is the same row
  name         TEXT NOT NULL,
  config       TEXT NOT NULL,                 -- resolved sweep, overrides applied
  overrides    TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(overrides)),  -- JSON array of key=value
  command_line TEXT NOT NULL DEFAULT '',
  created_at   REAL NOT NULL
) STRICT;

CREATE TABLE runs (
  id           INTEGER PRIMARY KEY,           -- in order of insertion
  run_id       TEXT NOT NULL UNIQUE,          -- SHA-256 of config, 64 hex digits
  group_id     TEXT NOT NULL,                 -- the same without the seed
  shape_key    TEXT NOT NULL,                 -- runs with equal keys can train in one cohort
  name         TEXT NOT NULL,
  config       TEXT NOT NULL CHECK (json_valid(config)),   -- canonical JSON
  -- pending:  to be computed, perhaps from a checkpoint   running: held by lease_owner until lease_until
  -- finished, diverged, failed: final
  status       TEXT NOT NULL DEFAULT 'pending'
               CHECK (status IN ('pending', 'running', 'finished', 'diverged', 'failed')),
  lease_owner  TEXT,                          -- grammar in lease.h
  lease_until  REAL,
  total_steps  INTEGER NOT NULL,
  steps_done   INTEGER NOT NULL DEFAULT 0,    -- at the last checkpoint
  parameters   INTEGER,                       -- trained numbers of the model
  selected_step INTEGER,                      -- whose weights the test scores belong to; set when finished
  stopped_early INTEGER NOT NULL DEFAULT 0 CHECK (stopped_early IN (0, 1)),
  diverged_at  INTEGER,                       -- step whose loss or gradient was not finite
  error        TEXT,                          -- why the run failed
  created_at   REAL NOT NULL,
  updated_at   REAL NOT NULL,
  finished_at  REAL,                          -- when the status became final
  -- Read from config, so that grouping needs no JSON.
  seed           INTEGER GENERATED ALWAYS AS (config ->> '$.seed') STORED,
  task           TEXT    GENERATED ALWAYS AS (config ->> '$.task.name') STORED,
  profile        TEXT    GENERATED ALWAYS AS (config ->> '$.task.profile') STORED,
  supervision    TEXT    GENERATED ALWAYS AS (config ->> '$.task.supervision') STORED,
  mixer          TEXT    GENERATED ALWAYS AS (config ->> '$.model.mixer') STORED,
  rotation       TEXT    GENERATED ALWAYS AS (config ->> '$.model.rotation') STORED,
  n_layers       INTEGER GENERATED ALWAYS AS (config ->> '$.model.n_layers') STORED,
  d_model        INTEGER GENERATED ALWAYS AS (config ->> '$.model.d_model') STORED,
  d_state        INTEGER GENERATED ALWAYS AS (config ->> '$.model.d_state') STORED,
  headdim        INTEGER GENERATED ALWAYS AS (config ->> '$.model.headdim') STORED,
  batch          INTEGER GENERATED ALWAYS AS (config ->> '$.train.batch') STORED,
  lr             REAL    GENERATED ALWAYS AS (config ->> '$.train.optimizer.lr') STORED,
  weight_decay   REAL    GENERATED ALWAYS AS (config ->> '$.train.optimizer.weight_decay') STORED,
  precision_asked TEXT   GENERATED ALWAYS AS (config ->> '$.train.precision') STORED,
  selection      TEXT    GENERATED ALWAYS AS (config ->> '$.eval.select') STORED,
  init_from      TEXT    GENERATED ALWAYS AS (config ->> '$.train.init_from') STORED   -- 'none' or the run_id to wait for
) STRICT;
CREATE INDEX runs_by_work ON runs (status, shape_key, steps_done);
CREATE INDEX runs_by_group ON runs (group_id, seed);
CREATE INDEX runs_by_name ON runs (name);

CREATE TABLE sweep_runs (
  sweep    INTEGER NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
  run      INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,                  -- in the sweep's order of expansion
  PRIMARY KEY (sweep, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX sweep_runs_by_run ON sweep_runs (run);

-- One process that computed something.
CREATE TABLE executions (
  id           INTEGER PRIMARY KEY,
  execution_id TEXT NOT NULL UNIQUE,          -- random, 32 hex digits
  backend      TEXT NOT NULL,                 -- cpu | cuda
  device       TEXT NOT NULL,                 -- model name of the processor or GPU
  build        TEXT NOT NULL,                 -- identifies the compiled program: same build, same bits
  code_commit  TEXT NOT NULL DEFAULT '',
  dirty        INTEGER NOT NULL DEFAULT 0 CHECK (dirty IN (0, 1)),
  libraries    TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(libraries)),  -- JSON object name -> version
  command_line TEXT NOT NULL DEFAULT '',
  host         TEXT NOT NULL,
  pid          INTEGER NOT NULL,
  precision    TEXT NOT NULL,                 -- computed with, whatever the runs ask for
  threads      INTEGER NOT NULL,
  started_at   REAL NOT NULL,
  ended_at     REAL,
  exit_reason  TEXT,                          -- finished | time limit | SIGINT | ...; NULL = still running or killed
  peak_memory_bytes INTEGER
) STRICT;

-- Which steps of which run an execution computed. Steps that a kill undid are not counted: to_step is the last checkpoint.
CREATE TABLE run_executions (
  run          INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  execution    INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
  from_step    INTEGER NOT NULL,
  to_step      INTEGER NOT NULL,
  wall_seconds REAL NOT NULL,                 -- of the whole cohort, training and evaluation
  members      INTEGER NOT NULL,              -- runs that shared the cohort at its start
  PRIMARY KEY (run, execution, from_step)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_executions_by_execution ON run_executions (execution);

-- Means over the steps since the row before. Which steps have a row depends on the configuration only.
CREATE TABLE metrics (
  run       INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  step      INTEGER NOT NULL,
  loss      REAL,                             -- nats per supervised position
  accuracy  REAL,
  grad_norm REAL,                             -- before clipping
  lr        REAL,                             -- of the last step
  PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE evaluations (
  id           INTEGER PRIMARY KEY,
  run          INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  split        TEXT NOT NULL CHECK (split IN ('validation', 'test')),
  step         INTEGER NOT NULL,              -- training steps behind the weights
  length_min   INTEGER NOT NULL,              -- reported lengths; equal = one exact length
  length_max   INTEGER NOT NULL,
  data_seed    INTEGER NOT NULL,
  samples      INTEGER NOT NULL,              -- sequences asked for
  configured   INTEGER NOT NULL CHECK (configured IN (0, 1)),  -- 1: by the run's configuration, 0: asked for later
  sequences    INTEGER NOT NULL, sequences_correct INTEGER NOT NULL,
  tokens       INTEGER NOT NULL, tokens_correct    INTEGER NOT NULL,   -- supervised positions
  loss         REAL,                          -- mean over supervised positions
  chance       REAL NOT NULL,                 -- r: 1 / number of legal answers
  constant_answer REAL NOT NULL,              -- exact accuracy of the best constant answer on these lengths
  standard_error  REAL,                       -- of accuracy: sqrt(p (1 - p) / sequences)
  accuracy          REAL GENERATED ALWAYS AS (tokens_correct * 1.0 / tokens) STORED,
  sequence_accuracy REAL GENERATED ALWAYS AS (sequences_correct * 1.0 / sequences) STORED,
  scaled_accuracy   REAL GENERATED ALWAYS AS ((tokens_correct * 1.0 / tokens - chance) / (1 - chance)) STORED,
  UNIQUE (run, split, step, length_min, length_max, data_seed, samples)
) STRICT;
CREATE INDEX evaluations_of_test ON evaluations (length_max, length_min, run, step, accuracy) WHERE split = 'test';

-- Per-position counts of an evaluation, compact: a JSON array of [position, total, correct, prefix_correct] for the
-- supervised positions only. prefix_correct: sequences right at every supervised position up to this one.
CREATE TABLE curves (
  evaluation INTEGER PRIMARY KEY REFERENCES evaluations (id) ON DELETE CASCADE,
  points     TEXT NOT NULL CHECK (json_valid(points))
) STRICT;

-- Files below <database>.d/; a file without a row here is an orphan.
CREATE TABLE checkpoints (
  run        INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  kind       TEXT NOT NULL CHECK (kind IN ('last', 'best')),
  step       INTEGER NOT NULL,
  path       TEXT NOT NULL,                   -- relative to <database>.d/
  sha256     TEXT NOT NULL,
  bytes      INTEGER NOT NULL,
  created_at REAL NOT NULL,
  PRIMARY KEY (run, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX checkpoints_by_path ON checkpoints (path);

-- What others report. Columns as in reports/published/*.csv.
CREATE TABLE published (
  id          INTEGER PRIMARY KEY,
  source      TEXT NOT NULL CHECK (source <> ''),
  paper_table TEXT NOT NULL,                  -- column "table" of the files
  task        TEXT NOT NULL,
  profile     TEXT NOT NULL,
  lengths     TEXT NOT NULL,
  model       TEXT NOT NULL,
  metric      TEXT NOT NULL,
  value       REAL,
  selection   TEXT NOT NULL,
  note        TEXT NOT NULL DEFAULT '',
  UNIQUE (source, paper_table, task, profile, lengths, model, metric, selection, note)
) STRICT;
CREATE INDEX published_by_task ON published (task, metric);

-- Results of `statelab verify`: one row per claim that was checked.
CREATE TABLE verifications (
  id         INTEGER PRIMARY KEY,
  execution  INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
  suite      TEXT NOT NULL,                   -- rope | discretization | gradients | backends
  claim      TEXT NOT NULL,                   -- what was compared
  parameters TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(parameters)),  -- sizes, seeds
  value      REAL,                            -- measured error or slope
  bound      REAL,                            -- what it was held against
  passed     INTEGER NOT NULL CHECK (passed IN (0, 1)),
  note       TEXT NOT NULL DEFAULT '',
  created_at REAL NOT NULL,
  UNIQUE (execution, suite, claim, parameters)
) STRICT;

-- Stable views for readers, described column by column in README.md. Recreated whenever a newer program opens the database.

DROP VIEW IF EXISTS v_runs;
CREATE VIEW v_runs AS
SELECT r.run_id, r.group_id, r.name,
       CASE WHEN r.status = 'running' AND r.lease_until < (julianday('now') - 2440587.5) * 86400.0 THEN 'abandoned'
            ELSE r.status END AS status,
       r.seed, r.task, r.profile, r.supervision, r.mixer, r.rotation, r.n_layers, r.d_model, r.d_state, r.headdim,
       r.batch, r.lr, r.weight_decay, r.selection, r.parameters,
       r.total_steps, r.steps_done, r.selected_step, r.stopped_early, r.diverged_at, r.error,
       (SELECT m.loss FROM metrics m WHERE m.run = r.id ORDER BY m.step DESC LIMIT 1) AS train_loss,
       (SELECT m.accuracy FROM metrics m WHERE m.run = r.id ORDER BY m.step DESC LIMIT 1) AS train_accuracy,
       (SELECT sum(x.wall_seconds) FROM run_executions x WHERE x.run = r.id) AS wall_seconds,
       (SELECT sum(x.wall_seconds / x.members) FROM run_executions x WHERE x.run = r.id) AS wall_seconds_share,
       e.backend, e.device, e.precision, e.build, e.code_commit, e.dirty,
       datetime(r.created_at, 'unixepoch') AS created_at,
       datetime(r.updated_at, 'unixepoch') AS updated_at,
       datetime(r.finished_at, 'unixepoch') AS finished_at,
       r.shape_key, r.config
FROM runs r
LEFT JOIN executions e ON e.id = (SELECT max(x.execution) FROM run_executions x WHERE x.run = r.id);

DROP VIEW IF EXISTS v_evaluations;
CREATE VIEW v_evaluations AS
SELECT r.run_id, r.group_id, r.name, r.seed, r.status, v.split, v.step,
       v.step IS r.selected_step AS selected,
       v.length_min, v.length_max, v.configured, v.data_seed, v.samples,
       v.sequences, v.sequences_correct, v.tokens, v.tokens_correct,
       v.accuracy, v.sequence_accuracy, v.scaled_accuracy, v.standard_error,
       v.standard_error / (1 - v.chance) AS scaled_standard_error,
       v.loss, v.chance, v.constant_answer, v.id AS evaluation
FROM evaluations v JOIN runs r ON r.id = v.run;

DROP VIEW IF EXISTS v_curves;
CREATE VIEW v_curves AS
SELECT r.run_id, r.group_id, r.name, r.seed, v.split, v.step, v.length_min, v.length_max, v.sequences,
       p.value ->> 0 AS position, p.value ->> 1 AS total, p.value ->> 2 AS correct, p.value ->> 3 AS prefix_correct,
       (p.value ->> 2) * 1.0 / (p.value ->> 1) AS accuracy,
       (p.value ->> 3) * 1.0 / (p.value ->> 1) AS prefix_accuracy
FROM curves c
JOIN evaluations v ON v.id = c.evaluation
JOIN runs r ON r.id = v.run,
     json_each(c.points) AS p;

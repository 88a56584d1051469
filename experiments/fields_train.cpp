// The `train:` and `eval:` parts of the field table, and the seed.
#include "experiments/field_build.h"

namespace statelab {
namespace {

Value range_value(const LengthRange& r) {
  return Value::list(
      {Value::of(static_cast<int64_t>(r.min)), Value::of(static_cast<int64_t>(r.max))});
}

LengthRange range_of(const Value& v) {
  return {static_cast<int>(v.items[0].integer), static_cast<int>(v.items[1].integer)};
}

Field curriculum_field() {
  Field f;
  f.key = "train.curriculum";
  f.type = FieldType::kStages;
  f.doc =
      "Stages in order: optimiser steps and the range of reported lengths, both ends included. "
      "Lengths are drawn anew per "
      "sample or per step, as the profile says.";
  f.get = [](const RunConfig& run) {
    Value list = Value::list();
    for (const StageConfig& stage : run.train.curriculum) {
      Value item = Value::map();
      item.put("steps", Value::of(stage.steps));
      item.put("length", range_value(stage.length));
      list.items.push_back(std::move(item));
    }
    return list;
  };
  f.set = [](RunConfig& run, const Value& v) {
    run.train.curriculum.clear();
    for (const Value& stage : v.items) {
      run.train.curriculum.push_back(
          {stage.find("steps")->integer, range_of(*stage.find("length"))});
    }
  };
  return f;
}

Field lengths_field() {
  Field f;
  f.key = "eval.lengths";
  f.type = FieldType::kIntegerList;
  f.doc = "Reported lengths, each scored by itself.";
  f.min = 1;
  f.max = 1 << 24;
  f.get = [](const RunConfig& run) {
    Value list = Value::list();
    for (const int length : run.eval.lengths)
      list.items.push_back(Value::of(static_cast<int64_t>(length)));
    return list;
  };
  f.set = [](RunConfig& run, const Value& v) {
    run.eval.lengths.clear();
    for (const Value& item : v.items) run.eval.lengths.push_back(static_cast<int>(item.integer));
  };
  return f;
}

Field ranges_field() {
  Field f;
  f.key = "eval.ranges";
  f.type = FieldType::kRangeList;
  f.doc =
      "Ranges of reported lengths whose samples are pooled into one score, such as [[40, 256]].";
  f.get = [](const RunConfig& run) {
    Value list = Value::list();
    for (const LengthRange& range : run.eval.ranges) list.items.push_back(range_value(range));
    return list;
  };
  f.set = [](RunConfig& run, const Value& v) {
    run.eval.ranges.clear();
    for (const Value& item : v.items) run.eval.ranges.push_back(range_of(item));
  };
  return f;
}

Field stop_field() {
  Field f;
  f.key = "eval.stop_at";
  f.type = FieldType::kNumberOrNone;
  f.doc =
      "Stops a run once its validation accuracy reaches this at every length up to the longest "
      "trained one.";
  f.min = 0;
  f.min_open = true;
  f.max = 1;
  f.get = [](const RunConfig& run) {
    return run.eval.stop_at ? Value::of(*run.eval.stop_at) : Value::null();
  };
  f.set = [](RunConfig& run, const Value& v) {
    run.eval.stop_at = v.is_number() ? std::optional<double>(v.number) : std::nullopt;
  };
  return f;
}

}  // namespace

std::vector<Field> train_fields() {
  std::vector<Field> t;
  t.push_back(
      ranged_field("train.batch", STATELAB_MEMBER(train.batch), 1, 1048576, "Sequences per step."));
  t.push_back(choice_field(
      "train.precision", STATELAB_MEMBER(train.precision), {"fp32", "tf32", "bf16"},
      "Arithmetic of the matrix products. The CPU always computes, and records, fp32."));
  t.push_back(curriculum_field());
  t.push_back(choice_field("train.optimizer.name", STATELAB_MEMBER(train.optimizer.name), {"adamw"},
                           "The optimiser."));
  Field lr = ranged_field("train.optimizer.lr", STATELAB_MEMBER(train.optimizer.lr), 0, 100,
                          "Peak learning rate. Low ones are the safe ones on these tasks.");
  lr.min_open = true;
  t.push_back(std::move(lr));
  Field betas = pair_field("train.optimizer.betas", STATELAB_MEMBER(train.optimizer.beta1),
                           STATELAB_MEMBER(train.optimizer.beta2), 0, 1,
                           "AdamW's decay rates of the two moments.");
  betas.max_open = true;
  t.push_back(std::move(betas));
  Field eps = ranged_field("train.optimizer.eps", STATELAB_MEMBER(train.optimizer.eps), 0, 1,
                           "AdamW's epsilon.");
  eps.min_open = true;
  t.push_back(std::move(eps));
  t.push_back(ranged_field(
      "train.optimizer.weight_decay", STATELAB_MEMBER(train.optimizer.weight_decay), 0, 100,
      "Decoupled weight decay; biases, norms and the recurrence's own parameters are exempt."));
  t.push_back(ranged_field("train.optimizer.clip_norm", STATELAB_MEMBER(train.optimizer.clip_norm),
                           0, 1e30, "Largest global gradient norm; 0 = no clipping."));
  t.push_back(choice_field("train.schedule.name", STATELAB_MEMBER(train.schedule.name),
                           {"cosine", "linear", "constant"},
                           "Learning rate after the warm-up; cosine and linear end at 0."));
  Field warmup =
      ranged_field("train.schedule.warmup", STATELAB_MEMBER(train.schedule.warmup), 0, 1,
                   "Share of the steps during which the learning rate rises linearly from 0.");
  t.push_back(std::move(warmup));
  t.push_back(scalar_field(
      "train.schedule.per_stage", STATELAB_MEMBER(train.schedule.per_stage),
      "Warm-up and decay start anew in every stage; otherwise one schedule spans all."));
  t.push_back(scalar_field("train.schedule.reset_optimizer",
                           STATELAB_MEMBER(train.schedule.reset_optimizer),
                           "Forgets AdamW's moments at every new stage."));
  t.push_back(ranged_field(
      "train.bucket_multiple", STATELAB_MEMBER(train.bucket_multiple), 1, 65536,
      "A stage's positions are rounded up to a multiple of this. Part of a run's identity."));
  t.push_back(
      scalar_field("train.init_from", STATELAB_MEMBER(train.init_from),
                   "`none`, or the id of a run whose selected weights are the initial ones."));
  t.push_back(lengths_field());
  t.push_back(ranges_field());
  t.push_back(ranged_field("eval.samples", STATELAB_MEMBER(eval.samples), 1, 1 << 26,
                           "Sequences per length or range, for validation and test each. 8,192 as "
                           "in the literature: one standard error is about half a point."));
  t.push_back(ranged_field("eval.every", STATELAB_MEMBER(eval.every), 0, 1e9,
                           "Steps between validations; 0 = only at the end."));
  t.push_back(choice_field("eval.select", STATELAB_MEMBER(eval.select), {"last", "best"},
                           "Which weights are tested: the last ones, or those of the best "
                           "validation at the longest length (the first such step)."));
  t.push_back(stop_field());
  t.push_back(
      scalar_field("eval.seed", STATELAB_MEMBER(eval.seed),
                   "Of validation and test data; the same for all runs, so that scores pair."));
  t.push_back(scalar_field("seed", STATELAB_MEMBER(seed),
                           "Of initial weights and training data, 32 bits. Runs that differ in "
                           "nothing else form a group."));
  return t;
}

}  // namespace statelab

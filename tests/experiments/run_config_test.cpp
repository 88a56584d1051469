#include "experiments/run_config.h"

#include <gtest/gtest.h>

#include "experiments/field.h"
#include "experiments/run_check.h"
#include "experiments/run_row.h"
#include "experiments/sweep.h"

namespace statelab {
namespace {

RunConfig checked_default() {
  RunConfig run = default_run();
  EXPECT_TRUE(complete_and_check(run).empty());
  return run;
}

/// Another value that the field accepts.
Value other_value(const Field& f, const RunConfig& run) {
  const Value now = f.get(run);
  switch (f.type) {
    case FieldType::kBoolean:
      return Value::of(!now.boolean);
    case FieldType::kInteger:
      return Value::of(now.integer < f.max ? now.integer + 1 : now.integer - 1);
    case FieldType::kNumber:
      return Value::of(now.number * 0.5 == now.number ? 0.25 : now.number * 0.5);
    case FieldType::kNumberOrNone:
      return Value::of(0.5);
    case FieldType::kChoice:
      return Value::of(f.choices.back() == now.text ? f.choices.front() : f.choices.back());
    case FieldType::kText:
      return Value::of(std::string(now.text + "x"));
    case FieldType::kNumberPair:
      return Value::list({Value::of(now.items[0].number), Value::of(now.items[1].number * 0.5)});
    case FieldType::kIntegerList:
      return Value::list({Value::of(int64_t{7})});
    case FieldType::kRangeList:
      return Value::list({Value::list({Value::of(int64_t{3}), Value::of(int64_t{9})})});
    case FieldType::kStages: {
      Value stage = Value::map();
      stage.put("steps", Value::of(int64_t{7}));
      stage.put("length", Value::list({Value::of(int64_t{3}), Value::of(int64_t{9})}));
      return Value::list({stage});
    }
    case FieldType::kAutomaton:
      return value_from_json(
          R"({"states":["a","b.c"],"symbols":["0"],"transitions":{"a":{"0":"b.c"},"b.c":{"0":"a"}},"start":"b.c","outputs":["x","y"]})");
    case FieldType::kGroup:
      return value_from_json(R"({"generators":[[2,1,3],[2,3,1]],"elements":["e"]})");
  }
  return {};
}

TEST(RunConfig, CanonicalJsonRoundTripsForEveryField) {
  const RunConfig start = checked_default();
  for (const Field& f : fields()) {
    RunConfig run = start;
    if (!f.mixers.empty()) run.model.mixer = f.mixers.front();
    const Value value = other_value(f, run);
    ASSERT_TRUE(check(f, value).empty()) << f.key << ' ' << to_canonical_json(value);
    f.set(run, value);
    EXPECT_TRUE(same_value(f.get(run), value)) << f.key;
    const std::string text = canonical_json(run);
    EXPECT_EQ(canonical_json(run_config_from_json(text)), text) << f.key;
  }
}

TEST(RunConfig, EveryFieldChangesTheRunId) {
  for (const Field& f : fields()) {
    if (f.choices.size() == 1) continue;
    RunConfig run = checked_default();
    if (!f.mixers.empty()) run.model.mixer = f.mixers.front();
    if (f.key.rfind("train.schedule.", 0) == 0) run.train.curriculum.push_back({10, {3, 80}});
    if (f.key == "model.d_intermediate") run.model.mlp = "swiglu";
    RunConfig other = run;
    f.set(other, other_value(f, run));
    EXPECT_NE(run_id(run), run_id(other)) << f.key;
  }
}

TEST(RunConfig, WhatSaysNothingDoesNotTellRunsApart) {
  const RunConfig run = checked_default();
  for (const char* key :
       {"train.schedule.per_stage", "train.schedule.reset_optimizer", "model.d_intermediate"}) {
    const Field& f = *find_field(key);
    RunConfig other = run;
    f.set(other, other_value(f, run));
    EXPECT_EQ(run_id(run), run_id(other)) << key << ": one stage and no MLP";
  }
}

TEST(RunConfig, CanonicalJsonIsPinned) {
  EXPECT_EQ(
      canonical_json(checked_default()),
      R"({"eval":{"every":1000,"lengths":[40,80,160,256],"ranges":[],"samples":8192,"seed":0,"select":"last","stop_at":null},)"
      R"("model":{"a_activation":"softplus","a_floor":1e-04,"bc_bias":true,"bc_norm":true,"chunk_size":64,"conv":false,"d_intermediate":0,)"
      R"("d_model":64,"d_state":64,"discretization":"trapezoidal","dt_range":[0.001,0.1],"expand":2,"headdim":64,"mimo_rank":1,)"
      R"("mixer":"mamba3","mlp":"none","n_layers":1,"ngroups":1,"out_norm":"none","pad_vocab_multiple":1,"rope_fraction":0.5,)"
      R"("rotation":"data_dependent","scan":"chunked","tie_embeddings":false,"vocab_size":3},"numerics_version":5,"seed":0,)"
      R"("task":{"bos":false,"name":"parity","profile":"xlstm","supervision":"last"},)"
      R"("train":{"batch":256,"bucket_multiple":8,"curriculum":[{"length":[3,40],"steps":2000}],"init_from":"none",)"
      R"("optimizer":{"betas":[0.9,0.999],"clip_norm":1,"eps":1e-08,"lr":0.001,"name":"adamw","weight_decay":0.1},)"
      R"("precision":"tf32","schedule":{"name":"cosine","per_stage":true,"reset_optimizer":false,"warmup":0.1}}})");
}

TEST(RunConfig, IdIsTheSha256OfTheCanonicalText) {
  // sha256sum of the text that CanonicalJsonIsPinned shows, without a line end.
  EXPECT_EQ(run_id(checked_default()),
            "43be668f55f27ef9c2e5c7b209e7ca8da074126184f01a1158efc206e38dc533");
}

TEST(RunConfig, WhatTheMixerNeverReadsDoesNotTellRunsApart) {
  RunConfig a = checked_default();
  a.model.mixer = "mamba2";
  RunConfig b = a;
  b.model.rotation = "none";
  EXPECT_EQ(run_id(a), run_id(b));
  a.model.mixer = b.model.mixer = "mamba3";
  EXPECT_NE(run_id(a), run_id(b));
  a.model.mixer = b.model.mixer = "gated_delta_net";
  EXPECT_EQ(run_id(a), run_id(b));
  for (const char* mixer : {"mamba2", "gated_delta_net", "delta_net"}) {  // several may read one
    a.model.mixer = b.model.mixer = mixer;
    b.model.eigenvalue_min = -1;
    EXPECT_NE(run_id(a), run_id(b)) << mixer;
  }
}

TEST(RunConfig, ItsRowHasTheIdsOfItsTextAndTheStepsOfAllStages) {
  RunConfig run = checked_default();
  run.train.curriculum = {{30, {3, 8}}, {12, {3, 16}}};
  const NewRun row = run_row(run, "two-stages");
  EXPECT_EQ(row.name, "two-stages");
  EXPECT_EQ(row.config, canonical_json(run));
  EXPECT_EQ(row.run_id, run_id(run));
  EXPECT_EQ(row.group_id, group_id(run));
  EXPECT_EQ(row.shape_key, shape_key(run));
  EXPECT_EQ(row.total_steps, 42);
}

TEST(RunConfig, GroupsDifferInTheSeedOnly) {
  RunConfig a = checked_default(), b = a;
  b.seed = 7;
  EXPECT_NE(run_id(a), run_id(b));
  EXPECT_EQ(group_id(a), group_id(b));
  b.train.optimizer.lr = 0.5;
  EXPECT_NE(group_id(a), group_id(b));
}

TEST(RunConfig, CohortsShareEverythingButSeedAndOptimizerScalars) {
  const RunConfig a = checked_default();
  RunConfig b = a;
  b.seed = 7;
  b.train.optimizer = {"adamw", 0.5, 0.8, 0.9, 1e-6, 0.2, 3.0};
  EXPECT_EQ(shape_key(a), shape_key(b));
  b.train.batch = 8;
  EXPECT_NE(shape_key(a), shape_key(b));
}

TEST(RunConfig, StoredTextOfAnotherNumericsVersionIsRefused) {
  std::string text = canonical_json(checked_default());
  const size_t at = text.find("\"numerics_version\":5");
  ASSERT_NE(at, std::string::npos);
  text.replace(at, 20, "\"numerics_version\":999");
  try {
    run_config_from_json(text);
    FAIL() << "accepted";
  } catch (const std::invalid_argument& e) {
    EXPECT_NE(std::string(e.what()).find("numerics_version: must be 5 for this build, is 999"),
              std::string::npos)
        << e.what();
  }
  EXPECT_THROW(run_config_from_json(R"({"model":{"d_stat":3}})"), std::invalid_argument);
  EXPECT_THROW(run_config_from_json(R"({"model":{"d_state":"x"}})"), std::invalid_argument);
}

TEST(RunConfig, IdDoesNotDependOnHowTheFileIsWritten) {
  const char* plain =
      "base:\n  train: { batch: 16, optimizer: { lr: 0.001 } }\n  model: { d_state: 32 }\n";
  const char* other =
      "# a comment\nbase:\n  model.d_state: 3.2e1   # dotted\n  train:\n    optimizer.lr: 1e-3\n   "
      " batch: 16.0\nname: x\n";
  EXPECT_EQ(run_id(parse_sweep(plain, "a.yaml", {}).runs.at(0)),
            run_id(parse_sweep(other, "b.yaml", {}).runs.at(0)));
}

}  // namespace
}  // namespace statelab

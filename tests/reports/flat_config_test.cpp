#include "reports/flat_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace statelab {
namespace {

using testing::ElementsAre;

TEST(FlatConfig, HasOneKeyPerLeafAndListsAreLeaves) {
  const FlatConfig c = flatten_config(
      R"({"model":{"d_model":64,"mixer":"mamba3"},"eval":{"lengths":[40,80],"stop_at":null},"train":{"optimizer":{"lr":0.001}}})");
  EXPECT_EQ(config_value(c, "model.d_model"), "64");
  EXPECT_EQ(config_value(c, "model.mixer"), "mamba3");
  EXPECT_EQ(config_value(c, "eval.lengths"), "[40,80]");
  EXPECT_EQ(config_value(c, "eval.stop_at"), "none");
  EXPECT_EQ(config_value(c, "train.optimizer.lr"), "0.001");
  EXPECT_EQ(config_value(c, "model.rotation"), "");
  EXPECT_THROW(flatten_config("[1]"), std::invalid_argument);
}

TEST(FlatConfig, DifferingKeysIncludeThoseThatOneSideLacksInReadingOrder) {
  const FlatConfig a{{"train.batch", "8"},
                     {"model.mixer", "mamba3"},
                     {"model.rotation", "none"},
                     {"task.name", "parity"}};
  const FlatConfig b{{"train.batch", "16"}, {"model.mixer", "mamba2"}, {"task.name", "parity"}};
  EXPECT_THAT(differing_keys({a, b}), ElementsAre("model.mixer", "model.rotation", "train.batch"));
  EXPECT_TRUE(differing_keys({a, a}).empty());
  EXPECT_TRUE(differing_keys({}).empty());
}

TEST(FlatConfig, SwitchesOfOneMixerAreSweptOnlyWhereTheyVary) {
  const FlatConfig a{{"model.mixer", "mamba3"}, {"model.rotation", "none"}},
      b{{"model.mixer", "mamba2"}};
  const FlatConfig c{{"model.mixer", "mamba3"}, {"model.rotation", "standard"}};
  EXPECT_THAT(swept_keys({a, b}), ElementsAre("model.mixer"));
  EXPECT_THAT(swept_keys({a, b, c}), ElementsAre("model.mixer", "model.rotation"));
}

TEST(FlatConfig, AVocabularyFollowsFromTheTaskAndWasNotSwept) {
  const FlatConfig a{{"task.bos", "false"}, {"model.vocab_size", "3"}},
      b{{"task.bos", "true"}, {"model.vocab_size", "4"}};
  EXPECT_THAT(swept_keys({a, b}), ElementsAre("task.bos"));
}

TEST(FlatConfig, ShortNamesKeepWhatTellsThemApart) {
  EXPECT_THAT(
      short_names({"train.optimizer.lr", "train.optimizer.name", "train.schedule.name", "seed"}),
      ElementsAre("lr", "optimizer.name", "schedule.name", "seed"));
}

TEST(FlatConfig, ModelLabelsAreThoseOfThePublishedTables) {
  EXPECT_EQ(model_label({{"model.mixer", "mamba3"}, {"model.rotation", "data_dependent"}}),
            "mamba3");
  EXPECT_EQ(model_label({{"model.mixer", "mamba3"}, {"model.rotation", "standard"}}),
            "mamba3_standard_rope");
  EXPECT_EQ(model_label({{"model.mixer", "mamba3"}, {"model.rotation", "none"}}), "mamba3_no_rope");
  EXPECT_EQ(model_label({{"model.mixer", "mamba2"}, {"model.eigenvalue_range", "[0,1]"}}),
            "mamba2");
  EXPECT_EQ(model_label({{"model.mixer", "mamba2"}, {"model.eigenvalue_range", "[-1,1]"}}),
            "mamba2[-1,1]");
  EXPECT_EQ(model_label({{"model.mixer", "gated_delta_net"}, {"model.eigenvalue_range", "[-1,1]"}}),
            "gated_delta_net[-1,1]");
  EXPECT_EQ(model_label({{"model.mixer", "delta_net"}, {"model.eigenvalue_range", "[0,1]"}}),
            "delta_net[0,1]");
}

}  // namespace
}  // namespace statelab

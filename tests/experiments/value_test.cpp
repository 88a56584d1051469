#include "experiments/value.h"

#include <gtest/gtest.h>

#include "experiments/suggestion.h"

namespace statelab {
namespace {

TEST(Value, NumbersAreWrittenInTheirShortestForm) {
  EXPECT_EQ(shortest(0.1), "0.1");
  EXPECT_EQ(shortest(1.0), "1");
  EXPECT_EQ(shortest(-0.0), "0");
  EXPECT_EQ(shortest(3e6), "3000000");
  EXPECT_EQ(shortest(1.0 / 3), "0.3333333333333333");
  EXPECT_EQ(std::stod(shortest(0.0001)), 0.0001);
}

TEST(Value, PlainWordsAreTypedWithoutTheTrapsOfYaml) {
  EXPECT_EQ(plain_scalar("1e-3").kind, Value::Kind::kNumber);
  EXPECT_EQ(plain_scalar("1e4").integer, 10000);
  EXPECT_EQ(plain_scalar("+5").integer, 5);
  EXPECT_EQ(plain_scalar("-.5").number, -0.5);
  EXPECT_TRUE(plain_scalar("true").boolean);
  for (const char* text :
       {"010", "1_000", "yes", "on", ".inf", ".nan", "nan", "inf", "1e999", "0x10", "1.2.3", "-"}) {
    EXPECT_EQ(plain_scalar(text).kind, Value::Kind::kText) << text;
  }
  EXPECT_EQ(plain_scalar("~").kind, Value::Kind::kNull);
}

TEST(Value, CanonicalJsonSortsKeysAtEveryLevel) {
  Value root = Value::map();
  root.put("b.z", Value::of(int64_t{1}));
  root.put("b.a", Value::of(true));
  root.put("a", Value::list({Value::of(0.5), Value::null(), Value::of(std::string("x\"y"))}));
  EXPECT_EQ(to_canonical_json(root), R"({"a":[0.5,null,"x\"y"],"b":{"a":true,"z":1}})");
}

TEST(Value, JsonRoundTripKeepsEverything) {
  const std::string text = R"({"a":[0.5,null,"x"],"b":{"c":true,"d":-7}})";
  EXPECT_EQ(to_canonical_json(value_from_json(text)), text);
  EXPECT_THROW(value_from_json("{"), std::invalid_argument);
}

TEST(Suggestion, DistanceCountsSwapsAsOne) {
  EXPECT_EQ(edit_distance("d_stat", "d_state"), 1);
  EXPECT_EQ(edit_distance("partiy", "parity"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

TEST(Suggestion, FarWordsAreNotOffered) {
  EXPECT_EQ(nearest("d_stat", {"d_model", "d_state"}), "d_state");
  EXPECT_EQ(nearest("zebra", {"d_model", "d_state"}), "");
  EXPECT_EQ(did_you_mean("rnu", {"run", "rm"}), ", did you mean run?");
}

}  // namespace
}  // namespace statelab

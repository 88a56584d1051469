#include "experiments/data_source.h"

#include <gtest/gtest.h>

#include "experiments/run_check.h"
#include "tests/experiments/runner/lab_sweep.h"

namespace statelab {
namespace {

struct Row {
  std::vector<int32_t> tokens, targets;
  bool operator==(const Row&) const = default;
};

Row draw(const DataSource& data, int member, uint32_t step, uint32_t sample) {
  Row row{std::vector<int32_t>(64, -7), std::vector<int32_t>(64, -7)};
  data.draw(member, step, sample, row.tokens, row.targets);
  return row;
}

class DataSourceTest : public testing::Test {
 protected:
  std::shared_ptr<const Task> task_ = task_of(tiny_run(1, 0.01));
  Row direct(RngKey key, uint32_t step, uint32_t sample, LengthRange lengths) {
    Row row{std::vector<int32_t>(64, -7), std::vector<int32_t>(64, -7)};
    task_->draw(key, step, sample, lengths, row.tokens, row.targets);
    return row;
  }
};

TEST_F(DataSourceTest, EachMemberSeesItsOwnSeed) {
  const TrainData data(task_, {{30, {3, 40}}}, {5, 9});
  EXPECT_EQ(draw(data, 0, 2, 3), direct({5, Stream::kTrain}, 2, 3, {3, 40}));
  EXPECT_EQ(draw(data, 1, 2, 3), direct({9, Stream::kTrain}, 2, 3, {3, 40}));
}

TEST_F(DataSourceTest, LengthsChangeExactlyAtTheStagesEnd) {
  const TrainData data(task_, {{30, {3, 3}}, {10, {20, 20}}, {5, {40, 40}}}, {5});
  EXPECT_EQ(draw(data, 0, 29, 0), direct({5, Stream::kTrain}, 29, 0, {3, 3}));
  EXPECT_EQ(draw(data, 0, 30, 0), direct({5, Stream::kTrain}, 30, 0, {20, 20}));
  EXPECT_EQ(draw(data, 0, 39, 0), direct({5, Stream::kTrain}, 39, 0, {20, 20}));
  EXPECT_EQ(draw(data, 0, 40, 0), direct({5, Stream::kTrain}, 40, 0, {40, 40}));
}

TEST_F(DataSourceTest, EvaluationDataIsTheSameForAllMembersAndDiffersByStreamAndLength) {
  const EvalData validation(task_, {3, Stream::kValidation}, {40, 40}),
      test(task_, {3, Stream::kTest}, {40, 40});
  EXPECT_EQ(draw(validation, 0, validation.data_step(), 1),
            draw(validation, 7, validation.data_step(), 1));
  EXPECT_NE(draw(validation, 0, validation.data_step(), 1), draw(test, 0, test.data_step(), 1));
  EXPECT_NE(EvalData(task_, {3, Stream::kTest}, {3, 40}).data_step(), test.data_step());
}

}  // namespace
}  // namespace statelab

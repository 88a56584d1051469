#include "reports/selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

SampleRun validated(const std::string& mixer, double lr, int seed, int64_t at_80, int64_t test_80,
                    int64_t at_40 = 1000) {
  SampleRun run{.mixer = mixer, .lr = lr, .seed = seed, .test = {{80, test_80}}};
  run.validations = {{1000, {{40, at_40}, {80, at_80}}}};
  return run;
}

std::vector<std::string> ids(const Selection& selection) {
  std::vector<std::string> out;
  for (const SelectedSetting& s : selection.settings) out.push_back(s.run_id);
  return out;
}

TEST(Selection, TakesTheBestOfEachModelByValidationNotByTest) {
  SampleLab lab;
  const auto run = lab.add(
      "s", {validated("mamba3", 0.001, 0, 900, 100), validated("mamba3", 0.002, 0, 800, 1000),
            validated("mamba3", 0.003, 0, 950, 200), validated("mamba2", 0.001, 0, 510, 500),
            validated("mamba2", 0.002, 0, 520, 400)});
  const Selection s = select_settings(lab.database(), {});
  EXPECT_THAT(ids(s), ElementsAre(run[2], run[0], run[4], run[3]));
  EXPECT_EQ(s.settings[0].group, "mamba3");
  EXPECT_EQ(s.settings[2].group, "mamba2");
  EXPECT_EQ(s.settings[0].length, (ScoredLength{80, 80})) << "the longest exact length decides";
  EXPECT_DOUBLE_EQ(s.settings[0].validation, 0.95);
}

TEST(Selection, ASettingIsJudgedByTheMeanOfItsSeeds) {
  SampleLab lab;
  const auto run = lab.add(
      "s", {validated("mamba3", 0.001, 0, 1000, 1000), validated("mamba3", 0.001, 1, 500, 500),
            validated("mamba3", 0.002, 0, 800, 800), validated("mamba3", 0.002, 7, 800, 800)});
  const Selection s = select_settings(lab.database(), {.top = 1});
  EXPECT_THAT(ids(s), ElementsAre(run[2]));
  EXPECT_EQ(s.settings[0].runs, 2);
  EXPECT_EQ(s.seeds, (std::set<int64_t>{0, 1, 7}));
}

TEST(Selection, TiesGoToTheBetterMeanOverAllLengthsThenToTheFirst) {
  SampleLab lab;
  const auto run = lab.add("s", {validated("mamba3", 0.001, 0, 1000, 1, 900),
                                 validated("mamba3", 0.002, 0, 1000, 1, 990),
                                 validated("mamba3", 0.003, 0, 1000, 1, 990)});
  EXPECT_THAT(ids(select_settings(lab.database(), {.top = 3})),
              ElementsAre(run[1], run[2], run[0]));
}

TEST(Selection, TheLengthMayBeChosen) {
  SampleLab lab;
  const auto run = lab.add("s", {validated("mamba3", 0.001, 0, 1000, 1, 900),
                                 validated("mamba3", 0.002, 0, 500, 1, 990)});
  const Selection s = select_settings(lab.database(), {.top = 1, .length = ScoredLength{40, 40}});
  EXPECT_THAT(ids(s), ElementsAre(run[1]));
}

TEST(Selection, WithoutAValidationThereIsNothingToChooseFrom) {
  SampleLab lab;
  lab.add("s", {{.test = {{80, 1000}}}});
  EXPECT_THAT([&] { select_settings(lab.database(), {}); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("no run was validated yet")));
  lab.add("t", {validated("mamba3", 0.002, 0, 900, 1)});
  EXPECT_THAT(
      [&] {
        select_settings(lab.database(), {.length = ScoredLength{512, 512}});
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("validated at length 512")));
  EXPECT_THAT([&] { select_settings(lab.database(), {.top = 0}); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("top: must be at least 1, is 0")));
}

}  // namespace
}  // namespace statelab

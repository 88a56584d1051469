// ls, show, diff and status.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/render.h"
#include "reports/run_detail.h"
#include "reports/run_list.h"
#include "reports/run_lookup.h"
#include "reports/sweep_status.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

TEST(ListRuns, ShowsTheScoreAtTheLongestExactLengthBesideChance) {
  SampleLab lab;
  lab.add("s", {{.test = {{40, 1000}, {80, 750}}, .test_from_40 = {{256, 600}}},
                {.seed = 1, .status = "pending"}});
  const Table t = list_runs(lab.database(), {});
  ASSERT_THAT(t.rows, SizeIs(2));
  EXPECT_DOUBLE_EQ(number_of(t.rows[0][8].value), 0.75);
  EXPECT_EQ(text_of(t.rows[0][9].value), "80");
  EXPECT_DOUBLE_EQ(number_of(t.rows[0][10].value), 0.5);
  EXPECT_TRUE(is_null(t.rows[1][8].value));
  EXPECT_EQ(text_of(t.rows[1][2].value), "pending");
}

TEST(ListRuns, LimitKeepsTheNewestInOrder) {
  SampleLab lab;
  lab.add("s", {{.seed = 0, .status = "pending"},
                {.seed = 1, .status = "pending"},
                {.seed = 2, .status = "pending"}});
  const Table t = list_runs(lab.database(), {.limit = 2});
  ASSERT_THAT(t.rows, SizeIs(2));
  EXPECT_EQ(integer_of(t.rows[0][5].value), 1);
  EXPECT_EQ(integer_of(t.rows[1][5].value), 2);
}

TEST(ListRuns, FiltersByStatusAndRefusesAnUnknownOne) {
  SampleLab lab;
  lab.add("s", {{.seed = 0, .test = {{40, 1}}}, {.seed = 1, .status = "failed"}});
  EXPECT_THAT(list_runs(lab.database(), {.filter = {.status = "failed"}}).rows, SizeIs(1));
  EXPECT_THAT([&] { list_runs(lab.database(), {.filter = {.status = "done"}}); },
              testing::ThrowsMessage<std::invalid_argument>(
                  HasSubstr("must be one of pending, running, finished, diverged, failed")));
}

TEST(FindRun, TakesAnyUnambiguousBeginningOrAName) {
  SampleLab lab;
  const auto ids =
      lab.add("s", {{.seed = 0, .status = "pending"}, {.seed = 1, .status = "pending"}});
  EXPECT_EQ(find_run(lab.database(), ids[1].substr(0, 8)), ids[1]);
  EXPECT_EQ(find_run(lab.database(), ids[0]), ids[0]);
  EXPECT_EQ(find_run(lab.database(), "parity-mamba3-lr0.001-s1"), ids[1]);
}

TEST(FindRun, ListsTheCandidatesOfAnAmbiguousBeginning) {
  SampleLab lab;
  std::vector<NewRun> rows(3);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = {std::string(60, 'a') + std::string(4, static_cast<char>('b' + i)),
               "g",
               "k",
               "run-" + std::to_string(i),
               sample_config({.seed = static_cast<int>(i)}),
               10};
  }
  lab.store().add_runs(rows);
  try {
    find_run(lab.database(), "aaaa");
    FAIL() << "an ambiguous beginning was accepted";
  } catch (const RunLookupError& e) {
    EXPECT_THAT(e.candidates, SizeIs(3));
    EXPECT_THAT(e.what(), HasSubstr("run \"aaaa\": 3 runs fit, give more digits:"));
    EXPECT_THAT(e.what(), HasSubstr("run-2  pending"));
  }
}

TEST(FindRun, SaysWhatItWantsWhenNothingFits) {
  SampleLab lab;
  EXPECT_THAT([&] { find_run(lab.database(), "zz"); },
              testing::ThrowsMessage<RunLookupError>(HasSubstr("no run has this name")));
  EXPECT_THAT([&] { find_run(lab.database(), "ab"); },
              testing::ThrowsMessage<RunLookupError>(HasSubstr("at least 4 digits")));
}

TEST(FindRun, CompletionOffersIdsInOrder) {
  SampleLab lab;
  auto ids = lab.add("s", {{.seed = 0, .status = "pending"}, {.seed = 1, .status = "pending"}});
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(run_ids_beginning_with(lab.database(), "", 10), ids);
}

TEST(ShowRun, TellsStateConfigurationScoresAndOrigin) {
  SampleLab lab;
  const auto ids = lab.add("my sweep", {{.test = {{40, 900}}}});
  std::string text;
  for (const Table& table : show_run(lab.database(), ids[0])) text += render_text(table);
  for (const char* part : {"finished", "my sweep", "train.optimizer.lr", "0.001", "90.00",
                           "sample processor", "build-1", "0123abc", "0.25000"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(ShowRun, SaysWhyARunFailed) {
  SampleLab lab;
  const auto ids = lab.add("s", {{.status = "failed"}});
  EXPECT_THAT(render_text(show_run(lab.database(), ids[0]).front()),
              HasSubstr("out of memory: 3 GiB asked, 2 GiB there"));
}

TEST(DiffRuns, ShowsDifferingKeysAndScoresWithTheirError) {
  SampleLab lab;
  const auto ids = lab.add("s", {{.lr = 0.001, .test = {{40, 900}, {80, 500}}},
                                 {.mixer = "mamba2", .lr = 0.001, .test = {{40, 800}}}});
  const std::vector<Table> tables = diff_runs(lab.database(), ids[0], ids[1]);
  const std::string config = render_text(tables[0]), scores = render_text(tables[1]);
  EXPECT_THAT(config, HasSubstr("model.mixer"));
  EXPECT_THAT(config, Not(HasSubstr("train.optimizer.lr")));
  EXPECT_NEAR(number_of(tables[1].rows[0][3].value), -0.1, 1e-12);
  EXPECT_NEAR(tables[1].rows[0][3].spread, std::sqrt(0.9 * 0.1 / 1000 + 0.8 * 0.2 / 1000), 1e-12);
  EXPECT_TRUE(is_null(tables[1].rows[1][3].value));
  EXPECT_THAT(scores, HasSubstr("as if the two runs were tested on unrelated data"));
}

TEST(SweepStatus, CountsEachStateOnce) {
  SampleLab lab;
  lab.add("s", {{.seed = 0, .test = {{40, 1}}},
                {.seed = 1, .status = "diverged"},
                {.seed = 2, .status = "failed"},
                {.seed = 3, .status = "running"},
                {.seed = 4, .status = "pending"}});
  const Table t = sweep_status(lab.database());
  ASSERT_THAT(t.rows, SizeIs(1));
  std::vector<int64_t> counts;
  for (size_t c = 2; c < 8; ++c) counts.push_back(integer_of(t.rows[0][c].value));
  EXPECT_THAT(counts, testing::ElementsAre(5, 1, 1, 1, 1, 1));
  EXPECT_DOUBLE_EQ(number_of(t.rows[0][8].value), 0.6);  // three have no steps left
  EXPECT_THAT(render_text(t),
              HasSubstr("missing runs are computed by running the sweep's file again"));
}

TEST(SweepStatus, ARunWhoseWorkerIsGoneIsMissingNotRunning) {
  SampleLab lab;
  lab.add("s", {{.status = "running"}});
  lab.database().execute("UPDATE runs SET lease_until = 1");
  const Table t = sweep_status(lab.database(), "s");
  EXPECT_EQ(integer_of(t.rows[0][6].value), 0);
  EXPECT_EQ(integer_of(t.rows[0][7].value), 1);
  EXPECT_EQ(text_of(list_runs(lab.database(), {}).rows[0][2].value), "abandoned");
}

TEST(SweepStatus, ListsRunsOfNoSweepApart) {
  SampleLab lab;
  lab.store().add_runs(
      std::vector<NewRun>{{std::string(64, 'a'), "g", "k", "alone", sample_config({}), 10}});
  EXPECT_EQ(text_of(sweep_status(lab.database()).rows.at(0)[0].value), "(no sweep)");
}

}  // namespace
}  // namespace statelab

#include "reports/published.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "reports/render.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr const char* kHeader =
    "source,table,task,profile,lengths,model,metric,value,selection,note\n";

const Cell& cell(const Table& table, size_t row, const std::string& key) {
  for (size_t c = 0; c < table.columns.size(); ++c) {
    if (table.columns[c].key == key) return table.rows.at(row).at(c);
  }
  throw std::out_of_range("no column " + key);
}

PublishedRecord record(const std::string& profile, const std::string& lengths,
                       const std::string& selection) {
  return {"a paper", "Table 1", "parity", profile, lengths, "mamba3", "scaled_accuracy_pct",
          40.0,      selection, ""};
}

TEST(PublishedRows, AllNameTheirSourceTableAndProtocol) {
  ASSERT_FALSE(published_rows().empty());
  for (const PublishedRecord& row : published_rows()) {
    EXPECT_FALSE(row.source.empty());
    EXPECT_FALSE(row.paper_table.empty());
    EXPECT_FALSE(row.profile.empty());
    EXPECT_FALSE(row.selection.empty());
    ASSERT_TRUE(row.value.has_value()) << row.source << ' ' << row.model;
    EXPECT_GE(*row.value, 0);
    EXPECT_LE(*row.value, 100);
  }
}

TEST(PublishedRows, EveryFileInTheFolderTravelsInTheProgram) {
  size_t rows = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(STATELAB_SOURCE_DIR "/reports/published")) {
    if (entry.path().extension() != ".csv") continue;
    std::ifstream in(entry.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    rows += parse_published(text, entry.path().filename().string()).size();
  }
  EXPECT_EQ(published_rows().size(), rows);
}

TEST(PublishedRows, NoRowOccursTwice) {
  std::set<std::vector<std::string>> seen;
  for (const PublishedRecord& r : published_rows()) {
    EXPECT_TRUE(seen.insert({r.source, r.paper_table, r.task, r.profile, r.lengths, r.model,
                             r.metric, r.selection, r.note})
                    .second)
        << r.source << ' ' << r.paper_table << ' ' << r.task << ' ' << r.model;
  }
}

TEST(PublishedRows, ARowWithoutSourceIsRefusedWithItsLine) {
  EXPECT_THAT(
      [] {
        parse_published(
            std::string(kHeader) +
                "p,t,parity,xlstm,l,m,accuracy_pct,1,s,\n,t,parity,xlstm,l,m,accuracy_pct,1,s,\n",
            "x.csv");
      },
      ThrowsMessage<std::invalid_argument>(HasSubstr("x.csv:3: source must not be empty")));
}

TEST(PublishedRows, OtherMistakesAreRefusedWithTheirLine) {
  EXPECT_THAT([] { parse_published("source,table\n", "x.csv"); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("x.csv:1: the columns must be")));
  EXPECT_THAT(
      [] {
        parse_published(std::string(kHeader) + "p,t,parity,xlstm,l,m,accuracy_pct,high,s,\n",
                        "x.csv");
      },
      ThrowsMessage<std::invalid_argument>(
          HasSubstr("x.csv:2: value must be a number, is \"high\"")));
  EXPECT_THAT(
      [] { parse_published(std::string(kHeader) + "p,t\n", "x.csv"); },
      ThrowsMessage<std::invalid_argument>(HasSubstr("x.csv:2: a row must have 10 fields, has 2")));
}

TEST(PublishedRows, QuotedFieldsMayHoldCommasAndQuotes) {
  const auto rows = parse_published(
      std::string(kHeader) + "\"a, \"\"b\"\"\",t,parity,xlstm,l,\"m[0,1]\",accuracy_pct,,s,\r\n",
      "x.csv");
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].source, "a, \"b\"");
  EXPECT_EQ(rows[0].model, "m[0,1]");
  EXPECT_FALSE(rows[0].value.has_value());
}

TEST(ComparePublished, LoadingTwiceChangesNothing) {
  SampleLab lab;
  load_published(lab.store());
  load_published(lab.store());
  EXPECT_EQ(integer_of(query(lab.database(), "SELECT count(*) FROM published")[0][0]),
            static_cast<int64_t>(published_rows().size()));
}

TEST(ComparePublished, TakesTheSameStatisticAtTheSameLengths) {
  SampleLab lab;
  lab.add("s", {{.seed = 0, .test = {{256, 700}}, .test_from_40 = {{256, 600}}},
                {.seed = 1, .test = {{256, 800}}, .test_from_40 = {{256, 650}}},
                {.seed = 2, .test = {{256, 900}}, .test_from_40 = {{256, 950}}}});
  const std::vector<PublishedRecord> rows = {
      record("xlstm", "train 3..40; test 40..256", "median of 3 seeds"),
      record("xlstm", "train 3..40; test 40..256", "best of 3 seeds")};
  lab.store().set_published(rows);
  const Table t = compare_published(lab.database(), {});
  ASSERT_EQ(t.rows.size(), 2u);
  EXPECT_DOUBLE_EQ(number_of(cell(t, 0, "ours").value), 0.3);  // scaled: 2 (0.65 - 0.5)
  EXPECT_DOUBLE_EQ(number_of(cell(t, 1, "ours").value), 0.9);
  EXPECT_EQ(text_of(cell(t, 0, "ours_length").value), "40..256");
  EXPECT_DOUBLE_EQ(number_of(cell(t, 0, "published").value), 0.4);
}

TEST(ComparePublished, NamesEveryDifferenceOfTheProtocols) {
  SampleLab lab;
  lab.add("s", {{.test = {{80, 900}},
                 .supervision = "all",
                 .curriculum = R"([{"length":[3,64],"steps":500}])"}});
  const std::vector<PublishedRecord> rows = {
      record("slice", "train 3..40; validation 40..256", "mean of 5 runs")};
  lab.store().set_published(rows);
  const Table t = compare_published(lab.database(), {});
  ASSERT_EQ(t.rows.size(), 1u);
  EXPECT_EQ(
      text_of(cell(t, 0, "differs_in").value),
      "length convention, supervision, weights, selection, precision, curriculum, tested length");
  const std::string text = render_text(t);
  for (const char* part :
       {"length convention: ours xlstm, theirs slice", "supervision: ours all, theirs last",
        "selection: ours mean of 1 seeds, theirs mean of 5 runs",
        "precision: ours fp32, theirs not stated",
        "curriculum: ours train 3..64, theirs train 3..40",
        "tested length: ours 80, theirs 40..256"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(ComparePublished, FlagsMultiplicationInsideBrackets) {
  SampleLab lab;
  SampleRun run{.test_from_40 = {{256, 400}},
                .task = "modular_arithmetic_brackets",
                .chance = 0.2,
                .constant_answer = 0.3};
  lab.add("s", {run});
  PublishedRecord row = record("xlstm", "train 3..40; test 40..256", "best of 3 seeds");
  row.task = "modular_arithmetic_brackets";
  row.note = "multiplication inside brackets off";
  lab.store().set_published(std::vector{row});
  EXPECT_THAT(render_text(compare_published(lab.database(), {})),
              HasSubstr("multiplication: ours on, theirs off"));
}

TEST(ComparePublished, MarksNoBetterValueWhereProtocolsDiffer) {
  SampleLab lab;
  load_published(lab.store());
  lab.add("s", {{.test = {{256, 1000}}}, {.mixer = "mamba2", .test = {{256, 500}}}});
  const Table t = compare_published(lab.database(), {});
  ASSERT_GE(t.rows.size(), 2u);
  for (size_t r = 0; r < t.rows.size(); ++r) {
    EXPECT_NE(text_of(cell(t, r, "differs_in").value), "nothing");
    for (const Cell& c : t.rows[r]) EXPECT_FALSE(c.best);
  }
}

TEST(ComparePublished, ShowsModelsWithoutRunsOnlyWhenAsked) {
  SampleLab lab;
  load_published(lab.store());
  lab.add("s", {{.test = {{256, 1000}}}});
  const Table ours = compare_published(lab.database(), {});
  const Table all = compare_published(lab.database(), {.other_models = true});
  EXPECT_EQ(ours.rows.size(), 1u);
  EXPECT_GT(all.rows.size(), 30u);
  EXPECT_THAT(render_text(ours),
              HasSubstr("published rows of these tasks are of models that have no run here"));
  EXPECT_EQ(
      compare_published(lab.database(), {.source = "2603.15569", .other_models = true}).rows.size(),
      5u);
}

TEST(ComparePublished, FoldsWhatAllRowsShareIntoNotesForPeople) {
  SampleLab lab;
  load_published(lab.store());
  lab.add("s", {{.test = {{256, 1000}}}, {.mixer = "mamba2", .test = {{256, 500}}}});
  const Table all = compare_published(lab.database(), {.source = "2603.15569"});
  const Table folded = compare_published(lab.database(), {.source = "2603.15569", .fold = true});
  ASSERT_EQ(folded.rows.size(), 2u);
  EXPECT_LT(folded.columns.size() + 6, all.columns.size());
  for (const char* kept : {"model", "ours", "published", "ours_success", "ours_standard_error"})
    EXPECT_NO_THROW(cell(folded, 0, kept)) << kept;
  for (const char* gone : {"task", "metric", "ours_length", "chance", "source", "differs_in"})
    EXPECT_THROW(cell(folded, 0, gone), std::out_of_range) << gone;
  EXPECT_EQ(cell(folded, 0, "published").marks, "") << "marks of all rows belong to the heading";
  const std::string text = render_text(folded);
  for (const char* said :
       {"task parity; metric scaled accuracy", "our length 256", "chance 0.00 %",
        "theirs is the best validation of 16 settings", "source arXiv:2603.15569v1, Table 5b",
        "the protocols differ in length convention, supervision, BOS, weights, selection, "
        "precision, curriculum",
        "precision: ours fp32, theirs not stated"})
    EXPECT_THAT(text, HasSubstr(said));
}

TEST(ComparePublished, EveryModelOfTheTableJoinsByItsName) {
  SampleLab lab;
  load_published(lab.store());
  lab.add("s", {{.test = {{256, 1000}}},
                {.rotation = "standard", .test = {{256, 500}}},
                {.rotation = "none", .test = {{256, 500}}},
                {.mixer = "mamba2", .test = {{256, 500}}},
                {.mixer = "gated_delta_net", .test = {{256, 990}}}});
  const Table t = compare_published(lab.database(), {.source = "2603.15569"});
  std::vector<std::string> models;
  for (size_t r = 0; r < t.rows.size(); ++r) models.push_back(text_of(cell(t, r, "model").value));
  EXPECT_THAT(models,
              testing::UnorderedElementsAre("mamba3", "mamba3_standard_rope", "mamba3_no_rope",
                                            "mamba2", "gated_delta_net[-1,1]"));
}

TEST(Protocol, StagesReadLikeThePapersWordsAndSayWhichTheyWere) {
  SampleRun run;
  run.curriculum = R"([{"length":[3,40],"steps":10000},{"length":[3,160],"steps":10000}])";
  const Protocol ours = protocol_of_run(flatten_config(sample_config(run)), "fp32");
  const Protocol theirs = protocol_of_published(
      {"s", "t", "parity", "xlstm", "min 3, max 40->160 in stages of 10^4 steps; tested at 256",
       "m", "accuracy_pct", 1.0, "best", ""});
  EXPECT_EQ(ours.curriculum, theirs.curriculum + ": 40, 160");
}

TEST(Protocol, WhichWeightsWereTestedIsAChoiceOfItsOwn) {
  SampleRun run;
  const Protocol ours = protocol_of_run(flatten_config(sample_config(run)), "fp32");
  EXPECT_EQ(ours.weights, "last weights");
  EXPECT_EQ(ours.selection, "");
}

}  // namespace
}  // namespace statelab

// What is committed in reports/published/ours: it reads, and it joins with what papers report.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "reports/published.h"
#include "reports/render.h"
#include "store/results_file.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = STATELAB_SOURCE_DIR "/reports/published/ours";
constexpr uintmax_t kLargest = 10'000'000;

std::vector<fs::path> committed() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() == ".jsonl") files.push_back(entry.path());
  }
  return files;
}

TEST(OwnResults, TheFolderIsSmallAndHoldsResultsFilesOnly) {
  uintmax_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    const std::string name = entry.path().filename().string();
    bytes += entry.file_size();
    EXPECT_TRUE(name == "README.md" || is_results_file(entry.path())) << name;
  }
  EXPECT_LE(bytes, kLargest);
}

TEST(OwnResults, EveryCommittedFileReadsAndJoinsWithPublishedRows) {
  const auto files = committed();
  ASSERT_FALSE(files.empty()) << "no results in reports/published/ours";
  for (const fs::path& file : files) {
    SampleLab lab;
    const ResultCounts counts = read_results(lab.database(), file);
    EXPECT_GT(counts.runs, 0) << file;
    EXPECT_GT(counts.evaluations, 0) << file;
    load_published(lab.store());
    const Table joined = compare_published(lab.database(), {});
    EXPECT_GT(joined.rows.size(), 0u) << file << " joins with no published row";
  }
}

TEST(OwnResults, AComparisonOfAResultsFileIsThatOfItsDatabase) {
  SampleLab lab, fresh;
  std::vector<SampleRun> runs;
  for (const int seed : {0, 1, 2}) {
    SampleRun run{.seed = seed, .test = {{80, 700 + seed}, {256, 900 + seed}}};
    run.validations = {{500, {{40, 980}, {256, 1}}}, {1000, {{40, 990}, {256, 910 - seed}}}};
    runs.push_back(run);
    runs.push_back({.mixer = "mamba2", .seed = seed, .status = seed ? "finished" : "diverged"});
    if (seed) runs.back().test = {{256, 500}};
  }
  lab.add("s", runs);
  std::ostringstream text;
  write_results(lab.database(), "", text);
  const fs::path file = lab.folder() / "s.jsonl";
  std::ofstream(file) << text.str();
  read_results(fresh.database(), file);
  load_published(lab.store());
  load_published(fresh.store());
  EXPECT_EQ(render_csv(compare_published(fresh.database(), {})),
            render_csv(compare_published(lab.database(), {})));
  EXPECT_EQ(render_csv(compare(fresh.database(), {})), render_csv(compare(lab.database(), {})))
      << "steps to solve and wall times as well";
  EXPECT_GT(compare_published(fresh.database(), {}).rows.size(), 1u);
}

}  // namespace
}  // namespace statelab

// Whole reports: every format, the folder of files, and that TeX accepts ours.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "reports/published.h"
#include "reports/report.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

using testing::HasSubstr;
using testing::Not;

Report sample_report(SampleLab& lab) {
  std::vector<SampleRun> runs;
  for (int seed = 0; seed < 3; ++seed) {
    runs.push_back({.seed = seed,
                    .test = {{40, 1000 - seed}, {80, 900 - 100 * seed}},
                    .test_from_40 = {{256, 600 + seed}}});
    runs.push_back({.mixer = "mamba2", .seed = seed, .test = {{40, 500 + seed}, {80, 510 - seed}}});
  }
  lab.add("odd_name & 50 % #1", runs);
  load_published(lab.store());
  return make_report(lab.database(), {.compare = {}, .published = true});
}

std::string read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Report, HasEveryFormat) {
  SampleLab lab;
  const Report report = sample_report(lab);
  EXPECT_THAT(render_report(report, report_format("text")), HasSubstr("mamba2"));
  EXPECT_THAT(render_report(report, report_format("md")), HasSubstr("| :--- |"));
  EXPECT_THAT(render_report(report, report_format("tex")), HasSubstr("\\begin{document}"));
  EXPECT_THAT(render_report(report, report_format("csv")), HasSubstr("# compare\n"));
  const auto json = nlohmann::json::parse(render_report(report, report_format("json")));
  EXPECT_EQ(json["run_ids"].size(), 6u);
  EXPECT_EQ(json["tables"]["compare"]["rows"].size(), 2u);
  EXPECT_THROW(report_format("pdf"), std::invalid_argument);
}

TEST(Report, ThePageLoadsNothingAndRunsNothing) {
  SampleLab lab;
  const std::string html = render_report(sample_report(lab), ReportFormat::kHtml);
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  // The SVG namespace is a name; nothing else may look like an address.
  const std::string rest =
      std::regex_replace(html, std::regex("http://www\\.w3\\.org/2000/svg"), "");
  EXPECT_THAT(rest, Not(HasSubstr("://")));
  EXPECT_THAT(rest, Not(HasSubstr("src=")));
}

TEST(Report, FolderHoldsThePageItsDataAndAManifestOfAll) {
  SampleLab lab;
  const Report report = sample_report(lab);
  const auto folder = lab.folder() / "report";
  write_report(report_files(report), folder);
  const auto manifest = nlohmann::json::parse(read(folder / "manifest.json"));
  EXPECT_EQ(manifest["run_ids"].size(), 6u);
  for (const auto& file : manifest["files"]) {
    EXPECT_GT(std::filesystem::file_size(folder / file.get<std::string>()), 0u) << file;
  }
  for (const char* name :
       {"index.html", "table.md", "table.tex", "summary.csv", "figures/curves_parity.vl.json",
        "figures/curves_parity.svg", "figures/curves_parity.csv", "figures/curves_parity.tex"}) {
    EXPECT_TRUE(std::filesystem::exists(folder / name)) << name;
  }
}

TEST(Report, AFolderThatCannotBeWrittenIsNamed) {
  SampleLab lab;
  std::ofstream(lab.folder() / "file") << "in the way";
  EXPECT_THAT(
      [&] {
        write_report({{"index.html", "x"}}, lab.folder() / "file");
      },
      testing::ThrowsMessage<std::runtime_error>(HasSubstr("file")));
}

TEST(Report, TheSameDatabaseGivesTheSameBytes) {
  SampleLab lab;
  const Report first = sample_report(lab);
  const Report second = make_report(lab.database(), {.compare = {}, .published = true});
  for (ReportFormat format :
       {ReportFormat::kText, ReportFormat::kLatex, ReportFormat::kHtml, ReportFormat::kJson}) {
    EXPECT_EQ(render_report(first, format), render_report(second, format));
  }
}

TEST(Report, TexCompiles) {
  if (std::system("pdflatex --version >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "pdflatex is not installed";
  if (std::system("kpsewhich pgfplots.sty >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "the LaTeX package pgfplots is not installed";
  SampleLab lab;
  std::ofstream(lab.folder() / "report.tex")
      << render_report(sample_report(lab), ReportFormat::kLatex);
  const std::string command =
      "cd '" + lab.folder().string() +
      "' && pdflatex -interaction=nonstopmode -halt-on-error report.tex >pdflatex.log 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0) << read(lab.folder() / "pdflatex.log");
  EXPECT_TRUE(std::filesystem::exists(lab.folder() / "report.pdf"));
}

}  // namespace
}  // namespace statelab

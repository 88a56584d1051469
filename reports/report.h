// `statelab report`: tables and figures of one question, as one document or as a folder of files.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "reports/comparison.h"
#include "reports/figure.h"
#include "reports/table.h"

namespace statelab {

struct Report {
  std::string title = {};
  std::vector<Table> tables = {};
  std::vector<Figure> figures = {};
  std::vector<std::string> run_ids = {};  ///< every run behind the numbers
};

struct ReportOptions {
  CompareOptions compare = {};  ///< its fold_levels also folds the published table
  bool published = false;       ///< with the table beside published results
  std::string source = {};      ///< restricts it, as in PublishedOptions
};

/// Status, comparison, comparison with published results if asked for, curves, and which programs
/// computed the runs.
Report make_report(Database& database, const ReportOptions& options);

enum class ReportFormat { kText, kMarkdown, kLatex, kCsv, kHtml, kJson };
/// "text" | "md" | "tex" | "csv" | "html" | "json". Throws std::invalid_argument for another name.
ReportFormat report_format(const std::string& name);

/// One document. CSV holds the tables one after the other, each after a line "# key"; tex is a
/// whole document; html is one page with its pictures inside, which needs neither scripts nor a
/// network.
std::string render_report(const Report& report, ReportFormat format, bool colour = false);

struct ReportFile {
  std::string path = {};  ///< relative, with "/"
  std::string content = {};
};
/// index.html, table.md, table.tex, summary.csv (the comparison), report.json, manifest.json and,
/// per figure, figures/KEY.{svg,vl.json,csv,tex}.
std::vector<ReportFile> report_files(const Report& report);

/// Writes the files below `folder`, which is made. Errors: std::runtime_error with path and reason.
void write_report(const std::vector<ReportFile>& files, const std::filesystem::path& folder);

}  // namespace statelab

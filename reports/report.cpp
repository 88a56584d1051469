#include "reports/report.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>

#include "reports/curves.h"
#include "reports/html_page.h"
#include "reports/published.h"
#include "reports/render.h"
#include "reports/sweep_status.h"

namespace statelab {
namespace {

using Json = nlohmann::ordered_json;

// Under which circumstances the runs were computed: one row per program and device.
Table provenance(Database& database, const RunFilter& run_filter) {
  using enum ColumnType;
  Table table{
      .key = "provenance",
      .title = "computed by",
      .columns =
          {{.key = "backend", .title = "backend"},
           {.key = "device", .title = "device"},
           {.key = "precision", .title = "precision"},
           {.key = "build", .title = "build"},
           {.key = "code_commit", .title = "commit"},
           {.key = "dirty", .title = "dirty", .type = kInteger},
           {.key = "runs", .title = "runs", .type = kInteger},
           {.key = "wall_seconds", .title = "wall", .type = kNumber, .unit = "s", .digits = 1}},
      .rows = {},
      .notes = {}};
  const FilterSql filter = filter_sql(run_filter);
  for (const Row& row :
       query(database,
             "SELECT e.backend, e.device, e.precision, e.build, e.code_commit, e.dirty,"
             " count(DISTINCT x.run), total(x.wall_seconds / x.members)"
             " FROM runs r JOIN run_executions x ON x.run = r.id JOIN executions e ON e.id = "
             "x.execution"
             " WHERE " +
                 filter.condition +
                 " GROUP BY e.backend, e.device, e.precision, e.build, e.code_commit, e.dirty "
                 "ORDER BY min(e.id)",
             filter.parameters)) {
    auto& cells = table.rows.emplace_back();
    for (const CellValue& value : row) cells.push_back({.value = value});
  }
  return table;
}

std::string notes_heading(const std::string& title) {
  return fmt::format("# {}\n\n", escape_markdown(title));
}

}  // namespace

Report make_report(Database& database, const ReportOptions& options) {
  const RunFilter& filter = options.compare.filter;
  Report report;
  report.title = "statelab: " + filter_text(filter);
  report.tables.push_back(compare(database, options.compare));
  if (options.published) {
    report.tables.push_back(compare_published(database, {.filter = filter,
                                                         .source = options.source,
                                                         .threshold = options.compare.threshold,
                                                         .fold = options.compare.fold_levels}));
  }
  Table status = sweep_status(database, filter.sweep);
  status.title = "sweeps";
  report.tables.push_back(std::move(status));
  report.tables.push_back(provenance(database, filter));
  report.figures = curves(
      database,
      {.filter = filter, .group_by = options.compare.group_by, .metric = options.compare.metric});
  const FilterSql sql = filter_sql(filter);
  for (const Row& row :
       query(database, "SELECT r.run_id FROM runs r WHERE " + sql.condition + " ORDER BY r.id",
             sql.parameters)) {
    report.run_ids.push_back(text_of(row[0]));
  }
  return report;
}

ReportFormat report_format(const std::string& name) {
  static const std::vector<std::pair<const char*, ReportFormat>> kFormats = {
      {"text", ReportFormat::kText}, {"md", ReportFormat::kMarkdown},
      {"tex", ReportFormat::kLatex}, {"csv", ReportFormat::kCsv},
      {"html", ReportFormat::kHtml}, {"json", ReportFormat::kJson}};
  for (const auto& [known, format] : kFormats) {
    if (name == known) return format;
  }
  throw std::invalid_argument(
      fmt::format("format: must be text, md, tex, csv, html or json, is \"{}\"", name));
}

std::string render_report(const Report& report, ReportFormat format, bool colour) {
  std::string out;
  switch (format) {
    case ReportFormat::kText:
      for (const Table& table : report.tables)
        out += (out.empty() ? "" : "\n") + render_text(table, colour);
      return out;
    case ReportFormat::kMarkdown:
      out = notes_heading(report.title);
      for (const Table& table : report.tables) out += render_markdown(table) + '\n';
      return out;
    case ReportFormat::kLatex:
      for (const Table& table : report.tables) out += render_latex(table) + '\n';
      for (const Figure& figure : report.figures) out += render_pgfplots(figure) + '\n';
      return latex_document(out);
    case ReportFormat::kCsv:
      for (const Table& table : report.tables)
        out += fmt::format("{}# {}\n{}", out.empty() ? "" : "\n", table.key, render_csv(table));
      return out;
    case ReportFormat::kHtml:
      return html_page(report);
    case ReportFormat::kJson: {
      Json document = {{"title", report.title},
                       {"tables", Json::object()},
                       {"figures", Json::object()},
                       {"run_ids", report.run_ids}};
      for (const Table& table : report.tables)
        document["tables"][table.key] = Json::parse(render_json(table));
      for (const Figure& figure : report.figures)
        document["figures"][figure.key] = Json::parse(render_vega_lite(figure));
      return document.dump() + '\n';
    }
  }
  return out;
}

std::vector<ReportFile> report_files(const Report& report) {
  std::vector<ReportFile> files;
  auto add = [&](const std::string& path, std::string content) {
    files.push_back({path, std::move(content)});
  };
  add("index.html", html_page(report));
  add("table.md", render_report(report, ReportFormat::kMarkdown));
  add("table.tex", render_report(report, ReportFormat::kLatex));
  if (!report.tables.empty()) add("summary.csv", render_csv(report.tables.front()));
  add("report.json", render_report(report, ReportFormat::kJson));
  for (const Figure& figure : report.figures) {
    const std::string base = "figures/" + figure.key;
    add(base + ".svg", render_svg(figure));
    add(base + ".vl.json", render_vega_lite(figure));
    add(base + ".csv", render_figure_csv(figure));
    add(base + ".tex", render_pgfplots(figure));
  }
  Json names = Json::array();
  for (const ReportFile& file : files) names.push_back(file.path);
  const Json manifest = {{"title", report.title}, {"files", names}, {"run_ids", report.run_ids}};
  add("manifest.json", manifest.dump(1) + '\n');
  return files;
}

void write_report(const std::vector<ReportFile>& files, const std::filesystem::path& folder) {
  for (const ReportFile& file : files) {
    const std::filesystem::path path = folder / file.path;
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    if (error)
      throw std::runtime_error(
          fmt::format("{}: cannot be made: {}", path.parent_path().string(), error.message()));
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << file.content;
    out.close();
    if (!out)
      throw std::runtime_error(
          fmt::format("{}: cannot be written: {}", path.string(), std::strerror(errno)));
  }
}

}  // namespace statelab

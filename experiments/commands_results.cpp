// Commands that read results: status, ls, show, diff, compare, report.
#include <fmt/core.h>

#include <stdexcept>

#include "experiments/commands.h"
#include "reports/comparison.h"
#include "reports/marginals.h"
#include "reports/published.h"
#include "reports/report.h"
#include "reports/run_detail.h"
#include "reports/run_list.h"
#include "reports/sweep_status.h"
#include "store/run_store.h"

namespace statelab {
namespace {

std::vector<CommandOption> filter_options() {
  return {{"--sweep", "NAME", "only runs of this sweep"},
          {"--task", "NAME", "only runs on this task"},
          {"--status",
           "",
           "only runs in this state",
           {"pending", "running", "finished", "diverged", "failed"}},
          {"--where", "K=V,...", "only runs with these settings, such as model.d_model=64"}};
}

std::vector<CommandOption> with_filter(std::vector<CommandOption> options) {
  auto all = filter_options();
  all.insert(all.end(), options.begin(), options.end());
  return all;
}

RunFilter filter_of(const Arguments& arguments) {
  RunFilter filter;
  filter.sweep = arguments.get("--sweep");
  filter.task = arguments.get("--task");
  filter.status = arguments.get("--status");
  if (arguments.has("--where")) {
    for (const std::string& part : comma_list("--where", arguments.get("--where"))) {
      const size_t equals = part.find('=');
      if (equals == std::string::npos || equals == 0)
        throw UsageError("--where: must be key=value, is " + part);
      filter.where.emplace_back(part.substr(0, equals), part.substr(equals + 1));
    }
  }
  return filter;
}

/// The reports refuse wrong options with std::invalid_argument: a wrong command line here.
template <typename Report>
auto checked(const Report& report) {
  try {
    return report();
  } catch (const std::invalid_argument& e) {
    throw UsageError(e.what());
  }
}

/// Whether the output has a form that programs read: then it has all columns always.
bool for_programs(const Arguments& arguments) {
  const std::string format = arguments.has("--json") ? "json" : arguments.get("--format", "text");
  return format == "json" || format == "csv";
}

CompareOptions compare_options(const Arguments& arguments) {
  CompareOptions options;
  options.filter = filter_of(arguments);
  if (arguments.has("--group")) options.group_by = comma_list("--group", arguments.get("--group"));
  if (arguments.has("--lengths"))
    options.lengths = lengths_of("--lengths", arguments.get("--lengths"));
  options.metric = checked([&] { return metric_from_name(arguments.get("--metric", "accuracy")); });
  if (arguments.has("--threshold")) {
    const std::string text = arguments.get("--threshold");
    char* end = nullptr;
    options.threshold = std::strtod(text.c_str(), &end);
    if (end != text.c_str() + text.size() || !(options.threshold > 0 && options.threshold <= 1)) {
      throw UsageError("--threshold: must be a number in (0, 1], is " + text);
    }
  }
  options.sort_by_median = arguments.has("--sort");
  return options;
}

std::vector<CommandOption> compare_option_rows() {
  return with_filter({{"--metric",
                       "",
                       "what is compared, accuracy by default",
                       {"accuracy", "scaled_accuracy", "sequence_accuracy"}},
                      {"--group", "KEY,...",
                       "settings that make a row (or `model`); everything but the seed by default"},
                      {"--lengths", "40,80,40..256", "lengths to show, all by default"},
                      {"--threshold", "X", "what counts as success, 0.95 by default"},
                      {"--sort", "", "best median at the longest length first"}});
}

int status(const Arguments& arguments) {
  Database db(readable_database(arguments), Database::Access::kReadOnly);
  print_tables({sweep_status(db, arguments.words.empty() ? "" : arguments.words[0])}, arguments);
  return kExitOk;
}

int list(const Arguments& arguments) {
  Database db(readable_database(arguments), Database::Access::kReadOnly);
  ListOptions options;
  options.filter = filter_of(arguments);
  options.limit = arguments.integer("--limit", 0, 1, 1000000000);
  options.full_ids = arguments.has("--full-ids");
  print_tables({checked([&] { return list_runs(db, options); })}, arguments);
  return kExitOk;
}

int show(const Arguments& arguments) {
  Database db(readable_database(arguments), Database::Access::kReadOnly);
  print_tables(checked([&] { return show_run(db, arguments.words[0]); }), arguments);
  return kExitOk;
}

int diff(const Arguments& arguments) {
  Database db(readable_database(arguments), Database::Access::kReadOnly);
  print_tables(checked([&] { return diff_runs(db, arguments.words[0], arguments.words[1]); }),
               arguments);
  return kExitOk;
}

int compare_command(const Arguments& arguments) {
  const CompareOptions options = compare_options(arguments);
  const std::string path = readable_database(arguments);
  if (arguments.has("--published")) {
    if (arguments.has("--by")) throw UsageError("--by and --published are two tables: choose one");
    RunStore store(path, Database::Access::kReadWrite);
    load_published(store);
    PublishedOptions published;
    published.filter = options.filter;
    published.source = arguments.get("--source");
    published.other_models = arguments.has("--other-models");
    published.threshold = options.threshold;
    published.fold = !for_programs(arguments);
    print_tables({checked([&] { return compare_published(store.database(), published); })},
                 arguments);
    return kExitOk;
  }
  Database db(path, Database::Access::kReadOnly);
  if (arguments.has("--by")) {
    if (arguments.has("--group") || arguments.has("--sort"))
      throw UsageError("--by: has a row per value of each setting and takes no --group or --sort");
    MarginalOptions marginal;
    marginal.filter = options.filter;
    if (arguments.get("--by") != "swept") marginal.keys = comma_list("--by", arguments.get("--by"));
    marginal.lengths = options.lengths;
    marginal.metric = options.metric;
    marginal.threshold = options.threshold;
    print_tables({checked([&] { return marginals(db, marginal); })}, arguments);
    return kExitOk;
  }
  const bool text = !arguments.has("--json") && arguments.get("--format", "text") == "text";
  const int columns = text ? terminal_columns() : 0;
  CompareOptions chosen = options;
  chosen.fold_levels = !for_programs(arguments);
  print_tables({checked([&] {
                 return columns > 0 ? compare_for_width(db, chosen, columns) : compare(db, chosen);
               })},
               arguments);
  return kExitOk;
}

int report(const Arguments& arguments) {
  ReportOptions options;
  options.compare = compare_options(arguments);
  options.published = arguments.has("--published");
  options.source = arguments.get("--source");
  options.compare.fold_levels = arguments.has("--output") || !for_programs(arguments);
  const std::string path = readable_database(arguments);
  RunStore store(path,
                 options.published ? Database::Access::kReadWrite : Database::Access::kReadOnly);
  if (options.published) load_published(store);
  const Report made = checked([&] { return make_report(store.database(), options); });
  if (arguments.has("--output")) {
    const std::string folder = arguments.get("--output");
    write_report(report_files(made), folder);
    fmt::print("{}/index.html\n", folder);
    return kExitOk;
  }
  const std::string format = arguments.has("--json") ? "json" : arguments.get("--format", "text");
  std::string text = render_report(made, report_format(format), colour_on_stdout());
  if (text.empty() || text.back() != '\n') text += '\n';
  fmt::print("{}", text);
  return kExitOk;
}

}  // namespace

std::vector<Command> result_commands() {
  const std::vector<CommandOption> output = {database_option(), format_option(), json_option()};
  const auto with = [](std::vector<CommandOption> a, const std::vector<CommandOption>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const std::vector<CommandOption> published = {
      {"--published", "", "beside the numbers that papers report, differences of protocol named"},
      {"--source", "TEXT", "with --published: only papers whose name contains this"},
      {"--other-models", "", "with --published: also models that were not run here"}};
  std::vector<Command> out;
  out.push_back({"status",
                 "what is done, failed and missing, per sweep",
                 "[SWEEP]",
                 0,
                 1,
                 WordKind::kNone,
                 {{"statelab status", "all sweeps of statelab.db"}},
                 output,
                 status});
  out.push_back(
      {"ls",
       "list runs",
       "",
       0,
       0,
       WordKind::kNone,
       {{"statelab ls --task parity --limit 20", "the newest twenty on parity"}},
       with(with_filter({{"--limit", "N", "the newest N"}, {"--full-ids", "", "run ids in full"}}),
            output),
       list});
  out.push_back({"show",
                 "everything about one run",
                 "RUN",
                 1,
                 1,
                 WordKind::kRun,
                 {{"statelab show 3fa9c1d2", "by the start of its id, or by its name"}},
                 output,
                 show});
  out.push_back({"diff",
                 "in what two runs differ, settings and scores",
                 "RUN RUN",
                 2,
                 2,
                 WordKind::kRun,
                 {{"statelab diff 3fa9c1d2 77ab0e91", "two runs by the start of their ids"}},
                 output,
                 diff});
  out.push_back(
      {"compare",
       "compare settings over their seeds: best, median, mean, success rate, chance",
       "",
       0,
       0,
       WordKind::kNone,
       {{"statelab compare", "all runs, one row per setting"},
        {"statelab compare --sweep parity-lr --group model --lengths 40,256 --sort",
         "one row per model, best first"},
        {"statelab compare --published --task parity", "beside published results"},
        {"statelab compare --by swept --lengths 256",
         "what each value of each swept setting did, and how far runs carry"}},
       with(with(with(compare_option_rows(),
                      {{"--by", "swept|KEY,...",
                        "a row per value of each setting, over all values of the others"}}),
                 published),
            output),
       compare_command});
  out.push_back(
      {"report",
       "status, comparison and curves as one document",
       "",
       0,
       0,
       WordKind::kNone,
       {{"statelab report --format md > results.md", "Markdown; also tex, csv, html, json"},
        {"statelab report --output report", "a folder: page, tables, figures with their data"}},
       with(with(compare_option_rows(), published),
            {database_option(),
             {"--format", "", "text by default", {"text", "md", "tex", "csv", "html", "json"}},
             {"--output", "FOLDER", "write all formats into this folder instead"},
             json_option()}),
       report});
  return out;
}

}  // namespace statelab

// confirm: the best settings again, with seeds that had no part in their choice.
#include <fmt/core.h>

#include <stdexcept>

#include "experiments/commands.h"
#include "experiments/confirmation.h"
#include "reports/selection.h"
#include "store/run_store.h"

namespace statelab {
namespace {

std::vector<uint32_t> seeds_of(const Arguments& arguments) {
  std::vector<uint32_t> seeds;
  for (const std::string& part :
       comma_list("--seeds", arguments.get("--seeds", "101,102,103,104,105"))) {
    const bool number =
        part.size() <= 10 && part.find_first_not_of("0123456789") == std::string::npos;
    if (!number || std::stoll(part) > 0xFFFFFFFFLL)
      throw UsageError("--seeds: must be integers in [0, 4294967295], has " + part);
    seeds.push_back(static_cast<uint32_t>(std::stoll(part)));
  }
  return seeds;
}

int confirm(const Arguments& arguments) {
  SelectionOptions options;
  options.filter.sweep = arguments.words[0];
  if (arguments.has("--group")) options.group_by = comma_list("--group", arguments.get("--group"));
  options.top = static_cast<int>(arguments.integer("--top", options.top, 1, 10000));
  if (arguments.has("--length")) {
    const auto lengths = lengths_of("--length", arguments.get("--length"));
    if (lengths.size() != 1)
      throw UsageError("--length: must be one length or range, is " + arguments.get("--length"));
    options.length = lengths[0];
  }
  const std::vector<uint32_t> seeds = seeds_of(arguments);
  RunStore store(readable_database(arguments), Database::Access::kReadOnly);
  Selection selection;
  try {
    selection = select_settings(store.database(), options);
  } catch (const std::invalid_argument& e) {
    throw UsageError(e.what());
  }
  for (const uint32_t seed : seeds) {
    if (selection.seeds.count(seed))
      throw UsageError(fmt::format(
          "--seeds: {} was used in sweep {}: a run that took part in the choice cannot confirm it",
          seed, arguments.words[0]));
  }
  std::vector<RunConfig> settings;
  std::vector<std::string> comment = {fmt::format(
      "The best {} of each {} of sweep {}, by validation at length {}, with seeds that had no part "
      "in the choice.",
      options.top == 1 ? "setting" : fmt::format("{} settings", options.top),
      arguments.get("--group", "model"), arguments.words[0], selection.settings[0].length.text())};
  for (const SelectedSetting& s : selection.settings) {
    settings.push_back(run_config_from_json(store.config(s.run_id).value()));
    comment.push_back(fmt::format("  {}: run {}, validation accuracy {:.4f}{}", s.group,
                                  s.run_id.substr(0, 12), s.validation,
                                  s.runs > 1 ? fmt::format(", mean of {} runs", s.runs) : ""));
  }
  fmt::print("{}", confirmation_yaml(arguments.words[0] + "-confirm", settings, seeds, comment));
  return kExitOk;
}

}  // namespace

std::vector<Command> confirm_commands() {
  return {{"confirm",
           "write a sweep of the best settings with fresh seeds",
           "SWEEP",
           1,
           1,
           WordKind::kNone,
           {{"statelab confirm table5b-parity --db parity.db > confirm.yaml",
             "the best two settings of each model by validation, seeds 101 to 105"},
            {"statelab confirm lr --top 1 --group model.d_model --seeds 7,8,9 > again.yaml",
             "the best of each width with three seeds"}},
           {database_option(),
            {"--top", "N", "settings per group, 2 by default"},
            {"--group", "KEY,...", "what one choice is made for, `model` by default"},
            {"--seeds", "N,...", "101,102,103,104,105 by default; none may occur in the sweep"},
            {"--length", "L", "validated length that decides, the longest exact one by default"}},
           confirm}};
}

}  // namespace statelab

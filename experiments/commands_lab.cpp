// Commands that look at the lab itself: sample, tasks, models, schema, completion.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "experiments/commands.h"
#include "experiments/dimension.h"
#include "experiments/field.h"
#include "experiments/run_check.h"
#include "experiments/schema.h"
#include "experiments/suggestion.h"
#include "experiments/sweep_file.h"
#include "models/cohort.h"
#include "tasks/task.h"

namespace statelab {
namespace {

using Json = nlohmann::ordered_json;

/// A run whose task is given by words such as `modulus=3`; the prefix `task.` may be left out.
RunConfig run_with_task(const std::string& name, const std::vector<std::string>& settings) {
  SweepFile sweep;
  Problems problems;
  for (std::string text : settings) {
    if (text.find('=') != std::string::npos && !find_field(text.substr(0, text.find('='))))
      text = "task." + text;
    apply_override(sweep, text, problems);
  }
  RunConfig run = default_run();
  run.task.name = name;
  if (const auto preset = find_preset(name)) run.task = *preset;
  for (const Assignment& a : sweep.fixed) a.field->set(run, a.value);
  if (!sweep.dimensions.empty())
    problems.add(command_line_place(), sweep.dimensions[0].name,
                 "sample takes one value, not a list");
  problems.raise();
  return run;
}

LengthRange length_option(const Arguments& arguments) {
  const std::string text = arguments.get("--length", "3..12");
  const size_t dots = text.find("..");
  LengthRange range;
  try {
    size_t used = 0;
    range.min = std::stoi(text, &used);
    range.max = range.min;
    size_t end = used;
    if (dots != std::string::npos && used == dots) {
      range.max = std::stoi(text.substr(dots + 2), &used);
      end = dots + 2 + used;
    }
    if (end != text.size()) throw std::invalid_argument(text);
  } catch (const std::logic_error&) {
    throw UsageError("--length: must be a length or min..max, is " + text);
  }
  if (range.min < 1 || range.min > range.max || range.max > 65536) {
    throw UsageError("--length: must satisfy 1 <= min <= max <= 65536, is " + text);
  }
  return range;
}

int sample(const Arguments& arguments) {
  const RunConfig run =
      run_with_task(arguments.words[0], {arguments.words.begin() + 1, arguments.words.end()});
  std::shared_ptr<const Task> task;
  try {
    task = task_of(run);
  } catch (const TaskError& e) {
    if (e.parameter != "name") throw;
    std::vector<std::string> names;
    for (const TaskSummary& t : list_tasks()) names.push_back(t.name);
    for (const std::string& preset : list_presets()) names.push_back(preset);
    throw UsageError(fmt::format("unknown task {}{}; `statelab tasks` lists all", run.task.name,
                                 did_you_mean(run.task.name, names)));
  }
  const LengthRange lengths = length_option(arguments);
  task->check_lengths(lengths);
  for (const std::string& warning : task->warnings())
    fmt::print(stderr, "statelab: warning: {}\n", warning);
  const auto count = static_cast<uint32_t>(arguments.integer("--count", 5, 1, 100000));
  const RngKey key{static_cast<uint32_t>(arguments.integer("--seed", 0, 0, 4294967295)),
                   Stream::kShow};
  const auto size = static_cast<size_t>(task->seqlen(lengths.max));
  Json samples = Json::array();
  for (uint32_t i = 0; i < count; ++i) {
    std::vector<int32_t> tokens(size), targets(size);
    const SampleInfo info = task->draw(key, 0, i, lengths, tokens, targets);
    tokens.resize(static_cast<size_t>(info.tokens));
    targets.resize(static_cast<size_t>(info.tokens));
    const std::string text = task->render(tokens, targets);
    if (arguments.has("--json")) {
      samples.push_back(
          {{"length", info.length}, {"tokens", tokens}, {"targets", targets}, {"text", text}});
    } else {
      fmt::print("length {:>4}   {}\n", info.length, text);
    }
  }
  if (arguments.has("--json")) {
    Json names = Json::array();
    for (int32_t t = 0; t < task->vocab_size(); ++t) names.push_back(task->token_name(t));
    const Json out = {{"task", task->config().name},
                      {"vocabulary", names},
                      {"chance", task->chance()},
                      {"constant_answer", task->constant_answer(lengths)},
                      {"samples", samples}};
    fmt::print("{}\n", out.dump());
  } else {
    fmt::print("chance {:.4f}, best constant answer {:.4f}, vocabulary {}\n", task->chance(),
               task->constant_answer(lengths), task->vocab_size());
  }
  return kExitOk;
}

int tasks(const Arguments& arguments) {
  Json out = Json::array();
  for (const TaskSummary& t : list_tasks()) {
    if (arguments.has("--json")) {
      out.push_back({{"name", t.name},
                     {"profiles", t.profiles},
                     {"description", t.description},
                     {"parameters", t.parameters}});
      continue;
    }
    std::string parameters;
    for (const auto& p : t.parameters) parameters += (parameters.empty() ? "" : ", ") + p;
    fmt::print("{:<29}{}\n{:<29}profiles {}{}\n", t.name, t.description, "", t.profiles,
               parameters.empty() ? "" : "; parameters " + parameters);
  }
  if (arguments.has("--json")) {
    fmt::print("{}\n", out.dump());
  } else {
    std::string presets;
    for (const std::string& name : list_presets()) presets += ' ' + name;
    fmt::print("published configurations by name:{}\n", presets);
  }
  return kExitOk;
}

int models(const Arguments& arguments) {
  Json out = Json::array();
  for (const std::string& mixer : find_field("model.mixer")->choices) {
    Json keys = Json::array();
    std::string text;
    for (const Field& f : model_fields()) {
      if (read_by_mixer(f, mixer))
        keys.push_back({{"key", f.key},
                        {"value", rule(f)},
                        {"default", Json::parse(to_canonical_json(f.get(default_run())))}});
      if (!f.mixers.empty() && read_by_mixer(f, mixer))
        text += "    " + f.key + "  (" + rule(f) + ", default " +
                to_canonical_json(f.get(default_run())) + ")\n";
    }
    if (arguments.has("--json")) {
      out.push_back({{"mixer", mixer}, {"keys", keys}});
    } else {
      fmt::print("{}\n  {}\n{}", mixer,
                 text.empty() ? "no switches of its own" : "switches of its own:", text);
    }
  }
  if (arguments.has("--json")) {
    fmt::print("{}\n", out.dump());
  } else {
    fmt::print("all\n  switches they share:\n");
    for (const Field& f : model_fields()) {
      if (f.mixers.empty() && f.key != "model.mixer") {
        fmt::print("    {}  ({}, default {})\n", f.key, rule(f),
                   to_canonical_json(f.get(default_run())));
      }
    }
  }
  return kExitOk;
}

int schema(const Arguments& arguments) {
  fmt::print("{}",
             arguments.get("--format", "json") == "md" ? configuration_page() : sweep_schema());
  return kExitOk;
}

int completion(const Arguments& arguments) {
  fmt::print("{}", completion_script(arguments.words[0]));
  return kExitOk;
}

}  // namespace

std::vector<Command> lab_commands() {
  const CommandOption json = json_option();
  std::vector<Command> out;
  out.push_back({"sample",
                 "show samples of a task as a person would write them",
                 "TASK [key=value]...",
                 1,
                 -1,
                 WordKind::kTask,
                 {{"statelab sample parity", "five samples of lengths 3..12"},
                  {"statelab sample modular_arithmetic modulus=7 supervision=all --length 9",
                   "with settings"}},
                 {{"--count", "N", "number of samples, 5 by default"},
                  {"--length", "N|MIN..MAX", "reported length or range, 3..12 by default"},
                  {"--seed", "N", "other samples"},
                  json},
                 sample});
  out.push_back({"tasks",
                 "list the tasks, their profiles and parameters",
                 "",
                 0,
                 0,
                 WordKind::kNone,
                 {{"statelab tasks", "all tasks"}},
                 {json},
                 tasks});
  out.push_back({"models",
                 "list the models and their switches",
                 "",
                 0,
                 0,
                 WordKind::kNone,
                 {{"statelab models", "all mixers"}},
                 {json},
                 models});
  out.push_back({"schema",
                 "print the schema of sweep files, or the reference of their keys",
                 "",
                 0,
                 0,
                 WordKind::kNone,
                 {{"statelab schema > sweep.schema.json", "JSON Schema for an editor"},
                  {"statelab schema --format md", "every key with range, default and meaning"}},
                 {{"--format", "", "json (default) or md", {"json", "md"}}},
                 schema});
  out.push_back({"completion",
                 "print a completion script",
                 "bash|zsh|fish",
                 1,
                 1,
                 WordKind::kShell,
                 {{"eval \"$(statelab completion bash)\"",
                   "complete commands, options, tasks and runs in this shell"}},
                 {},
                 completion});
  return out;
}

}  // namespace statelab

#include "experiments/cli.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "experiments/build_info.h"
#include "experiments/config_error.h"
#include "experiments/runner.h"
#include "experiments/suggestion.h"
#include "tasks/task.h"

namespace statelab {
namespace {

const Command* find(const std::vector<Command>& commands, const std::string& name) {
  const auto it = std::find_if(commands.begin(), commands.end(),
                               [&](const Command& c) { return c.name == name; });
  return it == commands.end() ? nullptr : &*it;
}

bool takes_value(const CommandOption& o) { return !o.value.empty() || !o.choices.empty(); }

void print_overview(const std::vector<Command>& commands) {
  fmt::print(
      "statelab - state-tracking experiments, from a sweep file to a comparison table\n\n"
      "Examples\n"
      "  statelab quickstart                     train three models on parity and compare them\n"
      "  statelab run sweep.yaml                 run what is missing of a sweep, then compare\n"
      "  statelab run sweep.yaml seeds=5 --dry-run   list the runs, compute nothing\n"
      "  statelab compare                        the table again, from the database\n\n"
      "Commands\n");
  for (const Command& c : commands) {
    if (!c.hidden) fmt::print("  {:<16}{}\n", c.name, c.summary);
  }
  fmt::print(
      "\n`statelab COMMAND --help` shows a command's options, `statelab --version` the build.\n"
      "Exit codes: 0 all well, 1 failure, 2 usage or configuration, 3 some runs failed, 4 device "
      "or feature missing,\n"
      "130 and 143 interrupted.\n");
}

void print_help(const Command& c) {
  fmt::print("statelab {} - {}\n", c.name, c.summary);
  if (!c.examples.empty()) fmt::print("\nExamples\n");
  for (const auto& [line, what] : c.examples) fmt::print("  {}\n      {}\n", line, what);
  fmt::print("\nUsage\n  statelab {}{}{}\n", c.name, c.usage.empty() ? "" : " " + c.usage,
             c.options.empty() ? "" : " [options]");
  fmt::print("\nOptions\n");
  for (const CommandOption& o : c.options) {
    std::string left = o.name + (o.value.empty() ? "" : " " + o.value);
    if (!o.choices.empty()) {
      left = o.name + ' ';
      for (size_t i = 0; i < o.choices.size(); ++i) left += (i ? "|" : "") + o.choices[i];
    }
    // a long option has the line to itself
    if (left.size() > 33) left += "\n" + std::string(36, ' ');
    fmt::print("  {:<34}{}\n", left, o.help);
  }
  fmt::print("  {:<34}{}\n", "-h, --help", "this text");
}

void print_version() {
  const BuildInfo& b = build_info();
  fmt::print("statelab {} (commit {}{})\n", b.version,
             b.commit == "unknown" ? b.commit : b.commit.substr(0, 12),
             b.dirty ? ", with changes" : "");
  fmt::print("build     {} {} {}\nbuild id  {}\n", b.compiler, b.build_type, b.flags, b.id);
  for (const auto& [name, version] : library_versions()) fmt::print("{:<14}{}\n", name, version);
}

std::vector<std::string> names_of(const std::vector<Command>& commands) {
  std::vector<std::string> names;
  for (const Command& c : commands) {
    if (!c.hidden) names.push_back(c.name);
  }
  return names;
}

/// Candidates for the last of `words`, one per line. Words are those after the program's name.
int complete(const std::vector<Command>& commands, const std::vector<std::string>& words) {
  const std::string last = words.empty() ? "" : words.back();
  const Command* command = words.size() > 1 ? find(commands, words[0]) : nullptr;
  std::vector<std::string> candidates;
  if (words.size() <= 1) {
    candidates = names_of(commands);
    candidates.insert(candidates.end(), {"help", "--help", "--version"});
  } else if (words[0] == "help") {
    candidates = names_of(commands);
  } else if (command) {
    const std::string& before = words[words.size() - 2];
    const auto option = std::find_if(command->options.begin(), command->options.end(),
                                     [&](const auto& o) { return o.name == before; });
    std::string database = "statelab.db";
    for (size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[i] == "--db") database = words[i + 1];
    }
    if (option != command->options.end() && takes_value(*option)) {
      candidates = option->choices;
      if (option->name == "--device") candidates = {"auto", "cpu", "cuda"};
    } else if (!last.empty() && last[0] == '-') {
      for (const CommandOption& o : command->options) candidates.push_back(o.name);
      candidates.push_back("--help");
    } else {
      candidates = command->words == WordKind::kCommand ? names_of(commands)
                                                        : complete_word(command->words, database);
    }
  }
  for (const std::string& c : candidates) {
    if (c.rfind(last, 0) == 0) fmt::print("{}\n", c);
  }
  return kExitOk;
}

/// Reads the words behind the command's name. Throws UsageError.
Arguments parse(const Command& command, const std::vector<std::string>& words, bool& help) {
  CLI::App app;
  app.set_help_flag("-h,--help");
  app.allow_extras();
  std::map<std::string, std::string> values;
  std::map<std::string, bool> flags;
  for (const CommandOption& o : command.options) {
    if (!takes_value(o)) {
      app.add_flag(o.name, flags[o.name]);
    } else {
      auto* option = app.add_option(o.name, values[o.name]);
      if (!o.choices.empty()) option->check(CLI::IsMember(o.choices));
    }
  }
  Arguments out;
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    help = true;
    return out;
  } catch (const CLI::ParseError& e) {
    throw UsageError(fmt::format("{}: {}; `statelab {} --help` shows the options", command.name,
                                 e.what(), command.name));
  }
  bool only_words = false;
  for (const std::string& word : app.remaining()) {
    if (word == "--" && !only_words) {
      only_words = true;
    } else if (!only_words && word.size() > 1 && word[0] == '-' && word != "-") {
      std::vector<std::string> known;
      for (const CommandOption& o : command.options) known.push_back(o.name);
      const std::string name = word.substr(0, word.find('='));
      throw UsageError(
          fmt::format("{}: unknown option {}{}; `statelab {} --help` shows the options",
                      command.name, name, did_you_mean(name, known), command.name));
    } else {
      out.words.push_back(word);
    }
  }
  for (const CommandOption& o : command.options) {
    if (app.count(o.name) == 0) continue;
    out.options[o.name] = values.count(o.name) ? values[o.name] : "true";
  }
  const int count = static_cast<int>(out.words.size());
  if (count < command.min_words || (command.max_words >= 0 && count > command.max_words)) {
    const std::string expected = command.usage.empty() ? "no further words" : command.usage;
    throw UsageError(
        fmt::format("{}: expects {}, got {} word{}; `statelab {} --help` shows examples",
                    command.name, expected, count, count == 1 ? "" : "s", command.name));
  }
  return out;
}

void complain(const std::string& message) { fmt::print(stderr, "statelab: {}\n", message); }

}  // namespace

std::string Arguments::get(const std::string& name, const std::string& fallback) const {
  const auto it = options.find(name);
  return it == options.end() ? fallback : it->second;
}

int64_t Arguments::integer(const std::string& name, int64_t fallback, int64_t min,
                           int64_t max) const {
  if (!has(name)) return fallback;
  const std::string text = get(name);
  size_t used = 0;
  int64_t value = 0;
  try {
    value = std::stoll(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || value < min || value > max) {
    throw UsageError(
        fmt::format("{}: must be an integer in [{}, {}], is {}", name, min, max, text));
  }
  return value;
}

int run_command_line(const std::vector<Command>& commands, int argc, const char* const* argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  try {
    if (words.empty() || words[0] == "-h" || words[0] == "--help" ||
        (words[0] == "help" && words.size() == 1)) {
      print_overview(commands);
      return kExitOk;
    }
    if (words[0] == "--version") {
      print_version();
      return kExitOk;
    }
    if (words[0] == "__complete") return complete(commands, {words.begin() + 1, words.end()});
    const bool asks_help = words[0] == "help";
    if (asks_help) words.erase(words.begin());
    const Command* command = find(commands, words[0]);
    if (!command) {
      throw UsageError(fmt::format("unknown command {}{}; `statelab --help` lists all", words[0],
                                   did_you_mean(words[0], names_of(commands))));
    }
    bool help = asks_help;
    Arguments arguments;
    if (!help) arguments = parse(*command, {words.begin() + 1, words.end()}, help);
    if (help) {
      print_help(*command);
      return kExitOk;
    }
    return command->run(arguments);
  } catch (const ConfigError& e) {
    fmt::print(stderr, "{}\nstatelab: {} problem{} in the configuration, nothing was started\n",
               e.what(), e.problems().size(), e.problems().size() == 1 ? "" : "s");
    return kExitUsage;
  } catch (const UsageError& e) {
    complain(e.what());
    return kExitUsage;
  } catch (const TaskError& e) {
    complain(fmt::format("task {}: {}{}", e.task, e.parameter.empty() ? "" : e.parameter + ": ",
                         e.what()));
    return kExitUsage;
  } catch (const MissingFeature& e) {
    complain(e.what());
    return kExitMissing;
  } catch (const ResumeRefused& e) {
    complain(e.what());
    return kExitMissing;
  } catch (const std::exception& e) {
    complain(e.what());
    return kExitFailure;
  }
}

std::string completion_script(const std::string& shell) {
  if (shell == "bash") {
    return "# bash: eval \"$(statelab completion bash)\"\n"
           "_statelab() {\n"
           "  local IFS=$'\\n'\n"
           "  COMPREPLY=($(statelab __complete \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null))\n"
           "}\n"
           "complete -o default -F _statelab statelab\n";
  }
  if (shell == "zsh") {
    return "# zsh: eval \"$(statelab completion zsh)\"\n"
           "_statelab() {\n"
           "  local -a found\n"
           "  found=(\"${(@f)$(statelab __complete \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\")\n"
           "  if [[ -n $found[1] ]]; then compadd -a found; else _files; fi\n"
           "}\n"
           "compdef _statelab statelab\n";
  }
  if (shell == "fish") {
    return "# fish: statelab completion fish | source\n"
           "complete -c statelab -a '(statelab __complete (commandline -opc)[2..-1] (commandline "
           "-ct) 2>/dev/null)'\n";
  }
  throw UsageError("completion: must be bash, zsh or fish, is " + shell);
}

bool colour_on_stdout() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value && *value;
  };
  if (set("NO_COLOR")) return false;
  const char* force = std::getenv("CLICOLOR_FORCE");
  if (force && *force && std::string(force) != "0") return true;
  const char* term = std::getenv("TERM");
  return isatty(STDOUT_FILENO) && term && std::string(term) != "dumb";
}

}  // namespace statelab

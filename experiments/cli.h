// The command line as a table: one row per command. Parsing, help, suggestions and completion follow from it.
#pragma once

#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace statelab {

/// What the program ends with.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,  ///< internal or I/O failure, or a check that did not pass
  kExitUsage = 2,    ///< wrong command line or configuration; nothing was started
  kExitRunsFailed = 3,
  kExitMissing = 4,  ///< a device or feature that was asked for is not there
  kExitInterrupted = 130,
  kExitTerminated = 143,
};

/// A wrong command line. Ends with kExitUsage.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A device or feature that was asked for and is not there. Ends with kExitMissing.
class MissingFeature : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct CommandOption {
  std::string name;   ///< "--db"
  std::string value;  ///< what stands in its place in the help, "FILE"; "" = a switch
  std::string help;
  std::vector<std::string> choices = {};  ///< allowed values; empty = any
};

struct Arguments {
  std::vector<std::string> words;  ///< positional, in order
  std::map<std::string, std::string> options;

  bool has(const std::string& name) const { return options.count(name) > 0; }
  std::string get(const std::string& name, const std::string& fallback = "") const;
  /// Throws UsageError unless the value is an integer in [min, max].
  int64_t integer(const std::string& name, int64_t fallback, int64_t min, int64_t max) const;
};

/// What a positional word of a command is, for completion.
enum class WordKind {
  kNone,
  kConfig,
  kRun,
  kTask,
  kShell,
  kCommand,
  kDatabase,
  kVerification,
  kBench
};

struct Command {
  std::string name;
  std::string summary;  ///< one line
  std::string usage;    ///< positional words as the help shows them: "CONFIG... [key=value]..."
  int min_words = 0, max_words = 0;  ///< max -1 = any number
  WordKind words = WordKind::kNone;
  std::vector<std::pair<std::string, std::string>> examples;  ///< command line, what it does
  std::vector<CommandOption> options;
  std::function<int(const Arguments&)> run;
  bool hidden = false;
};

/// Candidates for a positional word of this kind, for completion. Never throws.
std::vector<std::string> complete_word(WordKind kind, const std::string& database);

/// Parses, runs and reports; returns the exit code. Errors become one message on standard error.
int run_command_line(const std::vector<Command>& commands, int argc, const char* const* argv);

/// Script that makes the shell ask `statelab __complete`. Shell: bash | zsh | fish.
std::string completion_script(const std::string& shell);

/// Colour only on a terminal that wants it (NO_COLOR, TERM, CLICOLOR_FORCE).
bool colour_on_stdout();

}  // namespace statelab

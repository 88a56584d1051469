// The commands of `statelab`, one file per group. Each file adds its rows to the table that main() runs.
#pragma once

#include <string>
#include <vector>

#include "experiments/cli.h"
#include "reports/scores.h"
#include "reports/table.h"
#include "store/run_store.h"

namespace statelab {

std::vector<Command> run_commands();          ///< run, quickstart
std::vector<Command> result_commands();       ///< status, ls, show, diff, compare, report
std::vector<Command> store_commands();        ///< eval, export-results, merge, rm
std::vector<Command> interchange_commands();  ///< export, import
std::vector<Command> inspect_commands();      ///< inspect
std::vector<Command> lab_commands();          ///< sample, tasks, models, schema, completion
std::vector<Command> bench_commands();        ///< bench
std::vector<Command> verify_commands();       ///< verify
std::vector<Command> doctor_commands();       ///< doctor

/// `bench column`, a part of bench_commands().
int bench_column_command(const Arguments& arguments);
std::vector<Command> confirm_commands();  ///< confirm

// ---- what several groups share

/// The option that says where results are; statelab.db in the current folder when it is left out.
CommandOption database_option();
CommandOption json_option();
CommandOption threads_option();
std::string database_path(const Arguments& arguments);
/// Throws UsageError, with what to do, when there is no database yet.
std::string existing_database(const Arguments& arguments);
/// The same for commands that only read: a results file (store/results_file.h) becomes a database that lives as long as
/// this process. Errors: UsageError, StoreError.
std::string readable_database(const Arguments& arguments);
/// Sweep files and key=value words, told apart. Throws UsageError, with the command's name, when there is no file.
struct SweepWords {
  std::vector<std::string> files, overrides;
};
SweepWords sweep_words(const std::string& command, const std::vector<std::string>& words);
/// --threads, else all of the machine's.
int thread_count(const Arguments& arguments);
/// "a,b" -> {"a", "b"}; empty parts are refused with the option's name.
std::vector<std::string> comma_list(const std::string& option, const std::string& text);
/// "40,80,40..256". Throws UsageError.
std::vector<ScoredLength> lengths_of(const std::string& option, const std::string& text);

/// The run that a word names. Throws UsageError, with the candidates, unless it is one.
std::string found_run(Database& database, const std::string& text);
/// Which of a run's weights: last or best, by default those that its scores belong to.
CommandOption checkpoint_option();
struct ChosenCheckpoint {
  std::string kind;
  CheckpointRecord record;
};
/// Throws UsageError when the run has none yet.
ChosenCheckpoint chosen_checkpoint(RunStore& store, const std::string& run_id,
                                   const Arguments& arguments);

/// Formats that tables are printed in: text, md, tex, csv, json.
CommandOption format_option();
/// Prints on standard output; --json is short for --format json. Several tables make one JSON array.
void print_tables(const std::vector<Table>& tables, const Arguments& arguments);
/// Columns of the terminal, 0 when standard output is none.
int terminal_columns();

/// The command line as it was given, for the records.
void remember_command_line(int argc, const char* const* argv);
const std::string& command_line();

}  // namespace statelab

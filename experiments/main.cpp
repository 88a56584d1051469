// The command `statelab`: parse, call the library, print.
#include "experiments/cli.h"
#include "experiments/commands.h"

int main(int argc, char** argv) {
  statelab::remember_command_line(argc, argv);
  std::vector<statelab::Command> commands;
  for (auto&& group :
       {statelab::run_commands(), statelab::result_commands(), statelab::store_commands(),
        statelab::interchange_commands(), statelab::inspect_commands(), statelab::lab_commands(),
        statelab::verify_commands(), statelab::bench_commands(), statelab::confirm_commands(),
        statelab::doctor_commands()}) {
    commands.insert(commands.end(), group.begin(), group.end());
  }
  return statelab::run_command_line(commands, argc, argv);
}

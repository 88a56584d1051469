// The program as a user calls it: exit codes, what goes to which stream, JSON that parses.
#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>

#include "tests/experiments/command_fixture.h"

namespace statelab::testing {
namespace {

TEST_F(Command, BareCallPrintsShortHelpAndSucceeds) {
  const Outcome o = statelab("");
  EXPECT_EQ(o.code, 0);
  EXPECT_NE(o.out.find("Examples"), std::string::npos);
  EXPECT_LT(o.out.find("Examples"), o.out.find("Commands"));
  EXPECT_EQ(o.err, "");
  EXPECT_EQ(statelab("--help").out, o.out);
}

TEST_F(Command, UnknownCommandIsAUsageErrorWithASuggestion) {
  const Outcome o = statelab("rnu");
  EXPECT_EQ(o.code, 2);
  EXPECT_EQ(o.out, "");
  EXPECT_NE(o.err.find("unknown command rnu, did you mean run?"), std::string::npos) << o.err;
}

TEST_F(Command, UnknownOptionIsAUsageErrorWithASuggestion) {
  const Outcome o = statelab("ls --swep x");
  EXPECT_EQ(o.code, 2);
  EXPECT_NE(o.err.find("unknown option --swep, did you mean --sweep?"), std::string::npos) << o.err;
  EXPECT_EQ(statelab("show").code, 2);
  EXPECT_EQ(statelab("run --threads many x.yaml").code, 2);
  EXPECT_EQ(statelab("sample parity --count 0").code, 2);
}

TEST_F(Command, EveryCommandHasHelpThatLeadsWithExamples) {
  const Outcome overview = statelab("");
  std::istringstream in(overview.out.substr(overview.out.find("Commands\n") + 9));
  int count = 0;
  for (std::string line; std::getline(in, line) && line.rfind("  ", 0) == 0;) {
    const std::string name = line.substr(2, line.find(' ', 2) - 2);
    const Outcome o = statelab(name + " --help");
    EXPECT_EQ(o.code, 0) << name;
    EXPECT_NE(o.out.find("Examples\n  "), std::string::npos) << name;
    EXPECT_LT(o.out.find("Examples"), o.out.find("Options")) << name;
    EXPECT_EQ(statelab("help " + name).out, o.out) << name;
    ++count;
  }
  EXPECT_GE(count, 15);
}

TEST_F(Command, VersionNamesCommitBuildAndLibraries) {
  const Outcome o = statelab("--version");
  EXPECT_EQ(o.code, 0);
  for (const char* part : {"statelab 0.1.0", "commit ", "build ", "sqlite", "cuda"})
    EXPECT_NE(o.out.find(part), std::string::npos) << part;
}

TEST_F(Command, MalformedConfigEndsWithTwoAndCreatesNoDatabase) {
  write("bad.yaml", "base:\n  model:\n    d_stat: 4\n");
  for (const char* arguments :
       {"run bad.yaml", "run bad.yaml --db x.db", "run bad.yaml --dry-run"}) {
    const Outcome o = statelab(arguments);
    EXPECT_EQ(o.code, 2);
    EXPECT_EQ(o.out, "");
    EXPECT_NE(o.err.find("bad.yaml:3:5: model.d_stat: unknown key, did you mean d_state?"),
              std::string::npos)
        << o.err;
  }
  EXPECT_FALSE(fs::exists(folder_ / "statelab.db"));
  EXPECT_FALSE(fs::exists(folder_ / "x.db"));
}

TEST_F(Command, AMissingDeviceEndsWithFourInOneLine) {
  write("tiny.yaml", kTiny);
  const Outcome o = statelab("run tiny.yaml --device cuda:7");
  EXPECT_EQ(o.code, 4);
  EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  EXPECT_FALSE(fs::exists(folder_ / "statelab.db"));
  EXPECT_EQ(statelab("run tiny.yaml --device gpu").code, 2);
}

TEST_F(Command, BenchSaysWhatItCannotMeasure) {
  const Outcome unknown = statelab("bench op");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.err.find("must be train, eval, ops or column, is op"), std::string::npos)
      << unknown.err;
  for (const char* arguments :
       {"bench", "bench ops train", "bench ops --precision fp64", "bench ops --device gpu",
        "bench ops --threads 0", "bench ops --format xml", "bench ops --seconds 3",
        "bench train --device cpu --precision tf32", "bench train --max-members 2", "bench column",
        "bench column x.yaml --precision tf32", "bench column x.yaml --device cpu",
        "bench eval --device cpu --precision tf32", "bench eval --seconds 3"}) {
    const Outcome o = statelab(arguments);
    EXPECT_EQ(o.code, 2) << arguments;
    EXPECT_EQ(o.out, "") << arguments;
  }
  for (const char* arguments : {"bench ops", "bench ops --device cpu --json",
                                "bench ops --device cuda", "bench ops --device cuda:0"}) {
    const Outcome o = statelab(arguments, "CUDA_VISIBLE_DEVICES=-1");
    EXPECT_EQ(o.code, 4) << arguments;
    EXPECT_EQ(o.out, "") << arguments;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << arguments << o.err;
  }
  EXPECT_EQ(statelab("__complete bench ''").out, "train\neval\nops\ncolumn\n");
}

TEST_F(Command, DryRunListsRunsAndWritesNothing) {
  write("tiny.yaml", kTiny);
  const Outcome o = statelab("run tiny.yaml --dry-run --json seeds=3");
  ASSERT_EQ(o.code, 0) << o.err;
  const Json json = Json::parse(o.out);
  EXPECT_EQ(json["rows"].size(), 6u);
  EXPECT_EQ(json["rows"][0]["state"], "new");
  EXPECT_FALSE(fs::exists(folder_ / "statelab.db"));
}

TEST_F(Command, RunTrainsComparesAndASecondCallComputesNothing) {
  write("tiny.yaml", kTiny);
  const Outcome first = statelab("run tiny.yaml --threads 1 --json");
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_TRUE(Json::accept(first.out)) << first.out;
  const Outcome dry = statelab("run tiny.yaml --dry-run --json");
  for (const Json& row : Json::parse(dry.out)["rows"]) EXPECT_EQ(row["state"], "done");
  const Outcome second = statelab("run tiny.yaml --threads 1 --json");
  EXPECT_EQ(second.code, 0);
  EXPECT_EQ(second.out, first.out);
  EXPECT_EQ(second.err.find("step"), std::string::npos) << second.err;

  // Reading commands, each as JSON on standard output and nothing beside it.
  const Json runs = Json::parse(statelab("ls --json --full-ids").out)["rows"];
  ASSERT_EQ(runs.size(), 4u);
  const std::string a = runs[0]["run"], b = runs[3]["run"];
  for (const std::string& command : {std::string("status"), "show " + a, "diff " + a + ' ' + b,
                                     std::string("compare"), std::string("report")}) {
    const Outcome o = statelab(command + " --json");
    EXPECT_EQ(o.code, 0) << command << ": " << o.err;
    EXPECT_TRUE(Json::accept(o.out)) << command << ": " << o.out;
    EXPECT_EQ(o.err, "") << command;
    EXPECT_EQ(statelab(command, "NO_COLOR=1 CLICOLOR_FORCE=1").out.find('\033'), std::string::npos)
        << command;
  }
  EXPECT_EQ(statelab("show 0000zzzz").code, 2);
  EXPECT_EQ(statelab("ls --where nonsense").code, 2);

  const Outcome eval = statelab("eval " + a + " --lengths 32,8..16 --samples 16 --json");
  ASSERT_EQ(eval.code, 0) << eval.err;
  EXPECT_EQ(Json::parse(eval.out)["rows"].size(), 2u);
  EXPECT_EQ(statelab("eval " + a + " --lengths 1").code, 2);

  EXPECT_EQ(statelab("export " + a + " --output weights.safetensors").code, 0);
  EXPECT_GT(fs::file_size(folder_ / "weights.safetensors"), 1000u);

  EXPECT_EQ(statelab("merge other.db statelab.db").code, 0);
  EXPECT_EQ(Json::parse(statelab("ls --json --db other.db").out)["rows"].size(), 4u);

  EXPECT_EQ(statelab("rm " + a).code, 2) << "removed without asking";
  EXPECT_EQ(statelab("rm " + a + " --yes").code, 0);
  EXPECT_EQ(Json::parse(statelab("ls --json").out)["rows"].size(), 3u);
}

TEST_F(Command, SignalsAndTimeLimitLeaveAResumableStateAndTheirExitCodes) {
  write("long.yaml", std::string(kTiny) + "exclude: [ { model.mixer: mamba2 } ]\n");
  const std::string run =
      "run long.yaml --threads 1 'train.curriculum=[{ steps: 100000000, length: [3, 8] }]'";
  const std::string program = "'" STATELAB_PROGRAM "' ";
  const auto signalled = [&](const std::string& name) {
    const int status =
        std::system(("cd '" + folder_.string() + "' && timeout --preserve-status -s " + name +
                     " 1 " + program + run + " > .out 2> .err < /dev/null")
                        .c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  EXPECT_EQ(signalled("INT"), 130) << text_of(folder_ / ".err");
  EXPECT_EQ(signalled("TERM"), 143) << text_of(folder_ / ".err");
  const Outcome limited = statelab(run + " --time-limit 1s");
  EXPECT_EQ(limited.code, 0) << limited.err;
  EXPECT_NE(limited.err.find("2 unfinished: run the same command again to go on"),
            std::string::npos)
      << limited.err;
  const Json rows = Json::parse(statelab(run + " --dry-run --json").out)["rows"];
  ASSERT_EQ(rows.size(), 2u);
  for (const Json& row : rows) EXPECT_EQ(row["state"], "partial");
  EXPECT_EQ(statelab(run + " --time-limit soon").code, 2);
}

TEST_F(Command, ReadingWithoutADatabaseSaysWhatToDo) {
  for (const char* command : {"ls", "status", "compare", "report", "show abcd1234"}) {
    const Outcome o = statelab(command);
    EXPECT_EQ(o.code, 2) << command;
    EXPECT_NE(o.err.find("no database statelab.db yet"), std::string::npos) << o.err;
  }
  EXPECT_FALSE(fs::exists(folder_ / "statelab.db"));
}

TEST_F(Command, AFileThatIsNoDatabaseIsAFailure) {
  write("statelab.db",
        "this is not a database, but long enough to be read as one by a careless program\n");
  const Outcome o = statelab("ls");
  EXPECT_EQ(o.code, 1);
  EXPECT_NE(o.err.find("statelab.db"), std::string::npos) << o.err;
}

TEST_F(Command, SampleShowsTasksAsTextAndJson) {
  const Outcome text = statelab("sample parity --count 3");
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("chance 0.5"), std::string::npos) << text.out;
  const Json json =
      Json::parse(statelab("sample modular_arithmetic modulus=7 --length 9 --count 4 --json").out);
  ASSERT_EQ(json["samples"].size(), 4u);
  EXPECT_EQ(json["samples"][0]["length"], 9);
  EXPECT_EQ(statelab("sample parity --count 3").out, text.out);
  const Outcome wrong = statelab("sample partiy");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.err.find("did you mean parity"), std::string::npos) << wrong.err;
  EXPECT_EQ(statelab("sample parity --length 1").code, 2);
  EXPECT_EQ(statelab("sample parity modulus=x").code, 2);
}

TEST_F(Command, ListsAndSchemaAreJsonThatParses) {
  EXPECT_GE(Json::parse(statelab("tasks --json").out).size(), 3u);
  EXPECT_EQ(Json::parse(statelab("models --json").out).size(), 5u);
  EXPECT_TRUE(Json::parse(statelab("schema").out).contains("$defs"));
  EXPECT_NE(statelab("schema --format md").out.find("| `model.d_state` |"), std::string::npos);
  EXPECT_EQ(statelab("schema --format pdf").code, 2);
}

TEST_F(Command, DoctorReportsOnThisMachine) {
  const Outcome o = statelab("doctor --json");
  const Json json = Json::parse(o.out);
  bool problem = false;
  std::string subjects;
  for (const Json& f : json) {
    problem = problem || f["state"] == "problem";
    subjects += f["subject"].get<std::string>() + ' ';
    if (f["state"] == "problem") {
      EXPECT_NE(f["remedy"], "") << f;
    }
  }
  EXPECT_EQ(o.code, problem ? 1 : 0);
  for (const char* subject :
       {"build", "processor", "memory", "libraries", "database", "disk", "sqlite", "nvcc"}) {
    EXPECT_NE(subjects.find(subject), std::string::npos) << subject;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2)
      << "doctor left a file behind";
}

TEST_F(Command, CompletionOffersCommandsOptionsAndTasks) {
  EXPECT_EQ(statelab("__complete sta").out, "status\n");
  EXPECT_EQ(statelab("__complete ls --swe").out, "--sweep\n");
  EXPECT_EQ(statelab("__complete sample pari").out.rfind("parity\n", 0), 0u);
  EXPECT_EQ(statelab("__complete ls --status fin").out, "finished\n");
  EXPECT_EQ(statelab("__complete run x.yaml train.optimizer.l").out, "train.optimizer.lr=\n");
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome o = statelab(std::string("completion ") + shell);
    EXPECT_EQ(o.code, 0);
    EXPECT_NE(o.out.find("statelab __complete"), std::string::npos) << shell;
  }
  EXPECT_EQ(statelab("completion tcsh").code, 2);
  write("script.sh", statelab("completion bash").out);
  EXPECT_EQ(std::system(("bash -n '" + (folder_ / "script.sh").string() + '\'').c_str()), 0);
}

}  // namespace
}  // namespace statelab::testing

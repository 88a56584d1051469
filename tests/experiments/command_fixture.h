// The program as a user calls it, in a folder of the test's own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace command_test {

namespace fs = std::filesystem;

struct Outcome {
  int code = -1;
  std::string out, err;
};

class Command : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("statelab-command-" +
               std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) + '-' +
               std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string text_of(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }

  /// Runs `statelab ARGUMENTS` in the test's folder, which a shell reads.
  Outcome statelab(const std::string& arguments, const std::string& environment = "") {
    const fs::path out = folder_ / ".out", err = folder_ / ".err";
    const std::string line = "cd '" + folder_.string() + "' && " + environment +
                             " '" STATELAB_PROGRAM "' " + arguments + " > '" + out.string() +
                             "' 2> '" + err.string() + "' < /dev/null";
    const int status = std::system(line.c_str());
    Outcome o{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text_of(out),
              text_of(err)};
    return o;
  }

  fs::path folder_;
};

}  // namespace command_test

// Runs `statelab` as a user would, in a folder that lives as long as the test.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace statelab::testing {

namespace fs = std::filesystem;
using Json = nlohmann::json;

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

inline constexpr const char* kTiny = R"(name: tiny
base:
  task: { name: parity }
  model: { d_model: 8, headdim: 8, d_state: 4, chunk_size: 8 }
  train: { batch: 4, curriculum: [ { steps: 6, length: [3, 8] } ], optimizer.lr: 0.001 }
  eval: { lengths: [8, 16], samples: 32, every: 3 }
parameters: { model.mixer: { values: [mamba3, mamba2] } }
seeds: 2
)";

}  // namespace statelab::testing

// Sweep files in a folder that lives as long as the test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "experiments/sweep.h"

namespace statelab::testing {

class ConfigFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              ("statelab-" + std::string(info->test_suite_name()) + '-' + info->name() + '-' +
               std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    const auto path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path.string();
  }

  std::filesystem::path folder_;
};

/// The problems of a text as lines, "" when it is accepted.
inline std::string problems_of(const std::string& text,
                               const std::vector<std::string>& overrides = {}) {
  try {
    parse_sweep(text, "s.yaml", overrides);
    return "";
  } catch (const ConfigError& e) {
    return e.what();
  }
}

}  // namespace statelab::testing

// A small database in a folder of its own, filled through the store's interface.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "store/run_store.h"

namespace statelab {

/// Scores are numbers of right answers of kSampleAnswers sequences with one supervised position
/// each.
inline constexpr int64_t kSampleAnswers = 1000;

struct SampleRun {
  std::string mixer = "mamba3";
  std::string rotation = "data_dependent";
  double lr = 0.001;
  int seed = 0;
  std::string status = "finished";           ///< finished | diverged | failed | running | pending
  std::map<int, int64_t> test = {};          ///< exact length -> right answers
  std::map<int, int64_t> test_from_40 = {};  ///< range 40..length -> right answers
  std::vector<std::pair<int64_t, std::map<int, int64_t>>> validations =
      {};  ///< step -> (length -> right answers)
  std::string task = "parity";
  std::string profile = "xlstm";
  std::string supervision = "last";
  std::string curriculum = R"([{"length":[3,40],"steps":1000}])";
  double chance = 0.5;
  double constant_answer = 0.5;
  double wall_seconds = 12;
};

class SampleLab {
 public:
  SampleLab();
  ~SampleLab();
  SampleLab(const SampleLab&) = delete;
  SampleLab& operator=(const SampleLab&) = delete;

  /// Adds the runs to the sweep and gives them the results that they ask for. Returns their ids.
  std::vector<std::string> add(const std::string& sweep, const std::vector<SampleRun>& runs);

  RunStore& store() { return *store_; }
  Database& database() { return store_->database(); }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
  std::optional<RunStore> store_ = {};
  int64_t execution_ = 0;
};

/// The configuration of a sample run as canonical JSON; without its seed where `group` is set.
std::string sample_config(const SampleRun& run, bool group = false);

}  // namespace statelab

// Exported files against a plain transcription of the specification (reference_model.py): its logits are pinned in
// tests/golden/interchange, and computed anew where Python has PyTorch or numpy.
//
// To pin other files: run this test with STATELAB_WRITE_GOLDEN=1, then `reference_model.py write tests/golden/interchange`.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "models/cohort.h"
#include "tests/models/interchange/fixtures.h"

namespace statelab::interchange {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr double kTolerance = 1e-4;
const std::string kFolder = STATELAB_GOLDEN_DIR "/interchange/";

class InterchangeLogits : public ::testing::TestWithParam<Fixture> {};

MemberState state_of(const Fixture& f, const SafetensorsFile& file) {
  MemberState state;
  state.weights = from_interchange(f.config, f.layout, file.tensors, file.metadata);
  return state;
}

/// (sequences, length, padded vocabulary)
std::vector<std::vector<std::vector<float>>> computed_logits(const Fixture& f,
                                                             const MemberState& state) {
  std::vector<std::vector<std::vector<float>>> out;
  const auto width = static_cast<size_t>(f.config.padded_vocab());
  for (const auto& tokens : tokens_of(f)) {
    const std::vector<float> flat = logits(f.config, state, tokens);
    out.emplace_back();
    for (size_t at = 0; at < flat.size(); at += width)
      out.back().emplace_back(flat.begin() + static_cast<ptrdiff_t>(at),
                              flat.begin() + static_cast<ptrdiff_t>(at + width));
  }
  return out;
}

TEST_P(InterchangeLogits, OfTheCommittedFileAreTheTranscriptions) {
  const Fixture& f = GetParam();
  if (std::getenv("STATELAB_WRITE_GOLDEN") != nullptr) {
    fs::create_directories(kFolder);
    std::ofstream(kFolder + f.name + ".safetensors", std::ios::binary) << file_of(f, "golden");
    std::ofstream(kFolder + f.name + ".json") << Json{{"tokens", tokens_of(f)}}.dump();
    GTEST_SKIP() << "written; now reference_model.py write " << kFolder;
  }
  const std::string bytes = bytes_of(kFolder + f.name + ".safetensors"),
                    text = bytes_of(kFolder + f.name + ".json");
  ASSERT_FALSE(bytes.empty()) << kFolder + f.name + ".safetensors is missing";
  ASSERT_FALSE(text.empty()) << kFolder + f.name + ".json is missing";
  const Json golden = Json::parse(text);
  ASSERT_EQ(golden["tokens"].get<std::vector<std::vector<int32_t>>>(), tokens_of(f));
  const auto computed = computed_logits(f, state_of(f, read_safetensors(bytes)));
  ASSERT_EQ(golden["logits"].size(), computed.size());
  double worst = 0, largest = 0;
  for (size_t s = 0; s < computed.size(); ++s) {
    ASSERT_EQ(golden["logits"][s].size(), computed[s].size());
    for (size_t t = 0; t < computed[s].size(); ++t) {
      const auto expected = golden["logits"][s][t].get<std::vector<double>>();
      ASSERT_EQ(expected.size(), computed[s][t].size());
      for (size_t v = 0; v < expected.size(); ++v) {
        ASSERT_TRUE(std::isfinite(computed[s][t][v]));
        worst = std::max(worst, std::abs(expected[v] - computed[s][t][v]));
        largest = std::max(largest, std::abs(expected[v]));
      }
    }
  }
  EXPECT_TRUE(worst <= kTolerance) << worst;
  EXPECT_GT(largest, 0.1) << "logits that small say nothing";
}

TEST_P(InterchangeLogits, CommittedFilesHoldWhatExportWritesToday) {
  const Fixture& f = GetParam();
  const SafetensorsFile pinned = read_safetensors(bytes_of(kFolder + f.name + ".safetensors")),
                        now = read_safetensors(file_of(f, "golden"));
  ASSERT_EQ(pinned.tensors.size(), now.tensors.size());
  for (size_t i = 0; i < now.tensors.size(); ++i) {
    EXPECT_EQ(pinned.tensors[i].name, now.tensors[i].name);
    ASSERT_EQ(pinned.tensors[i].shape, now.tensors[i].shape) << now.tensors[i].name;
    for (size_t e = 0; e < now.tensors[i].data.size();
         ++e)  // log and exp may differ between machines in the last bit
      ASSERT_NEAR(pinned.tensors[i].data[e], now.tensors[i].data[e], 1e-6) << now.tensors[i].name;
  }
}

std::string case_name(const ::testing::TestParamInfo<Fixture>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Fixtures, InterchangeLogits, ::testing::ValuesIn(fixtures()), case_name);

int shell(const std::string& line, std::string* output = nullptr) {
  FILE* pipe = popen((line + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (const size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) {
    if (output != nullptr) output->append(buffer, n);
  }
  const int status = pclose(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(InterchangePython, APlainTranscriptionComputesTheSameLogitsFromFilesWrittenNow) {
  std::string python;
  for (const char* module : {"torch", "numpy"}) {
    for (const char* program : {"python3", "/usr/bin/python3"}) {
      if (python.empty() && shell(std::string(program) + " -c 'import " + module + "'") == 0)
        python = program;
    }
  }
  if (python.empty()) GTEST_SKIP() << "python3 has neither torch nor numpy";
  const fs::path folder =
      fs::temp_directory_path() / ("statelab-interchange-" + std::to_string(getpid()));
  fs::create_directories(folder);
  for (const Fixture& f : fixtures()) {
    const std::string bytes = file_of(f, "other weights");
    std::ofstream(folder / (f.name + ".safetensors"), std::ios::binary) << bytes;
    std::ofstream(folder / (f.name + ".json"))
        << Json{{"tokens", tokens_of(f)},
                {"logits", computed_logits(f, state_of(f, read_safetensors(bytes)))}}
               .dump();
  }
  const std::string script =
      python + " " STATELAB_SOURCE_DIR "/tests/models/interchange/reference_model.py check '" +
      folder.string() + "'";
  std::string output;
  EXPECT_EQ(shell(script, &output), 0) << output;
  EXPECT_NE(output.find(std::to_string(fixtures().size()) + " files"), std::string::npos) << output;

  // It can tell: one changed number in one file is found.
  Json wrong = Json::parse(bytes_of(folder / "mamba3.json"));
  wrong["logits"][0][18][0] = wrong["logits"][0][18][0].get<double>() + 1e-3;
  std::ofstream(folder / "mamba3.json") << wrong.dump();
  EXPECT_EQ(shell(script + " mamba3"), 1);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace statelab::interchange

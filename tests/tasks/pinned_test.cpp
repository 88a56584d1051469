// The first samples of each task for a fixed key, as in pinned.txt. A change that moves them changes
// the data of every recorded run: it must raise the numerics version and bring a new pinned.txt,
// which the failing test leaves in the build folder.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/tasks/every_task.h"

namespace statelab::testing {
namespace {

std::string ids(const std::vector<int32_t>& values) {
  std::string text;
  for (const int32_t value : values) {
    if (!text.empty()) text += ' ';
    text += value < 0 ? "." : std::to_string(value);
  }
  return text;
}

/// Eight samples of key (seed 1, show), step 0, as they are read and as ids.
std::string describe(const std::string& title, const TaskConfig& config, LengthRange lengths) {
  const auto task = make_task(config);
  std::ostringstream out;
  out << "== " << title << ", length " << lengths.min << ".." << lengths.max << "\n";
  for (uint32_t i = 0; i < 8; ++i) {
    const Sample s = draw_one(*task, {1, Stream::kShow}, 0, i, lengths);
    out << task->render(s.tokens, s.targets) << "    | " << ids(s.tokens) << " | " << ids(s.targets)
        << "\n";
  }
  return out.str();
}

TEST(Pinned, FirstSamplesOfEachTask) {
  std::string text;
  for (const char* profile : {"xlstm", "slice", "chomsky"}) {
    for (const char* family :
         {"parity", "evenpairs", "cyclenav", "modarith", "modarith-br", "modarith-br-mul"}) {
      const std::string name = std::string(family) + "." + profile;
      text += describe(name, *find_preset(name), {5, 12});
    }
  }
  for (const char* name : {"parity.xlstm", "modarith.xlstm", "cyclenav.slice"}) {
    TaskConfig config = *find_preset(name);
    config.supervision = "all";
    config.bos = true;
    text += describe(std::string(name) + " all bos", config, {5, 8});
  }
  for (const char* name : {"word.Z5", "word.S3", "word.A5", "word.D8", "word.H3", "word.Q8",
                           "word.A4xZ5", "liu.gridworld", "liu.abab", "liu.adder", "liu.flip_flop",
                           "liu.cyclic", "liu.symmetric", "liu.alternating", "liu.dihedral",
                           "liu.quaternion", "liu.permutation_reset", "liu.parity"}) {
    text += describe(name, *find_preset(name), {3, 6});
  }
  TaskConfig swaps = word_config("S5");
  swaps.alphabet = "swaps";
  swaps.fillers = 2;
  swaps.supervision = "last";
  text += describe("word S5 swaps fillers 2 last", swaps, {3, 4});
  TaskConfig repeat = *find_preset("word.S3");
  repeat.fillers = 3;
  repeat.filler = "repeat";
  text += describe("word S3 fillers 3 repeat", repeat, {2, 3});
  swaps.fillers = 1;
  swaps.variant = "hard";
  swaps.supervision = "all";
  text += describe("word S5 swaps hard", swaps, {4, 10});
  text += describe("ffl", *find_preset("ffl"), {6, 16});
  text += describe("vending machine", vending_machine("xlstm"), {4, 8});

  std::ifstream file(STATELAB_SOURCE_DIR "/tests/tasks/pinned.txt");
  ASSERT_TRUE(file) << "tests/tasks/pinned.txt is missing";
  std::stringstream pinned;
  pinned << file.rdbuf();
  if (text == pinned.str()) return;
  const std::string drawn = STATELAB_BINARY_DIR "/pinned_tasks.txt";
  std::ofstream(drawn) << text;
  FAIL() << "samples differ from tests/tasks/pinned.txt; compare it with " << drawn;
}

}  // namespace
}  // namespace statelab::testing

// README.md is held to what it says: commands, options, sweep files, tree and links.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace statelab {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = STATELAB_SOURCE_DIR;

std::string read(const fs::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << "cannot read " << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Contents of the fenced blocks of one language, e.g. "sh".
std::vector<std::string> blocks(const std::string& text, const std::string& language) {
  std::vector<std::string> found;
  bool inside = false;
  bool wanted = false;
  for (const auto& line : lines_of(text)) {
    if (line.starts_with("```")) {
      inside = !inside;
      wanted = inside && line == "```" + language;
      if (wanted) found.emplace_back();
    } else if (wanted) {
      found.back() += line + "\n";
    }
  }
  return found;
}

std::string quoted(const std::string& word) {
  std::string text = "'";
  for (char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

struct Outcome {
  int status = -1;
  std::string output;  // stdout and stderr
};

Outcome run(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen((command + " 2>&1 < /dev/null").c_str(), "r");
  if (!pipe) return outcome;
  std::array<char, 4096> buffer;
  while (size_t n = fread(buffer.data(), 1, buffer.size(), pipe))
    outcome.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return outcome;
}

// A line of a sh block that calls the script, in words, without comment; empty for other lines.
std::vector<std::string> statelab_words(const std::string& line) {
  std::istringstream stream(line.substr(0, line.find(" #")));
  std::vector<std::string> words{std::istream_iterator<std::string>(stream), {}};
  if (words.empty() || words[0] != "./statelab") return {};
  words.erase(words.begin());
  return words;
}

std::vector<std::vector<std::string>> statelab_commands() {
  std::vector<std::vector<std::string>> commands;
  for (const auto& block : blocks(read(kRoot / "README.md"), "sh")) {
    for (const auto& line : lines_of(block)) {
      if (auto words = statelab_words(line); !words.empty()) commands.push_back(words);
    }
  }
  return commands;
}

// Help of one command: of the script for `test`, of the program otherwise.
Outcome help_of(const std::string& command) {
  const std::string program = command == "test" ? (kRoot / "statelab").string() : STATELAB_PROGRAM;
  return run(quoted(program) + " " + quoted(command) + " --help");
}

TEST(Readme, NamesTheTwoCommandsThatMatterMost) {
  std::set<std::string> first_words;
  for (const auto& words : statelab_commands()) first_words.insert(words[0]);
  EXPECT_TRUE(first_words.contains("quickstart"));
  EXPECT_TRUE(first_words.contains("test"));
}

TEST(Readme, EveryCommandExists) {
  const Outcome overview = run(quoted(STATELAB_PROGRAM) + " --help");
  ASSERT_EQ(overview.status, 0) << overview.output;
  for (const auto& words : statelab_commands()) {
    const Outcome help = help_of(words[0]);
    EXPECT_EQ(help.status, 0) << words[0] << ": " << help.output;
    if (words[0] != "test") {
      EXPECT_NE(overview.output.find(words[0]), std::string::npos)
          << "statelab --help does not list " << words[0];
    }
  }
}

TEST(Readme, EveryOptionIsInTheHelpOfItsCommand) {
  for (const auto& words : statelab_commands()) {
    const std::string help = help_of(words[0]).output;
    for (const auto& word : words) {
      if (!word.starts_with("--")) continue;
      EXPECT_NE(help.find(word.substr(0, word.find('='))), std::string::npos)
          << "statelab " << words[0] << " has no option " << word;
    }
  }
}

TEST(Readme, EverySweepFileIsAccepted) {
  const auto sweeps = blocks(read(kRoot / "README.md"), "yaml");
  ASSERT_FALSE(sweeps.empty());
  const fs::path folder = fs::temp_directory_path() / ("readme_test_" + std::to_string(getpid()));
  fs::create_directories(folder);
  for (const auto& sweep : sweeps) {
    std::ofstream(folder / "sweep.yaml") << sweep;
    const Outcome outcome = run("cd " + quoted(folder) + " && " + quoted(STATELAB_PROGRAM) +
                                " run sweep.yaml --dry-run --db dry.db");
    EXPECT_EQ(outcome.status, 0) << outcome.output << "\nin\n" << sweep;
  }
  fs::remove_all(folder);
}

TEST(Readme, EveryTreeEntryExists) {
  const std::string text = read(kRoot / "README.md");
  const auto trees = blocks(text.substr(text.find("<!-- tree -->")), "text");
  ASSERT_FALSE(trees.empty());
  fs::path folder;
  std::set<std::string> named;
  for (const auto& line : lines_of(trees.front())) {
    const bool nested = line.starts_with(" ");
    std::string entry;
    std::istringstream(line) >> entry;
    if (!nested && entry.ends_with("/")) folder = entry;
    EXPECT_TRUE(fs::exists(kRoot / (nested ? folder / entry : fs::path(entry)))) << line;
    if (!nested) named.insert(entry);
  }
  for (const char* library :
       {"kernels/", "tasks/", "models/", "store/", "reports/", "experiments/", "tests/"}) {
    EXPECT_TRUE(named.contains(library)) << "the tree leaves out " << library;
  }
}

TEST(Readme, ShowsTheOutputOfItsTwoCommands) {
  const std::string text = read(kRoot / "README.md");
  for (const std::string command : {"quickstart", "test"}) {
    const auto begin = text.find("<!-- output:" + command + " -->");
    const auto end = text.find("<!-- /output:" + command + " -->");
    ASSERT_LT(begin, end) << command;
    ASSERT_NE(end, std::string::npos) << command;
    EXPECT_FALSE(blocks(text.substr(begin, end - begin), "text").empty())
        << "no output of ./statelab " << command;
  }
}

TEST(Readme, TablesOfCommittedResultsAreWhatTheProgramPrints) {
  int tables = 0, rows = 0;
  for (const char* page : {"README.md", "experiments/configs/mamba3-table5b/README.md"}) {
    const std::string text = read(kRoot / page);
    std::string printed;
    for (const auto& block : blocks(text, "sh")) {
      for (const auto& line : lines_of(block)) {
        if (line.find("--db reports/published/ours/") == std::string::npos) continue;
        ASSERT_TRUE(line.starts_with("./statelab ")) << line;
        const Outcome outcome = run("cd " + quoted(kRoot) + " && " + quoted(STATELAB_PROGRAM) +
                                    " " + line.substr(11, line.find(" #") - 11));
        EXPECT_EQ(outcome.status, 0) << line << outcome.output;
        printed += outcome.output;
        ++tables;
        // The same comparison of the sweep that confirms it.
        const std::string sweep = "--sweep table5b-parity ";
        if (const size_t at = line.find(sweep); at != std::string::npos) {
          std::string confirmed = line.substr(11);
          confirmed.replace(at - 11, sweep.size(), "--sweep table5b-parity-confirm ");
          printed +=
              run("cd " + quoted(kRoot) + " && " + quoted(STATELAB_PROGRAM) + " " + confirmed)
                  .output;
        }
      }
    }
    for (const auto& block : blocks(text, "text")) {
      if (block.find("runs ≥ 95 % [%]") == std::string::npos ||
          block.find("steps to solve") != std::string::npos)
        continue;
      for (const auto& line : lines_of(block)) {
        if (line.starts_with("...")) continue;
        EXPECT_NE(printed.find(line + "\n"), std::string::npos) << page << " shows " << line;
        ++rows;
      }
    }
  }
  EXPECT_EQ(tables, 3);
  EXPECT_GT(rows, 30);
}

// Anchor that a heading gets: lower case, spaces to hyphens, punctuation dropped.
std::string anchor_of(const std::string& heading) {
  std::string anchor;
  for (unsigned char c : heading) {
    if (std::isalnum(c) || c == '-' || c == '_') anchor += static_cast<char>(std::tolower(c));
    if (c == ' ') anchor += '-';
  }
  return anchor;
}

TEST(Readme, EveryInternalLinkResolves) {
  int checked = 0;
  std::vector<fs::path> pages = {kRoot / "README.md"};
  for (const char* top :
       {"kernels", "tasks", "models", "store", "reports", "experiments", "tests"}) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / top)) {
      if (entry.path().extension() == ".md") pages.push_back(entry.path());
    }
  }
  for (const auto& page : pages) {
    const std::string text = read(page);
    for (size_t at = text.find("]("); at != std::string::npos; at = text.find("](", at + 2)) {
      const std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
      if (target.find("://") != std::string::npos || target.find(' ') != std::string::npos)
        continue;
      const size_t hash = target.find('#');
      const fs::path file = hash == 0 ? page : page.parent_path() / target.substr(0, hash);
      EXPECT_TRUE(fs::exists(file)) << page << " links to " << target;
      if (hash != std::string::npos && fs::is_regular_file(file)) {
        bool found = false;
        for (const auto& line : lines_of(read(file))) {
          const size_t text_at = line.find_first_not_of('#');
          if (line.starts_with("#") && text_at != std::string::npos && line[text_at] == ' ') {
            found |= anchor_of(line.substr(text_at + 1)) == target.substr(hash + 1);
          }
        }
        EXPECT_TRUE(found) << page << " links to the missing heading " << target;
      }
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace statelab

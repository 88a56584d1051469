// Draws have the stated distributions: chi-square with fixed seeds, 1e5 samples where labels are
// counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/tasks/drawing.h"
#include "tests/tasks/oracle.h"

namespace statelab::testing {
namespace {

constexpr uint32_t kSamples = 100000;

/// Upper limit of chi-square with `df` degrees of freedom, four standard deviations out
/// (Wilson-Hilferty): passed by chance about three times in 100,000.
double chi_square_limit(int df) {
  const double a = 2.0 / (9.0 * df);
  return df * std::pow(1 - a + 4.0 * std::sqrt(a), 3);
}

template <typename Key>
void expect_distribution(const std::map<Key, double>& counts,
                         const std::map<Key, double>& probability) {
  double total = 0, statistic = 0;
  for (const auto& [key, count] : counts) {
    EXPECT_TRUE(probability.count(key)) << "outside the support: " << key;
    total += count;
  }
  for (const auto& [key, p] : probability) {
    const auto at = counts.find(key);
    const double count = at == counts.end() ? 0 : at->second;
    statistic += (count - total * p) * (count - total * p) / (total * p);
  }
  EXPECT_LT(statistic, chi_square_limit(static_cast<int>(probability.size()) - 1));
}

template <typename Key>
std::map<Key, double> uniform(const std::vector<Key>& support) {
  std::map<Key, double> p;
  for (const Key& key : support) p[key] += 1.0 / static_cast<double>(support.size());
  return p;
}

std::vector<int> numbers(int first, int last, int step = 1) {
  std::vector<int> all;
  for (int i = first; i <= last; i += step) all.push_back(i);
  return all;
}

std::map<int, double> count_lengths(const Task& task, LengthRange range, uint32_t samples = 20000) {
  std::map<int, double> counts;
  for (uint32_t i = 0; i < samples; ++i) {
    counts[draw_one(task, {1, Stream::kTest}, i, i, range).info.length] += 1;
  }
  return counts;
}

std::map<int, double> count_answers(const Task& task, LengthRange range) {
  std::map<int, double> counts;
  for (uint32_t i = 0; i < kSamples; ++i) {
    counts[draw_one(task, {2, Stream::kTest}, i, i, range).targets.back()] += 1;
  }
  return counts;
}

TEST(Lengths, ParityIsUniformOn3To40) {
  const auto task = make_task(config_of("parity", "xlstm"));
  expect_distribution(count_lengths(*task, {3, 40}), uniform(numbers(3, 40)));
}

TEST(Lengths, XlstmArithmeticIsUniformOnOddNumbers) {
  const auto task = make_task(config_of("modular_arithmetic", "xlstm"));
  expect_distribution(count_lengths(*task, {3, 40}), uniform(numbers(3, 39, 2)));
  expect_distribution(count_lengths(*task, {40, 256}), uniform(numbers(39, 255, 2)));
}

TEST(Lengths, XlstmBracketsPutThreeOf38OnFive) {
  const auto task = make_task(config_of("modular_arithmetic_brackets", "xlstm"));
  std::map<int, double> p = uniform(numbers(6, 40));
  for (auto& [s, probability] : p) probability = 1.0 / 38;
  p[5] = 3.0 / 38;
  expect_distribution(count_lengths(*task, {3, 40}), p);
}

TEST(Lengths, SliceArithmeticRoundsUpAndChomskyDown) {
  const auto slice = make_task(config_of("modular_arithmetic", "slice"));
  std::vector<int> up, down;
  for (int length = 3; length <= 41; ++length) {
    up.push_back(length + length % 2);
    down.push_back(length % 2 == 0 ? length - 1 : length);
  }
  expect_distribution(count_lengths(*slice, {3, 41}), uniform(up));
  const auto chomsky = make_task(config_of("modular_arithmetic", "chomsky"));
  expect_distribution(count_lengths(*chomsky, {3, 41}), uniform(down));
}

TEST(Lengths, FlipFlopIsUniformOnEvenNumbers) {
  const auto task = make_task(config_of("flip_flop", "fflm"));
  expect_distribution(count_lengths(*task, {5, 21}), uniform(numbers(6, 20, 2)));
}

TEST(Lengths, ChomskySharesOneLengthPerStepOthersDrawPerSample) {
  for (const std::string name : {"parity", "modular_arithmetic", "modular_arithmetic_brackets"}) {
    const auto chomsky = make_task(config_of(name, "chomsky"));
    const auto xlstm = make_task(config_of(name, "xlstm"));
    std::map<int, double> within, steps, samples;
    for (uint32_t i = 0; i < 200; ++i) {
      within[draw_one(*chomsky, {1, Stream::kTrain}, 5, i, {3, 40}).info.length] += 1;
      steps[draw_one(*chomsky, {1, Stream::kTrain}, i, 0, {3, 40}).info.length] += 1;
      samples[draw_one(*xlstm, {1, Stream::kTrain}, 5, i, {3, 40}).info.length] += 1;
    }
    EXPECT_EQ(within.size(), 1u) << name;
    EXPECT_GT(steps.size(), 10u) << name;
    EXPECT_GT(samples.size(), 10u) << name;
  }
}

TEST(Answers, ParityAndEvenPairsAreFair) {
  for (const std::string name : {"parity", "even_pairs"}) {
    const auto task = make_task(config_of(name, "xlstm"));
    expect_distribution(count_answers(*task, {3, 40}), uniform<int>({1, 2}));
  }
}

TEST(Answers, CycleNavigationBecomesUniform) {
  const auto task = make_task(config_of("cycle_navigation", "xlstm"));
  expect_distribution(count_answers(*task, {40, 100}), uniform(numbers(4, 8)));
}

TEST(Answers, FlatArithmeticFavoursZeroAsEnumerated) {
  // Two digits and one of + - * mod 5, all 75 cases counted by hand of the machine.
  std::map<int, double> p;
  for (int a = 0; a < 5; ++a) {
    for (int b = 0; b < 5; ++b) {
      for (const int value : {(a + b) % 5, (a - b + 5) % 5, a * b % 5}) p[5 + value] += 1.0 / 75;
    }
  }
  const auto task = make_task(config_of("modular_arithmetic", "xlstm"));
  expect_distribution(count_answers(*task, {5, 5}), p);
  EXPECT_NEAR(task->constant_answer({5, 5}), p[5], 1e-12);
}

TEST(Answers, BracketsWithoutMultiplicationAreUniform) {
  TaskConfig config = config_of("modular_arithmetic_brackets", "xlstm");
  config.multiplication = false;
  expect_distribution(count_answers(*make_task(config), {3, 40}), uniform(numbers(0, 4)));
}

TEST(Answers, BracketsWithMultiplicationFavourZero) {
  const auto task = make_task(config_of("modular_arithmetic_brackets", "xlstm"));
  const auto counts = count_answers(*task, {3, 40});
  const double zero = counts.at(0) / kSamples;
  EXPECT_NEAR(zero, 0.2666, 4 * std::sqrt(0.2666 * 0.7334 / kSamples));
}

TEST(Answers, WordProblemsAreUniformOverTheGroup) {
  for (const std::string group : {"Z5", "S3", "A5", "Q8", "D8", "H3"}) {
    TaskConfig config = word_config(group);
    const auto task = make_task(config);
    const int order = static_cast<int>(std::lround(1 / task->chance()));
    expect_distribution(count_answers(*task, {3, 6}), uniform(numbers(0, order - 1)));
  }
}

TEST(Tokens, ParityBitsAreFairAndIndependentOfTheirNeighbours) {
  const auto task = make_task(config_of("parity", "xlstm"));
  std::map<int, double> pairs;
  for (uint32_t i = 0; i < 5000; ++i) {
    const Sample s = draw_one(*task, {3, Stream::kTest}, 0, i, {41, 41});
    for (size_t t = 0; t + 1 < s.tokens.size(); t += 2)
      pairs[10 * s.tokens[t] + s.tokens[t + 1]] += 1;
  }
  expect_distribution(pairs, uniform<int>({11, 12, 21, 22}));
}

TEST(Tokens, OperatorsAndDigitsAreUniform) {
  for (const std::string name : {"modular_arithmetic", "modular_arithmetic_brackets"}) {
    const TaskConfig config = config_of(name, "slice");
    const auto task = make_task(config);
    std::map<char, double> operators, digits;
    for (uint32_t i = 0; i < 5000; ++i) {
      const Sample s = draw_one(*task, {4, Stream::kTest}, 0, i, {40, 40});
      const std::string text = as_text(config, s.tokens);
      for (size_t t = 0; t < text.size(); ++t) {
        const char c = text[t];
        if (c >= '0' && c <= '9') digits[c] += 1;
        // A minus sign after ( or at the start is the leaf's own, not an operator.
        const bool binary =
            t > 0 && (std::isdigit(static_cast<unsigned char>(text[t - 1])) || text[t - 1] == ')');
        if (binary && (c == '+' || c == '-' || c == '*')) operators[c] += 1;
      }
    }
    expect_distribution(operators, uniform<char>({'+', '-', '*'}));
    expect_distribution(digits, uniform<char>({'0', '1', '2', '3', '4'}));
  }
}

TEST(Tokens, LeftOperandSizeIsUniformAtTheRoot) {
  const TaskConfig config = config_of("modular_arithmetic_brackets", "chomsky");
  const auto task = make_task(config);
  constexpr int kSize = 20;
  std::map<int, double> sizes;
  for (uint32_t i = 0; i < 20000; ++i) {
    const Sample s = draw_one(*task, {5, Stream::kTest}, 0, i, {kSize, kSize});
    const std::string text = as_text(config, s.tokens);
    ASSERT_EQ(text.size(), size_t(kSize + 1));
    // "(left op right)": the left operand is an optional minus and a digit, or a closed bracket.
    size_t at = 1;
    if (text[at] == '-') ++at;
    int depth = 0;
    do {
      depth += text[at] == '(' ? 1 : text[at] == ')' ? -1 : 0;
      ++at;
    } while (depth > 0);
    sizes[static_cast<int>(at) - 1] += 1;
  }
  expect_distribution(sizes, uniform(numbers(1, kSize - 4)));
}

TEST(Tokens, SmallBracketedExpressionsAreTheFourLeaves) {
  const TaskConfig config = config_of("modular_arithmetic_brackets", "chomsky");
  const auto task = make_task(config);
  const std::vector<std::string> forms = {"d", "-d", "(d)", "(-d)"};
  for (int n = 1; n <= 4; ++n) {
    std::string text = as_text(config, draw_one(*task, {6, Stream::kTest}, 0, 0, {n, n}).tokens);
    text.pop_back();
    for (char& c : text) c = c >= '0' && c <= '9' ? 'd' : c;
    EXPECT_EQ(text, forms[size_t(n - 1)]);
  }
}

TEST(Tokens, FlipFlopReadCountsAreThePublishedOnes) {
  const std::vector<std::pair<double, double>> cases = {{0.8, 26.4}, {0.98, 3.54}, {0.1, 115.3}};
  for (const auto& [ignore, expected] : cases) {
    TaskConfig config = config_of("flip_flop", "fflm", "all");
    config.ignore_prob = ignore;
    const auto task = make_task(config);
    constexpr int kStrings = 2000;
    double reads = 0;
    for (uint32_t i = 0; i < kStrings; ++i) {
      const Sample s = draw_one(*task, {7, Stream::kTest}, 0, i, {512, 512});
      ASSERT_EQ(s.tokens.front(), 0);
      ASSERT_EQ(s.tokens.back(), 1);
      for (const int32_t target : s.targets) reads += target >= 0 ? 1 : 0;
    }
    const double p = (1 - ignore) / 2, error = std::sqrt(254 * p * (1 - p) / kStrings);
    EXPECT_NEAR(reads / kStrings, expected, 4 * error + 0.05) << ignore;
  }
}

TEST(Tokens, FlipFlopIgnoresAlwaysOrNeverAtTheEnds) {
  for (const double ignore : {0.0, 1.0}) {
    TaskConfig config = config_of("flip_flop", "fflm", "all");
    config.ignore_prob = ignore;
    const Sample s = draw_one(*make_task(config), {7, Stream::kTest}, 0, 0, {64, 64});
    const auto ignored = std::count(s.tokens.begin(), s.tokens.end(), 2);
    EXPECT_EQ(ignored, ignore == 0.0 ? 0 : 30);
  }
}

TEST(Tokens, LiuFlipFlopWritesHalfOfTheTime) {
  const auto task = make_task(liu_config("flip_flop", 3));
  std::map<int, double> tokens;
  for (uint32_t i = 0; i < 2000; ++i) {
    for (const int32_t x : draw_one(*task, {8, Stream::kTest}, 0, i, {20, 20}).tokens)
      tokens[x] += 1;
  }
  expect_distribution(tokens, {{0, 1.0 / 2}, {1, 1.0 / 6}, {2, 1.0 / 6}, {3, 1.0 / 6}});
}

TEST(Tokens, AQuarterOfAbabStringsAlternates) {
  const auto task = make_task(liu_config("abab"));
  std::map<bool, double> counts;
  for (uint32_t i = 0; i < 4000; ++i) {
    const Sample s = draw_one(*task, {9, Stream::kTest}, 0, i, {30, 30});
    counts[s.targets.back() != 4] += 1;
  }
  expect_distribution(counts, {{true, 0.25}, {false, 0.75}});
}

TEST(Tokens, PermutationResetsComeAtPowersOfTwo) {
  const auto task = make_task(liu_config("permutation_reset", 3));
  std::map<int, double> gaps;
  for (uint32_t i = 0; i < 5000; ++i) {
    const Sample s = draw_one(*task, {10, Stream::kTest}, 0, i, {17, 17});
    ASSERT_LT(s.tokens[0], 6);
    size_t t = 1;
    while (t < s.tokens.size() && s.tokens[t] >= 6) ++t;
    gaps[static_cast<int>(t == s.tokens.size() ? 99 : t)] += 1;
  }
  // Powers of two below 17: 1, 2, 4, 8, 16.
  expect_distribution(gaps, uniform<int>({1, 2, 4, 8, 16}));
}

}  // namespace
}  // namespace statelab::testing

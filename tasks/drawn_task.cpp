#include "tasks/drawn_task.h"

#include <algorithm>
#include <map>

namespace statelab {

void DrawnTask::finish() {
  spec_.layout.supervise_all = config_.supervision == "all" ? 1 : 0;
  if (config_.bos && spec_.layout.bos_token < 0) {
    spec_.layout.bos_token = vocab_size();
    names_.tokens.push_back("<bos>");
    if (!names_.answers.empty()) names_.answers.push_back("<bos>");
  }
}

int DrawnTask::seqlen(int max_length) const {
  const Layout& layout = spec_.layout;
  const LengthRange range{max_length, max_length};
  // The even and halved rules may have no length equal to max_length itself; all rules are
  // monotone.
  const int length = layout.rule == LengthRule::kEven ? max_length - max_length % 2
                                                      : length_of_choice(layout.rule, range, 0);
  return std::max(0, row_tokens(layout, length));
}

void DrawnTask::check_lengths(LengthRange lengths) const {
  const auto fail = [&](const std::string& rule) {
    throw TaskError(config_.name, "length",
                    "[" + config_.name + "] length " + rule + ": [" + std::to_string(lengths.min) +
                        ", " + std::to_string(lengths.max) + "]");
  };
  const Layout& layout = spec_.layout;
  if (lengths.min < 1) fail("must be at least 1");
  if (lengths.min > lengths.max) fail("must have min <= max");
  if (lengths.max > kMaxLength) fail("must not exceed " + std::to_string(kMaxLength));
  if (layout.rule == LengthRule::kAtLeastFive && lengths.max < 5) {
    fail("must reach 5, the shortest row of profile " + config_.profile);
  }
  if (length_choices(layout.rule, lengths) < 1) fail("must hold an even number");
  const int shortest = length_of_choice(layout.rule, lengths, 0);
  if (data_tokens(layout, shortest) < min_data_ * layout.tokens_per_item) {
    fail("must be at least " + std::to_string(min_data_ + layout.overhead) + " in profile " +
         config_.profile + " (" + std::to_string(std::max(layout.overhead, 0)) +
         " of it no data), after rounding " + std::to_string(shortest));
  }
}

SampleInfo DrawnTask::draw(RngKey key, uint32_t step, uint32_t sample, LengthRange lengths,
                           std::span<int32_t> tokens, std::span<int32_t> targets) const {
  const SampleInfo info =
      draw_sample(spec_, key, step, sample, lengths, tokens.data(), targets.data());
  std::fill(tokens.begin() + info.tokens, tokens.end(), 0);
  std::fill(targets.begin() + info.tokens, targets.end(), -1);
  return info;
}

double DrawnTask::constant_answer(LengthRange lengths) const {
  check_lengths(lengths);
  const Layout& layout = spec_.layout;
  std::map<int, double> weight;  // of each number of data tokens; a length above fixes it
  for (int i = 0; i < length_choices(layout.rule, lengths); ++i) {
    weight[data_tokens(layout, length_of_choice(layout.rule, lengths, i))] += 1;
  }
  const LabelMarginals marginals = label_marginals(weight.rbegin()->first);
  std::vector<double> expected(names_.tokens.size(), 0.0);
  const auto add = [&](const std::vector<double>& probability, double times) {
    for (size_t id = 0; id < probability.size(); ++id) expected[id] += times * probability[id];
  };
  double rows_longer = 0;  // rows in which position t is not the last data token
  for (const auto& [ndata, times] : weight) rows_longer += times;
  const double rows = rows_longer;
  int position = 0;
  for (const auto& [ndata, times] : weight) {
    if (layout.supervise_all != 0) {
      for (; position < ndata - 1; ++position) add(marginals.running[position], rows_longer);
      rows_longer -= times;
      add(marginals.last[ndata - 1], layout.end_token >= 0 ? 2 * times : times);
      if (rows_longer > 0) add(marginals.running[ndata - 1], rows_longer);
      position = ndata;
    } else {
      add(marginals.last[ndata - 1], times);
    }
  }
  if (layout.supervise_all != 0 && layout.bos_token >= 0 && layout.bos_target >= 0) {
    expected[static_cast<size_t>(layout.bos_target)] += rows;
  }
  double total = 0;
  for (const double count : expected) total += count;
  return *std::max_element(expected.begin(), expected.end()) / total;
}

std::string DrawnTask::token_name(int32_t token) const {
  if (token < 0 || token >= vocab_size()) return std::to_string(token).append("?");
  return names_.tokens[static_cast<size_t>(token)];
}

std::string DrawnTask::answer_name(int32_t answer) const {
  const auto id = static_cast<size_t>(answer);
  if (answer < 0 || id >= names_.answers.size() || names_.answers[id].empty()) {
    return token_name(answer);
  }
  return names_.answers[id];
}

std::string DrawnTask::render(std::span<const int32_t> tokens,
                              std::span<const int32_t> targets) const {
  const Layout& layout = spec_.layout;
  size_t end = targets.size();  // one past the last supervised position
  while (end > 0 && targets[end - 1] < 0) --end;
  const auto supervised = std::count_if(targets.begin(), targets.begin() + static_cast<long>(end),
                                        [](int32_t target) { return target >= 0; });
  const bool single = supervised == 1;
  std::string text;
  for (size_t t = 0; t < end; ++t) {
    const bool is_end = t + 1 == end && layout.end_token >= 0 && tokens[t] == layout.end_token;
    const bool after_bos = t == 1 && tokens[0] == layout.bos_token;
    if (t > 0) text += is_end || after_bos ? " " : names_.separator;
    text += token_name(tokens[t]);
    if (!single && targets[t] >= 0) text.append("[").append(answer_name(targets[t])).append("]");
  }
  if (!single) return text;
  const bool equals = token_name(tokens[end - 1]) == "=";
  return text + (equals ? " " : " -> ") + answer_name(targets[end - 1]);
}

}  // namespace statelab

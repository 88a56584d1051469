#include "experiments/inspection.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <stdexcept>

#include "experiments/run_check.h"

namespace statelab {
namespace {

using Quantity = TransitionSeries::Quantity;

/// Token ids of the names asked for, else of all that occur.
std::vector<int32_t> symbols_of(const Task& task, const TaskSample& sample,
                                const std::vector<std::string>& names) {
  std::set<int32_t> occurring;
  for (size_t i = 0; i < sample.tokens.size(); ++i) {
    if (sample.used[i]) occurring.insert(sample.tokens[i]);
  }
  if (names.empty()) return {occurring.begin(), occurring.end()};
  std::vector<int32_t> out;
  for (const std::string& name : names) {
    std::string known;
    const size_t before = out.size();
    for (const int32_t token : occurring) {
      known += (known.empty() ? "" : ", ") + task.token_name(token);
      if (task.token_name(token) == name) out.push_back(token);
    }
    if (out.size() == before)
      throw std::invalid_argument("no input symbol " + name +
                                  " in the sampled sequences; there are " + known);
  }
  return out;
}

std::vector<double> values_at(const TransitionSeries& s, const TaskSample& sample, int32_t token) {
  std::vector<double> out;
  const auto units = static_cast<size_t>(s.units);
  for (size_t i = 0; i < sample.tokens.size(); ++i) {
    if (!sample.used[i] || sample.tokens[i] != token) continue;
    for (size_t u = 0; u < units; ++u) out.push_back(s.values[i * units + u]);
  }
  return out;
}

/// Per head, whether this is the pair with the largest weight; every other series counts as such.
std::vector<char> heaviest(const std::vector<TransitionSeries>& all) {
  std::map<std::pair<int, int>, size_t> best;
  std::vector<char> shown(all.size(), 1);
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].quantity != Quantity::kAngle) continue;
    shown[i] = 0;
    const auto [it, first] = best.try_emplace({all[i].layer, all[i].head}, i);
    if (!first && all[i].weight > all[it->second].weight) it->second = i;
  }
  for (const auto& [head, i] : best) shown[i] = 1;
  return shown;
}

Table transition_table(const RunConfig& run, const Task& task, const TaskSample& sample,
                       const std::vector<TransitionSeries>& all, const InspectOptions& options,
                       int length) {
  Table table;
  table.key = "transitions";
  table.title =
      fmt::format("learned transitions, {} test sequences of length {}", sample.samples, length);
  const auto number = [](const char* key, const char* title) {
    Column c;
    c.key = key;
    c.title = title;
    c.type = ColumnType::kNumber;
    c.digits = 4;
    return c;
  };
  const auto integer = [](const char* key, const char* title) {
    Column c;
    c.key = key;
    c.title = title;
    c.type = ColumnType::kInteger;
    return c;
  };
  Column weight = number("weight", "weight");
  weight.type = ColumnType::kPercent;
  weight.digits = 1;
  table.columns = {integer("layer", "layer"),
                   integer("head", "head"),
                   {"quantity", "quantity"},
                   integer("pair", "pair"),
                   weight,
                   {"symbol", "symbol"},
                   number("mean", "mean"),
                   number("sd", "sd"),
                   number("min", "min"),
                   number("q1", "q1"),
                   number("median", "median"),
                   number("q3", "q3"),
                   number("max", "max"),
                   integer("count", "positions")};
  const std::vector<char> shown = heaviest(all);
  const auto symbols = symbols_of(task, sample, options.symbols);
  bool angles = false;
  for (size_t i = 0; i < all.size(); ++i) {
    const TransitionSeries& s = all[i];
    const bool angle = s.quantity == Quantity::kAngle;
    if (!shown[i] && !options.all_pairs) continue;
    angles = angles || angle;
    for (const int32_t token : symbols) {
      const SymbolDistribution d = distribution_of(values_at(s, sample, token), angle);
      const CellValue none;
      table.rows.push_back({{int64_t{s.layer}},
                            {s.head < 0 ? none : CellValue(int64_t{s.head})},
                            {std::string(quantity_name(s.quantity))},
                            {angle ? CellValue(int64_t{s.pair}) : none},
                            {angle ? CellValue(s.weight) : none},
                            {task.token_name(token)},
                            {d.mean},
                            {d.sd},
                            {d.min},
                            {d.q1},
                            {d.median},
                            {d.q3},
                            {d.max},
                            {d.count}});
    }
  }
  if (angles) {
    table.notes.push_back(
        {"", "angles in units of pi; weight is the pair's largest share in the head's scores"});
    if (!options.all_pairs && run.model.rotation != "standard")
      table.notes.push_back(
          {"", "of each head the pair with the largest weight; --json has all pairs"});
  }
  return table;
}

}  // namespace

SymbolDistribution distribution_of(std::vector<double> values, bool angle) {
  SymbolDistribution d;
  d.count = static_cast<int64_t>(values.size());
  if (values.empty()) return d;
  if (angle) {
    const double centre = circular_mean(values);
    for (double& v : values) v = centre + wrapped_turns(v - centre);
  }
  std::sort(values.begin(), values.end());
  d.mean = arithmetic_mean(values);
  double squares = 0;
  for (const double v : values) squares += (v - d.mean) * (v - d.mean);
  d.sd = std::sqrt(squares / static_cast<double>(values.size()));
  const auto quantile = [&](double q) {
    const double at = q * static_cast<double>(values.size() - 1);
    const auto low = static_cast<size_t>(at);
    const size_t high = std::min(low + 1, values.size() - 1);
    return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
  };
  d.min = values.front();
  d.q1 = quantile(0.25);
  d.median = quantile(0.5);
  d.q3 = quantile(0.75);
  d.max = values.back();
  return d;
}

Inspection inspect(const RunConfig& run, const MemberState& weights, const InspectOptions& options,
                   const std::vector<EvaluationRecord>& measured) {
  const int length = options.length > 0 ? options.length : longest_trained(run);
  const TaskSample sample = draw_test_sample(run, {length, length}, options.samples);
  const auto all = transitions(run.model, weights, sample.tokens, sample.targets, sample.samples,
                               sample.seqlen, options.threads);
  return {transition_table(run, *task_of(run), sample, all, options, length),
          find_phase(run, weights, all, sample, measured, options.samples, options.threads)};
}

}  // namespace statelab

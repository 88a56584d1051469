// Training graphs for tests: a model's loss, accuracy and gradients, and what they hold after one run in double.
#pragma once

#include <algorithm>
#include <vector>

#include "models/member_store.h"
#include "models/model.h"
#include "models/program.h"

namespace statelab {

struct Training {
  Graph graph;
  std::vector<ValueId> results;  ///< loss, accuracy, then the gradients
};

inline Training training(const ModelConfig& config, int batch, int seqlen,
                         const Needed& needed = {}) {
  Training t;
  const ValueId step = t.graph.state("step", DType::kInt32, {1});
  const ForwardGraph f = build_forward(t.graph, config, step, batch, seqlen, true, needed);
  t.results = {f.loss, f.accuracy};
  for (const ValueId id : add_gradients(t.graph, f.loss, f.parameters)) t.results.push_back(id);
  return t;
}

inline int count(const Graph& graph, Op op) {
  return static_cast<int>(std::count_if(graph.nodes().begin(), graph.nodes().end(),
                                        [&](const Node& node) { return node.op == op; }));
}

/// What the values hold after the graph has run once, in double. `target`: of a row's position, -1 for none; tokens are below 5.
template <class F>
std::vector<std::vector<double>> computed(const Graph& graph, const ModelConfig& config,
                                          const std::vector<ValueId>& values, F target) {
  ThreadPool pool(1);
  MemberStore store(1, sizeof(double));
  CpuProgram<double> program(graph, store, pool, values);
  for (const ParameterSpec& spec : parameter_specs(config))
    store.write<double>(spec.name, 0, initial_values(spec, config, 4));
  program.set_draw(
      [&](int, uint32_t, uint32_t row, std::span<int32_t> tokens, std::span<int32_t> targets) {
        for (size_t t = 0; t < tokens.size(); ++t) {
          tokens[t] = static_cast<int32_t>((3 * t + row) % 5);
          targets[t] = target(row, t);
        }
      });
  program.run();
  std::vector<std::vector<double>> out;
  for (const ValueId id : values) out.push_back(program.read<double>(id, 0));
  return out;
}

}  // namespace statelab

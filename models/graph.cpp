#include "models/graph.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/error.h"

namespace statelab {

ValueId Graph::parameter(const std::string& name, const Shape& shape) {
  values_.push_back({name, {DType::kReal, shape}, Role::kParameter});
  return static_cast<ValueId>(values_.size()) - 1;
}

ValueId Graph::state(const std::string& name, DType dtype, const Shape& shape) {
  values_.push_back({name, {dtype, shape}, Role::kState});
  return static_cast<ValueId>(values_.size()) - 1;
}

std::vector<ValueId> Graph::apply(Op op, Attributes attributes, std::vector<ValueId> inputs) {
  std::vector<const ValueType*> types;
  for (ValueId id : inputs) types.push_back(id == kNoValue ? nullptr : &value(id).type);
  std::vector<ValueType> out = infer(op, attributes, types);
  Node node{op, std::move(attributes), std::move(inputs), {}};
  for (size_t i = 0; i < out.size(); ++i) {
    values_.push_back(
        {std::string(op_name(op)) + "." + std::to_string(nodes_.size()) + "." + std::to_string(i),
         std::move(out[i]), Role::kTemporary});
    node.outputs.push_back(static_cast<ValueId>(values_.size()) - 1);
  }
  nodes_.push_back(std::move(node));
  return nodes_.back().outputs;
}

Graph Graph::with_nodes(std::vector<Node> nodes) const {
  Graph out;
  out.values_ = values_;
  out.nodes_ = std::move(nodes);
  return out;
}

namespace {

struct Interval {
  int first = 0, last = 0;  ///< node indices, both included
  int64_t bytes = 0;
  int64_t offset = -1;
};

/// Lifetimes of all temporaries (by value), then of all workspaces (by node).
std::vector<Interval> lifetimes(const Graph& graph, std::span<const int64_t> workspace_bytes,
                                std::span<const ValueId> keep, int members, int64_t real_bytes,
                                Unread unread) {
  const size_t values = graph.values().size();
  const int nodes = static_cast<int>(graph.nodes().size());
  std::vector<Interval> out(values + graph.nodes().size());
  for (size_t v = 0; v < values; ++v) {
    const GraphValue& value = graph.values()[v];
    if (value.role == Role::kTemporary)
      out[v].bytes = members * member_stride_bytes(value.type.shape, value.type.dtype, real_bytes);
  }
  for (int n = 0; n < nodes; ++n) {
    const Node& node = graph.nodes()[static_cast<size_t>(n)];
    for (ValueId id : node.outputs)
      out[static_cast<size_t>(id)].first = out[static_cast<size_t>(id)].last = n;
    for (ValueId id : node.inputs) {
      if (id != kNoValue) out[static_cast<size_t>(id)].last = n;
    }
    Interval& w = out[values + static_cast<size_t>(n)];
    w = {n, n, members * workspace_bytes[static_cast<size_t>(n)], -1};
  }
  for (ValueId id : keep) out[static_cast<size_t>(id)].last = nodes;
  if (unread == Unread::kDropped) {
    std::vector<char> wanted(values);
    for (ValueId id : keep) wanted[static_cast<size_t>(id)] = 1;
    for (const Node& node : graph.nodes()) {
      for (ValueId id : node.inputs) {
        if (id != kNoValue) wanted[static_cast<size_t>(id)] = 1;
      }
      for (ValueId id : node.outputs) {
        if (node.op == Op::kDraw) wanted[static_cast<size_t>(id)] = 1;
      }
    }
    for (size_t v = 0; v < values; ++v) {
      if (!wanted[v]) out[v].bytes = 0;
    }
  }
  return out;
}

bool overlaps(const Interval& a, const Interval& b) {
  return a.first <= b.last && b.first <= a.last;
}

void expect_types(const Graph& graph, const Node& node, const std::string& where) {
  std::vector<const ValueType*> in;
  for (ValueId id : node.inputs) in.push_back(id == kNoValue ? nullptr : &graph.value(id).type);
  std::vector<ValueType> out;
  try {
    out = infer(node.op, node.attributes, in);
  } catch (const ShapeError& e) {
    throw std::logic_error(where + ": " + e.what());
  }
  if (out.size() != node.outputs.size()) {
    throw std::logic_error(where + " writes " + std::to_string(node.outputs.size()) +
                           " values, its op " + std::to_string(out.size()));
  }
  for (size_t i = 0; i < out.size(); ++i) {
    const GraphValue& value = graph.value(node.outputs[i]);
    if (out[i].dtype != value.type.dtype || out[i].shape != value.type.shape) {
      throw std::logic_error(where + " writes " + out[i].shape.text() + " to " + value.name + " " +
                             value.type.shape.text());
    }
  }
}

}  // namespace

MemoryPlan plan_memory(const Graph& graph, std::span<const int64_t> workspace_bytes,
                       std::span<const ValueId> keep, int members, int64_t real_bytes,
                       Unread unread) {
  std::vector<Interval> all = lifetimes(graph, workspace_bytes, keep, members, real_bytes, unread);
  std::vector<size_t> order;
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].bytes > 0) order.push_back(i);
  }
  // Largest first, each at the lowest place that is free during its whole life.
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return all[a].bytes > all[b].bytes; });
  MemoryPlan plan;
  std::vector<size_t> placed;
  for (size_t i : order) {
    std::vector<const Interval*> busy;
    for (size_t p : placed) {
      if (overlaps(all[p], all[i])) busy.push_back(&all[p]);
    }
    std::sort(busy.begin(), busy.end(),
              [](const Interval* a, const Interval* b) { return a->offset < b->offset; });
    int64_t at = 0;
    for (const Interval* b : busy) {
      if (b->offset - at >= all[i].bytes) break;
      at = std::max(at, b->offset + b->bytes);
    }
    all[i].offset = at;
    plan.bytes = std::max(plan.bytes, at + all[i].bytes);
    placed.push_back(i);
  }
  for (size_t v = 0; v < graph.values().size(); ++v)
    plan.offset.push_back(all[v].bytes > 0 ? all[v].offset : -1);
  for (size_t n = 0; n < graph.nodes().size(); ++n)
    plan.workspace_offset.push_back(all[graph.values().size() + n].offset);
  return plan;
}

void verify_graph(const Graph& graph, const MemoryPlan& plan,
                  std::span<const int64_t> workspace_bytes, std::span<const ValueId> keep,
                  int members, int64_t real_bytes, Unread unread) {
  std::vector<char> written(graph.values().size()), updated(graph.values().size());
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const Node& node = graph.nodes()[n];
    const std::string where = "node " + std::to_string(n) + " (" + op_name(node.op) + ")";
    const std::vector<int> updates = updated_inputs(node.op, static_cast<int>(node.inputs.size()));
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kNoValue) continue;
      const GraphValue& value = graph.value(id);
      if (value.role == Role::kTemporary && !written[static_cast<size_t>(id)]) {
        throw std::logic_error(where + " reads " + value.name + " before it is written");
      }
      const bool writes =
          std::find(updates.begin(), updates.end(), static_cast<int>(i)) != updates.end();
      if (writes && value.role == Role::kTemporary)
        throw std::logic_error(where + " updates the temporary " + value.name);
      if (writes && updated[static_cast<size_t>(id)])
        throw std::logic_error(where + " updates " + value.name + " a second time");
      if (value.role == Role::kParameter && updated[static_cast<size_t>(id)]) {
        throw std::logic_error(where + " reads the weight " + value.name + " after its update");
      }
      if (writes) updated[static_cast<size_t>(id)] = 1;
    }
    expect_types(graph, node, where);
    for (ValueId id : node.outputs) {
      if (written[static_cast<size_t>(id)])
        throw std::logic_error(where + " writes " + graph.value(id).name + " a second time");
      written[static_cast<size_t>(id)] = 1;
    }
  }
  for (ValueId id : keep) {
    if (graph.value(id).role == Role::kTemporary && !written[static_cast<size_t>(id)])
      throw std::logic_error(graph.value(id).name + " is kept, but no node writes it");
  }
  std::vector<Interval> all = lifetimes(graph, workspace_bytes, keep, members, real_bytes, unread);
  for (size_t v = 0; v < graph.values().size(); ++v) all[v].offset = plan.offset[v];
  for (size_t n = 0; n < graph.nodes().size(); ++n)
    all[graph.values().size() + n].offset = plan.workspace_offset[n];
  std::erase_if(all, [](const Interval& i) { return i.bytes == 0; });
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].offset < 0 || all[i].offset % kAlignment != 0 ||
        all[i].offset + all[i].bytes > plan.bytes) {
      throw std::logic_error("memory plan: a value lies outside the arena or off alignment");
    }
    for (size_t j = 0; j < i; ++j) {
      const bool apart = all[i].offset + all[i].bytes <= all[j].offset ||
                         all[j].offset + all[j].bytes <= all[i].offset;
      if (!apart && overlaps(all[i], all[j]))
        throw std::logic_error("memory plan: two live values share memory");
    }
  }
}

}  // namespace statelab

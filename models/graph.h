// A static graph: values, nodes in execution order, nothing computed yet. Everything that can be wrong with a model is
// wrong here, while it is built.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/op.h"

namespace statelab {

using ValueId = int;
inline constexpr ValueId kNoValue = -1;

enum class Role {
  kTemporary,  ///< written once, by a node
  kParameter,  ///< a weight: lives as long as the members do
  kState,      ///< optimiser moments, counters, settings: likewise
};

struct GraphValue {
  std::string name;
  ValueType type;
  Role role = Role::kTemporary;
};

struct Node {
  Op op{};
  Attributes attributes;
  std::vector<ValueId> inputs, outputs;  ///< inputs may hold kNoValue
};

class Graph {
 public:
  ValueId parameter(const std::string& name, const Shape& shape);
  ValueId state(const std::string& name, DType dtype, const Shape& shape);

  /// Adds a node; its outputs' shapes follow from the op's rule. Throws ShapeError.
  std::vector<ValueId> apply(Op op, Attributes attributes, std::vector<ValueId> inputs);
  ValueId apply1(Op op, Attributes attributes, std::vector<ValueId> inputs) {
    return apply(op, std::move(attributes), std::move(inputs))[0];
  }

  /// The same values, computed by other nodes: each node's outputs must have the types that its op's rule gives.
  Graph with_nodes(std::vector<Node> nodes) const;

  const std::vector<GraphValue>& values() const { return values_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const GraphValue& value(ValueId id) const { return values_[static_cast<size_t>(id)]; }

 private:
  std::vector<GraphValue> values_;
  std::vector<Node> nodes_;
};

/// Appends the nodes that compute d loss / d wrt for every value in `wrt`; the result is in that order.
/// Throws UnsupportedOp for an op without a gradient rule on the way, and when a value does not influence the loss.
std::vector<ValueId> add_gradients(Graph& graph, ValueId loss, std::span<const ValueId> wrt);

/// What becomes of outputs that no node reads and nobody keeps. A draw's are always stored.
enum class Unread { kStored, kDropped };

/// Where every temporary lives: byte offsets of the member-major slices in one arena.
struct MemoryPlan {
  std::vector<int64_t> offset;  ///< per value; -1 for parameters, states and dropped outputs
  std::vector<int64_t> workspace_offset;  ///< per node; -1 without workspace
  int64_t bytes = 0;
};

/// `workspace_bytes` per node, per member. Values in `keep` stay readable after the last node.
MemoryPlan plan_memory(const Graph& graph, std::span<const int64_t> workspace_bytes,
                       std::span<const ValueId> keep, int members, int64_t real_bytes,
                       Unread unread = Unread::kStored);

/// Walks graph and plan: a node's outputs have the types that its op's rule gives, every value is written once and before it is
/// read, what is kept is written, no live value shares memory with another, no weight is read after its update and no state
/// updated twice. Throws std::logic_error naming node and value: a mistake of ours, not of a user.
void verify_graph(const Graph& graph, const MemoryPlan& plan,
                  std::span<const int64_t> workspace_bytes, std::span<const ValueId> keep,
                  int members, int64_t real_bytes, Unread unread = Unread::kStored);

}  // namespace statelab

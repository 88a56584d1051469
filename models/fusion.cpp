#include "models/fusion.h"

#include <algorithm>
#include <optional>

#include "kernels/scan_at.h"

namespace statelab {
namespace {

constexpr int kNoNode = -1;

/// Nodes that are taken out or changed one after the other, and who writes and who reads each value.
class Fusing {
 public:
  Fusing(const Graph& graph, std::span<const ValueId> keep)
      : nodes(graph.nodes()), writer_(graph.values().size(), kNoNode), readers_(writer_.size()) {
    for (size_t n = 0; n < nodes.size(); ++n) {
      for (ValueId id : nodes[n].outputs) writer_[static_cast<size_t>(id)] = static_cast<int>(n);
      for (ValueId id : nodes[n].inputs) {
        if (id != kNoValue) readers_[static_cast<size_t>(id)].push_back(static_cast<int>(n));
      }
    }
    for (ValueId id : keep) readers_[static_cast<size_t>(id)].push_back(static_cast<int>(kept()));
    gone_.resize(nodes.size());
  }

  /// The node that writes a value; kNoNode for parameters and states.
  int writer(ValueId id) const { return writer_[static_cast<size_t>(id)]; }
  /// The nodes that read it, once per operand and in order; after them kept() if somebody keeps it.
  const std::vector<int>& readers(ValueId id) const { return readers_[static_cast<size_t>(id)]; }
  size_t kept() const { return nodes.size(); }
  /// Does a node after `first` and before `last` overwrite this parameter or state?
  bool changes_between(ValueId id, int first, int last) const {
    for (int n = first + 1; n < last; ++n) {
      const Node& node = nodes[static_cast<size_t>(n)];
      for (const int i : updated_inputs(node.op, static_cast<int>(node.inputs.size()))) {
        if (node.inputs[static_cast<size_t>(i)] == id) return true;
      }
    }
    return false;
  }

  void take_out(int n) { gone_[static_cast<size_t>(n)] = 1; }
  bool gone(int n) const { return gone_[static_cast<size_t>(n)] != 0; }
  void writes(int n, ValueId id) { writer_[static_cast<size_t>(id)] = n; }
  std::vector<Node> left() {
    std::vector<Node> out;
    for (size_t n = 0; n < nodes.size(); ++n) {
      if (!gone_[n]) out.push_back(std::move(nodes[n]));
    }
    return out;
  }

  std::vector<Node> nodes;

 private:
  std::vector<int> writer_;
  std::vector<std::vector<int>> readers_;
  std::vector<char> gone_;
};

/// May this node, so far without an addend, add one to its first output?
bool takes_addend(const Node& node) {
  return (node.op == Op::kLinear && node.inputs.size() == 2) ||
         (node.op == Op::kRmsNormBwd && node.inputs.size() == 3);
}

void fuse_addends(Fusing& f) {
  for (size_t n = 0; n < f.nodes.size(); ++n) {
    if (f.nodes[n].op != Op::kAdd) continue;
    for (const size_t term : {size_t{0}, size_t{1}}) {
      const ValueId sum = f.nodes[n].outputs[0], product = f.nodes[n].inputs[term],
                    addend = f.nodes[n].inputs[1 - term];
      const int at = f.writer(product);
      if (at == kNoNode || f.readers(product).size() != 1 || f.writer(addend) >= at) continue;
      Node& node = f.nodes[static_cast<size_t>(at)];
      if (!takes_addend(node) || node.outputs[0] != product ||
          f.changes_between(addend, at, static_cast<int>(n)))
        continue;
      node.inputs.push_back(addend);
      node.outputs[0] = sum;
      f.writes(at, sum);
      f.take_out(static_cast<int>(n));
      break;
    }
  }
}

double eps(const Node& norm) { return std::get<RmsNormAttrs>(norm.attributes).eps; }
int classes(const Node& loss) { return std::get<CrossEntropyAttrs>(loss.attributes).classes; }

/// The nodes that a head_loss stands for, found from the gradient of its cross_entropy.
struct Head {
  int norm, linear, loss, loss_bwd, linear_bwd_x, linear_bwd_w, norm_bwd;

  static std::optional<Head> at(const Fusing& f, int loss_bwd) {
    auto node = [&](int n) -> const Node& { return f.nodes[static_cast<size_t>(n)]; };
    auto is = [&](int n, Op op) {
      return n >= 0 && n < static_cast<int>(f.kept()) && node(n).op == op;
    };
    // The readers of a value, if there are `count` of them.
    auto readers = [&](ValueId id, size_t count) {
      return f.readers(id).size() == count ? f.readers(id) : std::vector<int>(count, kNoNode);
    };
    Head h{};
    h.loss_bwd = loss_bwd;
    const ValueId logits = node(loss_bwd).inputs[1], targets = node(loss_bwd).inputs[2],
                  dlogits = node(loss_bwd).outputs[0];
    h.linear = f.writer(logits);
    h.loss = readers(logits, 2)[0];
    if (!is(h.linear, Op::kLinear) || node(h.linear).inputs.size() != 2 ||
        !is(h.loss, Op::kCrossEntropy) || node(h.loss).inputs[1] != targets ||
        classes(node(h.loss)) != classes(node(loss_bwd)))
      return std::nullopt;
    const ValueId u = node(h.linear).inputs[0], weight = node(h.linear).inputs[1];
    h.norm = f.writer(u);
    h.linear_bwd_x = readers(dlogits, 2)[0], h.linear_bwd_w = readers(dlogits, 2)[1];
    if (!is(h.norm, Op::kRmsNorm) || !is(h.linear_bwd_x, Op::kLinearBwdX) ||
        !is(h.linear_bwd_w, Op::kLinearBwdW) ||
        node(h.linear_bwd_x).inputs != std::vector{dlogits, weight} ||
        node(h.linear_bwd_w).inputs != std::vector{dlogits, u} ||
        readers(u, 2) != std::vector{h.linear, h.linear_bwd_w})
      return std::nullopt;
    const ValueId x = node(h.norm).inputs[0], norm_weight = node(h.norm).inputs[1],
                  du = node(h.linear_bwd_x).outputs[0];
    h.norm_bwd = readers(du, 1)[0];
    if (!is(h.norm_bwd, Op::kRmsNormBwd) ||
        node(h.norm_bwd).inputs != std::vector{du, x, norm_weight} ||
        eps(node(h.norm_bwd)) != eps(node(h.norm)))
      return std::nullopt;
    for (const ValueId id : {x, norm_weight, weight, targets}) {
      if (f.changes_between(id, h.norm, std::max(h.linear_bwd_w, h.norm_bwd))) return std::nullopt;
    }
    for (const ValueId id : node(h.loss).outputs) {
      for (const int n : f.readers(id)) {
        if (n <= loss_bwd) return std::nullopt;  // before the one node that would write it
      }
    }
    return h;
  }
};

/// What an out_proj_loss stands for beside a head: out_proj with its addend before it, their gradients behind it.
struct OutProj {
  int select, select_targets, linear, add, linear_bwd_x, linear_bwd_w, select_bwd;

  static std::optional<OutProj> at(const Fusing& f, const Head& head) {
    auto node = [&](int n) -> const Node& { return f.nodes[static_cast<size_t>(n)]; };
    auto is = [&](int n, Op op, const std::vector<ValueId>& inputs) {
      return n >= 0 && n < static_cast<int>(f.kept()) && node(n).op == op &&
             node(n).inputs == inputs;
    };
    auto one_of = [&](const std::vector<int>& nodes, Op op, const std::vector<ValueId>& inputs) {
      const auto at =
          std::find_if(nodes.begin(), nodes.end(), [&](int n) { return is(n, op, inputs); });
      return at == nodes.end() ? kNoNode : *at;
    };
    const ValueId h = node(head.norm).inputs[0], dh = node(head.norm_bwd).outputs[0],
                  targets = node(head.loss).inputs[1];
    OutProj o{};
    o.add = f.writer(h), o.select_targets = f.writer(targets);
    if (o.add == kNoNode || node(o.add).op != Op::kAdd || o.select_targets == kNoNode ||
        node(o.select_targets).op != Op::kSelect)
      return std::nullopt;
    const ValueId all = node(o.select_targets).inputs[1], x_row = node(o.add).inputs[0],
                  sum = node(o.add).inputs[1];
    o.select = f.writer(x_row), o.linear = f.writer(sum);
    if (o.select == kNoNode || node(o.select).op != Op::kSelect || o.linear == kNoNode ||
        node(o.linear).op != Op::kLinear || node(o.linear).inputs.size() != 2)
      return std::nullopt;
    const ValueId x = node(o.select).inputs[0], y = node(o.linear).inputs[0],
                  weight = node(o.linear).inputs[1];
    const std::vector<int>& readers = f.readers(dh);
    o.linear_bwd_x = one_of(readers, Op::kLinearBwdX, {dh, weight});
    o.linear_bwd_w = one_of(readers, Op::kLinearBwdW, {dh, y});
    o.select_bwd = one_of(readers, Op::kSelectBwd, {dh, all});
    if (readers.size() != 3 || o.linear_bwd_x == kNoNode || o.linear_bwd_w == kNoNode ||
        o.select_bwd == kNoNode || !is(o.select_targets, Op::kSelect, {all, all}) ||
        !is(o.select, Op::kSelect, {x, all}) || f.readers(x_row).size() != 1 ||
        f.readers(sum).size() != 1 || f.readers(h) != std::vector{head.norm, head.norm_bwd} ||
        f.readers(targets) != std::vector{head.loss, head.loss_bwd})
      return std::nullopt;
    const int first = std::min({o.select, o.select_targets, o.linear}),
              last = std::max({o.linear_bwd_x, o.linear_bwd_w, o.select_bwd});
    for (const ValueId id : {x, y, weight, all}) {
      if (f.changes_between(id, first, last)) return std::nullopt;
    }
    return o;
  }
};

/// `one` stands where node n stood, for the nodes `gone` too.
void replace(Fusing& f, size_t n, Node one, std::initializer_list<int> gone) {
  for (const int i : gone) f.take_out(i);
  for (const ValueId id : one.outputs) f.writes(static_cast<int>(n), id);
  f.nodes[n] = std::move(one);
}

void fuse_head(Fusing& f, const Graph& graph, const std::function<bool(const CallShapes&)>& takes) {
  for (size_t n = 0; n < f.nodes.size(); ++n) {
    if (f.nodes[n].op != Op::kCrossEntropyBwd) continue;
    const auto head = Head::at(f, static_cast<int>(n));
    if (!head) continue;
    auto node = [&](int i) -> const Node& { return f.nodes[static_cast<size_t>(i)]; };
    const Node &norm = node(head->norm), &loss = node(head->loss), &loss_bwd = f.nodes[n],
               &norm_bwd = node(head->norm_bwd);
    const HeadLossAttrs attributes{eps(norm), classes(loss)};
    const ValueId weight = node(head->linear).inputs[1],
                  dweight = node(head->linear_bwd_w).outputs[0];
    const std::initializer_list<int> gone = {head->norm,         head->linear,
                                             head->loss,         head->linear_bwd_x,
                                             head->linear_bwd_w, head->norm_bwd};
    if (const auto o = OutProj::at(f, *head)) {
      const Node &linear = node(o->linear), &select = node(o->select);
      Node one{Op::kOutProjLoss,
               attributes,
               {linear.inputs[0], linear.inputs[1], select.inputs[0], norm.inputs[1], weight,
                select.inputs[1], loss_bwd.inputs[0]},
               {loss.outputs[0], loss.outputs[1], node(o->linear_bwd_x).outputs[0],
                node(o->linear_bwd_w).outputs[0], node(o->select_bwd).outputs[0],
                norm_bwd.outputs[1], dweight}};
      if (takes_node(one, graph, takes)) {
        for (const int i : gone) f.take_out(i);
        replace(f, n, std::move(one),
                {o->select, o->select_targets, o->linear, o->add, o->linear_bwd_x, o->linear_bwd_w,
                 o->select_bwd});
        continue;
      }
    }
    Node one{Op::kHeadLoss,
             attributes,
             {norm.inputs[0], norm.inputs[1], weight, loss.inputs[1], loss_bwd.inputs[0]},
             {loss.outputs[0], loss.outputs[1], norm_bwd.outputs[0], norm_bwd.outputs[1], dweight}};
    if (takes_node(one, graph, takes)) replace(f, n, std::move(one), gone);
  }
}

/// The dW of the same dy as a dx, kNoNode where there is none that one node could compute together with it.
int partner(const Fusing& f, const Graph& graph, int bwd_x) {
  const Node& dx = f.nodes[static_cast<size_t>(bwd_x)];
  for (const int bwd_w : f.readers(dx.inputs[0])) {
    if (bwd_w == static_cast<int>(f.kept()) || f.gone(bwd_w)) continue;
    const Node& dw = f.nodes[static_cast<size_t>(bwd_w)];
    if (dw.op != Op::kLinearBwdW || dw.inputs[0] != dx.inputs[0] ||
        !(graph.value(dw.inputs[1]).type.shape == graph.value(dx.outputs[0]).type.shape))
      continue;
    const int first = std::min(bwd_x, bwd_w), last = std::max(bwd_x, bwd_w);
    const Node& moved = bwd_x < bwd_w ? dx : dw;
    const std::vector<int>& readers = f.readers(moved.outputs[0]);
    const bool early = !readers.empty() && readers.front() < last;
    const bool changed = f.changes_between(moved.inputs[0], first, last) ||
                         f.changes_between(moved.inputs[1], first, last);
    if (!early && !changed) return bwd_w;
  }
  return kNoNode;
}

void fuse_linear_bwd(Fusing& f, const Graph& graph,
                     const std::function<bool(const CallShapes&)>& takes) {
  for (size_t n = 0; n < f.nodes.size(); ++n) {
    const int bwd_x = static_cast<int>(n);
    if (f.nodes[n].op != Op::kLinearBwdX || f.gone(bwd_x)) continue;
    const int bwd_w = partner(f, graph, bwd_x);
    if (bwd_w == kNoNode) continue;
    const Node &dx = f.nodes[n], &dw = f.nodes[static_cast<size_t>(bwd_w)];
    Node one{Op::kLinearBwd,
             {},
             {dx.inputs[0], dx.inputs[1], dw.inputs[1]},
             {dx.outputs[0], dw.outputs[0]}};
    if (!takes_node(one, graph, takes)) continue;
    const int last = std::max(bwd_x, bwd_w);
    f.take_out(std::min(bwd_x, bwd_w));
    for (const ValueId id : one.outputs) f.writes(last, id);
    f.nodes[static_cast<size_t>(last)] = std::move(one);
  }
}

/// The targets that a scan's gradient was given, kNoValue where none was.
ValueId targets_of_scans(const std::vector<Node>& nodes) {
  for (const Node& node : nodes) {
    const size_t count = node.inputs.size();
    if (node.op == Op::kMamba3ScanAtBwd || node.op == Op::kMamba2ScanAtBwd)
      return node.inputs[count - 2];  // o follows
    // dy, the operands up to the targets, what forward kept, the targets.
    auto given = [&](Op op, bool mamba3, int kept) {
      return node.op == op &&
             count == static_cast<size_t>(1 + ScanAtOperands(mamba3).targets + kept + 1);
    };
    if (given(Op::kMamba3ScanBwd, true, 3) || given(Op::kMamba2ScanBwd, false, 2))
      return node.inputs[count - 1];
  }
  return kNoValue;
}

/// What a scan was promised holds for the linear layers around it: cotangents are zero behind the targets.
void give_targets(Fusing& f, const Graph& graph) {
  const ValueId targets = targets_of_scans(f.nodes);
  if (targets == kNoValue) return;
  const Shape& shape = graph.value(targets).type.shape;
  for (Node& node : f.nodes) {
    if (node.op != Op::kLinearBwd || node.inputs.size() != 3) continue;
    const Shape& dy = graph.value(node.inputs[0]).type.shape;
    if (dy.rank() == 3 && dy[0] == shape[0] && dy[1] == shape[1]) node.inputs.push_back(targets);
  }
}

/// An rms_norm whose rows only a linear and its linear_bwd read.
void fuse_norm(Fusing& f, const Graph& graph, const std::function<bool(const CallShapes&)>& takes) {
  for (size_t n = 0; n < f.nodes.size(); ++n) {
    if (f.nodes[n].op != Op::kRmsNorm || f.gone(static_cast<int>(n))) continue;
    const ValueId x = f.nodes[n].inputs[0], norm = f.nodes[n].inputs[1], u = f.nodes[n].outputs[0];
    const Attributes attributes = f.nodes[n].attributes;
    int forward = kNoNode, backward = kNoNode;
    bool others = std::ranges::count(f.readers(u), static_cast<int>(f.kept())) > 0;
    for (int r = 0; r < static_cast<int>(f.kept()); ++r) {
      const Node& node = f.nodes[static_cast<size_t>(r)];
      if (f.gone(r) || std::ranges::count(node.inputs, u) == 0) continue;
      const size_t count = node.inputs.size();
      const bool unchanged = !f.changes_between(x, static_cast<int>(n), r) &&
                             !f.changes_between(norm, static_cast<int>(n), r);
      if (unchanged && forward == kNoNode && node.op == Op::kLinear && count == 2 &&
          node.inputs[0] == u) {
        forward = r;
      } else if (unchanged && backward == kNoNode && node.op == Op::kLinearBwd &&
                 node.inputs[2] == u && node.inputs[0] != u) {
        backward = r;
      } else {
        others = true;
      }
    }
    if (others || forward == kNoNode) continue;
    Node one{Op::kNormLinear,
             attributes,
             {x, norm, f.nodes[static_cast<size_t>(forward)].inputs[1]},
             f.nodes[static_cast<size_t>(forward)].outputs};
    if (!takes_node(one, graph, takes)) continue;
    if (backward != kNoNode) {
      const Node& old = f.nodes[static_cast<size_t>(backward)];
      Node both{
          Op::kNormLinearBwd, attributes, {old.inputs[0], old.inputs[1], x, norm}, old.outputs};
      both.inputs.insert(both.inputs.end(), old.inputs.begin() + 3, old.inputs.end());
      if (!takes_node(both, graph, takes)) continue;
      f.nodes[static_cast<size_t>(backward)] = std::move(both);
    }
    f.nodes[static_cast<size_t>(forward)] = std::move(one);
    f.take_out(static_cast<int>(n));
  }
}

}  // namespace

bool takes_node(const Node& node, const Graph& graph,
                const std::function<bool(const CallShapes&)>& takes) {
  std::vector<const ValueType*> in;
  for (const ValueId id : node.inputs)
    in.push_back(id == kNoValue ? nullptr : &graph.value(id).type);
  const std::vector<ValueType> out = infer(node.op, node.attributes, in);
  return takes({node.op, &node.attributes, in, out});
}

Graph fused(const Graph& graph, std::span<const ValueId> keep,
            const std::function<bool(const CallShapes&)>& takes) {
  Fusing f(graph, keep);
  fuse_head(f, graph, takes);
  fuse_linear_bwd(f, graph, takes);
  give_targets(f, graph);
  fuse_norm(f, graph, takes);
  fuse_addends(f);
  return graph.with_nodes(f.left());
}

}  // namespace statelab

// The gradient table: one rule per differentiable op. A rule receives the cotangents of the node's outputs (kNoValue = zero)
// and returns those of its inputs (kNoValue = none needed). Ops without a rule end the walk with an error that names them.
#include <algorithm>
#include <stdexcept>

#include "kernels/error.h"
#include "kernels/scan_at.h"
#include "models/graph.h"

namespace statelab {
namespace {

using Ids = std::vector<ValueId>;

/// `wanted[i]`: input i needs a gradient.
Ids rule(Graph& g, const Node& node, const Ids& dout, const std::vector<char>& wanted) {
  const Ids& in = node.inputs;
  const ValueId dy = dout[0];
  for (size_t i = 1; i < dout.size(); ++i) {
    if (dout[i] != kNoValue)
      throw UnsupportedOp(op_name(node.op),
                          "has no gradient with respect to its output " + std::to_string(i));
  }
  switch (node.op) {
    case Op::kAdd:
      return {dy, dy};
    case Op::kEmbedding:
      return {kNoValue, g.apply1(Op::kEmbeddingBwd, {}, {in[0], dy, in[1]})};
    case Op::kLinear: {
      Ids d(in.size(), kNoValue);
      if (wanted[0]) d[0] = g.apply1(Op::kLinearBwdX, {}, {dy, in[1]});
      if (wanted[1]) d[1] = g.apply1(Op::kLinearBwdW, {}, {dy, in[0]});
      if (in.size() > 2) d[2] = dy;
      return d;
    }
    case Op::kRmsNorm:
      return g.apply(Op::kRmsNormBwd, node.attributes, {dy, in[0], in[1]});
    case Op::kSwiglu:
      return {g.apply1(Op::kSwigluBwd, {}, {dy, in[0]})};
    case Op::kCausalConv1d: {
      Ids operands = {dy};
      operands.insert(operands.end(), in.begin(), in.end());
      return g.apply(Op::kCausalConv1dBwd, node.attributes, operands);
    }
    case Op::kMamba3Scan:
    case Op::kMamba2Scan:
    case Op::kGatedDeltaScan: {
      // The scans at one position have the same operands up to the targets, which come last here.
      const auto targets = static_cast<size_t>(ScanAtOperands(node.op == Op::kMamba3Scan).targets);
      const auto behind = in.begin() + static_cast<std::ptrdiff_t>(std::min(targets, in.size()));
      Ids operands = {dy};
      operands.insert(operands.end(), in.begin(), behind);
      operands.insert(operands.end(), node.outputs.begin() + 1,
                      node.outputs.end());  // o, [Phi,] states
      operands.insert(operands.end(), behind, in.end());
      const Op backward = node.op == Op::kMamba3Scan   ? Op::kMamba3ScanBwd
                          : node.op == Op::kMamba2Scan ? Op::kMamba2ScanBwd
                                                       : Op::kGatedDeltaScanBwd;
      return g.apply(backward, node.attributes, operands);
    }
    case Op::kMamba3ScanAt:
    case Op::kMamba2ScanAt: {
      Ids operands = {dy};
      operands.insert(operands.end(), in.begin(), in.end());
      operands.push_back(node.outputs[1]);  // o
      return g.apply(node.op == Op::kMamba3ScanAt ? Op::kMamba3ScanAtBwd : Op::kMamba2ScanAtBwd,
                     node.attributes, operands);
    }
    case Op::kSelect:
      return {g.apply1(Op::kSelectBwd, {}, {dy, in[1]})};
    case Op::kLstm: {
      Ids operands = {dy};
      operands.insert(operands.end(), in.begin(), in.end());
      operands.insert(operands.end(), node.outputs.begin(), node.outputs.end());
      return g.apply(Op::kLstmBwd, node.attributes, operands);
    }
    case Op::kCrossEntropy:
      return {g.apply1(Op::kCrossEntropyBwd, node.attributes, {dy, in[0], in[1]}), kNoValue};
    default:
      throw UnsupportedOp(op_name(node.op), "has no gradient");
  }
}

}  // namespace

std::vector<ValueId> add_gradients(Graph& graph, ValueId loss, std::span<const ValueId> wrt) {
  const size_t count = graph.nodes().size();
  std::vector<char> needs(graph.values().size());
  for (ValueId id : wrt) needs[static_cast<size_t>(id)] = 1;
  auto needed = [&](ValueId id) { return id != kNoValue && needs[static_cast<size_t>(id)]; };
  for (size_t n = 0; n < count; ++n) {
    const Node& node = graph.nodes()[n];
    if (std::any_of(node.inputs.begin(), node.inputs.end(), needed)) {
      for (ValueId id : node.outputs) needs[static_cast<size_t>(id)] = 1;
    }
  }
  std::vector<ValueId> grad(graph.values().size(), kNoValue);
  grad[static_cast<size_t>(loss)] = graph.apply1(Op::kConstant, ConstantAttrs{1.0}, {});
  for (size_t n = count; n-- > 0;) {
    const Node node = graph.nodes()[n];  // a copy: rules append nodes
    std::vector<char> wanted;
    for (ValueId id : node.inputs) wanted.push_back(needed(id));
    if (std::find(wanted.begin(), wanted.end(), 1) == wanted.end()) continue;
    Ids dout;
    for (ValueId id : node.outputs) dout.push_back(grad[static_cast<size_t>(id)]);
    if (std::all_of(dout.begin(), dout.end(), [](ValueId id) { return id == kNoValue; })) continue;
    const Ids din = rule(graph, node, dout, wanted);
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      if (!wanted[i] || din[i] == kNoValue) continue;
      ValueId& slot = grad[static_cast<size_t>(node.inputs[i])];
      slot = slot == kNoValue ? din[i] : graph.apply1(Op::kAdd, {}, {slot, din[i]});
    }
  }
  std::vector<ValueId> out;
  for (ValueId id : wrt) {
    if (grad[static_cast<size_t>(id)] == kNoValue)
      throw UnsupportedOp("autodiff", graph.value(id).name + " does not influence the loss");
    out.push_back(grad[static_cast<size_t>(id)]);
  }
  return out;
}

}  // namespace statelab

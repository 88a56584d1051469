// The nodes that a CUDA device computes in one kernel.
#pragma once

#include <functional>
#include <span>

#include "kernels/call.h"
#include "models/graph.h"

namespace statelab {

/// Does `takes` accept the shapes of this node, whose outputs need not exist yet? Throws ShapeError as Graph::apply() would.
bool takes_node(const Node& node, const Graph& graph,
                const std::function<bool(const CallShapes&)>& takes);

/// `graph`, which verify_graph() passes, with fewer nodes: the same values under the same ids, and verify_graph() passes it too.
/// Values in `keep` are still written, and what no node writes any more is read by none.
///   addends  a sum whose one term is a linear or the dx of rms_norm_bwd, read by nothing else, becomes that node's addend: the
///            same order of operations, so the same bits
///   head     rms_norm, linear and cross_entropy with their gradients become one head_loss, where `takes` it, nothing else
///            reads what lies between and both directions have the same eps, classes and operands: the same equations, rounded
///            in another order
///   out_proj select, linear and add before such a head, and their gradients, join it as one out_proj_loss where its targets are
///            selected too, under the same conditions
///   linear   linear_bwd_x and linear_bwd_w of one dy become one linear_bwd where `takes` it and nothing up to the second reads
///            what the first writes: it stands where the second stood. The same equations. Where a scan was given targets it is
///            given them too
///   norm     rms_norm that only one linear, and its linear_bwd, read becomes norm_linear and norm_linear_bwd where `takes` them: the
///            same equations
/// None where a parameter or state would be read on the other side of its update.
Graph fused(const Graph& graph, std::span<const ValueId> keep,
            const std::function<bool(const CallShapes&)>& takes);

}  // namespace statelab

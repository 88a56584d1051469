// The nodes that a CUDA device computes in one kernel.
#pragma once

#include <functional>
#include <span>

#include "kernels/call.h"
#include "models/graph.h"

namespace statelab {

/// `graph` with fewer nodes: the same values under the same ids. Values in `keep` are still written, and what no node writes any
/// more is read by none.
///   addends  a sum whose one term is a linear or the dx of rms_norm_bwd, read by nothing else, becomes that node's addend: the
///            same order of operations, so the same bits
///   head     rms_norm, linear and cross_entropy with their gradients become one head_loss, where `takes` it and nothing else
///            reads what lies between: the same equations, rounded in another order
Graph fused(const Graph& graph, std::span<const ValueId> keep,
            const std::function<bool(const CallShapes&)>& takes);

}  // namespace statelab

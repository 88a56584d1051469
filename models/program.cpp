#include "models/program.h"

#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "models/arena.h"
#include "models/cuda_program.h"

namespace statelab {
namespace {

int64_t rounded_up(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Bytes of each node's workspace, per member.
template <class S>
std::vector<int64_t> cpu_workspaces(const CallTable& calls) {
  std::vector<int64_t> out;
  for (const CallShapes& shapes : calls.shapes) {
    const CpuKernel<S>& kernel = cpu_kernel<S>(shapes.op);
    const int64_t elements = kernel.workspace_elements ? kernel.workspace_elements(shapes) : 0;
    out.push_back(rounded_up(elements * static_cast<int64_t>(sizeof(S))));
  }
  return out;
}

}  // namespace

CallTable::CallTable(const Graph& graph) : in_(graph.nodes().size()), out_(graph.nodes().size()) {
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const Node& node = graph.nodes()[n];
    for (ValueId id : node.inputs)
      in_[n].push_back(id == kNoValue ? nullptr : &graph.value(id).type);
    for (ValueId id : node.outputs) out_[n].push_back(graph.value(id).type);
    shapes.push_back({node.op, &node.attributes, in_[n], out_[n]});
  }
}

template <class S>
CpuProgram<S>::CpuProgram(const Graph& graph, MemberStore& store, ThreadPool& pool,
                          std::vector<ValueId> keep)
    : graph_(graph), members_(store.members()), executor_(pool) {
  const auto& nodes = graph_.nodes();
  const CallTable calls(graph_);
  const std::vector<int64_t> workspace = cpu_workspaces<S>(calls);
  int64_t scratch = 0;
  for (const CallShapes& shapes : calls.shapes) {
    const CpuKernel<S>& kernel = cpu_kernel<S>(shapes.op);
    if (kernel.scratch_elements) scratch = std::max(scratch, kernel.scratch_elements(shapes));
  }
  plan_ = plan_memory(graph_, workspace, keep, members_, sizeof(S));
  verify_graph(graph_, plan_, workspace, keep, members_, sizeof(S));
  arena_.resize(static_cast<size_t>(plan_.bytes + kAlignment));
  std::byte* base = aligned(arena_);
  for (size_t v = 0; v < graph_.values().size(); ++v) {
    const GraphValue& value = graph_.values()[v];
    if (value.role == Role::kTemporary) {
      operands_.push_back({base + plan_.offset[v],
                           member_stride_bytes(value.type.shape, value.type.dtype, sizeof(S)),
                           &value.type.shape});
    } else {
      operands_.push_back(store.bind(value.name, value.type));
    }
  }
  in_.resize(nodes.size());
  out_.resize(nodes.size());
  for (size_t n = 0; n < nodes.size(); ++n) {
    for (ValueId id : nodes[n].inputs)
      in_[n].push_back(id == kNoValue ? Operand{} : operands_[static_cast<size_t>(id)]);
    for (ValueId id : nodes[n].outputs) out_[n].push_back(operands_[static_cast<size_t>(id)]);
    const CpuKernel<S>& kernel = cpu_kernel<S>(nodes[n].op);
    PreparedCall<S> p;
    p.call = {nodes[n].op,
              &nodes[n].attributes,
              in_[n],
              out_[n],
              workspace[n] > 0 ? Operand{base + plan_.workspace_offset[n], workspace[n], nullptr}
                               : Operand{},
              &draw_};
    p.kernel = &kernel;
    p.blocks = kernel.blocks(calls.shapes[n]);
    calls_.push_back(p);
  }
  executor_.reserve_scratch(scratch);
}

template <class S>
void CpuProgram<S>::set_draw(DrawRow rows, std::unique_ptr<CudaDraw>) {
  draw_ = std::move(rows);
}

template <class S>
void CpuProgram<S>::run(int64_t times) {
  for (int64_t i = 0; i < times; ++i) {
    for (const auto& call : calls_) executor_.run(call, members_);
  }
}

template <class S>
void CpuProgram<S>::copy_out(ValueId id, int member, void* to, int64_t bytes) const {
  std::memcpy(to, operands_[static_cast<size_t>(id)].template at<std::byte>(member),
              static_cast<size_t>(bytes));
}

template class CpuProgram<float>;
template class CpuProgram<double>;

template <class S>
std::unique_ptr<Program> make_program(const Graph& graph, MemberStore& store, Backend& backend,
                                      std::vector<ValueId> keep) {
  if (!backend.device().is_cuda())
    return std::make_unique<CpuProgram<S>>(graph, store, backend.pool(), std::move(keep));
  if constexpr (std::is_same_v<S, float>) {
    return std::make_unique<CudaProgram>(graph, store, *backend.stream(),
                                         backend.device().precision, std::move(keep));
  }
  throw std::invalid_argument("double is computed on the CPU only");
}
template std::unique_ptr<Program> make_program<float>(const Graph&, MemberStore&, Backend&,
                                                      std::vector<ValueId>);
template std::unique_ptr<Program> make_program<double>(const Graph&, MemberStore&, Backend&,
                                                       std::vector<ValueId>);

int64_t planned_arena_bytes(const Graph& built, std::span<const ValueId> keep, int members,
                            const ComputeDevice& device) {
  const bool cuda = device.is_cuda();
  const Graph graph = cuda ? fused_for_cuda(built, keep) : built;
  const CallTable calls(graph);
  const std::vector<int64_t> workspace =
      cuda ? cuda_workspaces(calls) : cpu_workspaces<float>(calls);
  return plan_memory(graph, workspace, keep, members, sizeof(float),
                     cuda ? Unread::kDropped : Unread::kStored)
      .bytes;
}

}  // namespace statelab

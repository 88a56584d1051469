#include "models/program.h"

#include <stdexcept>

namespace statelab {
namespace {

std::byte* aligned(std::vector<std::byte>& memory) {
  return reinterpret_cast<std::byte*>(
      (reinterpret_cast<uintptr_t>(memory.data()) + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace

Operand MemberStore::bind(const std::string& name, const ValueType& type) {
  auto [it, fresh] = entries_.try_emplace(name);
  Entry& e = it->second;
  if (fresh) {
    e.type = type;
    const int64_t stride = member_stride_bytes(type.shape, type.dtype, real_bytes_);
    e.memory.resize(static_cast<size_t>(members_ * stride + kAlignment));
    e.operand = {aligned(e.memory), stride, &e.type.shape};
  } else if (!(e.type.shape == type.shape) || e.type.dtype != type.dtype) {
    throw std::logic_error(name + " exists as " + e.type.shape.text() + " and is asked for as " +
                           type.shape.text());
  }
  return e.operand;
}

int64_t MemberStore::bytes() const {
  int64_t total = 0;
  for (const auto& [name, e] : entries_) total += static_cast<int64_t>(e.memory.size());
  return total;
}

template <class S>
CpuProgram<S>::CpuProgram(const Graph& graph, MemberStore& store, ThreadPool& pool,
                          std::vector<ValueId> keep)
    : graph_(graph), members_(store.members()), executor_(pool) {
  const auto& nodes = graph_.nodes();
  std::vector<std::vector<const ValueType*>> in_types(nodes.size());
  std::vector<std::vector<ValueType>> out_types(nodes.size());
  std::vector<CallShapes> shapes;
  std::vector<int64_t> workspace;
  int64_t scratch = 0;
  for (size_t n = 0; n < nodes.size(); ++n) {
    for (ValueId id : nodes[n].inputs)
      in_types[n].push_back(id == kNoValue ? nullptr : &graph_.value(id).type);
    for (ValueId id : nodes[n].outputs) out_types[n].push_back(graph_.value(id).type);
    shapes.push_back({nodes[n].op, &nodes[n].attributes, in_types[n], out_types[n]});
    const CpuKernel<S>& kernel = cpu_kernel<S>(nodes[n].op);
    const int64_t elements = kernel.workspace_elements ? kernel.workspace_elements(shapes[n]) : 0;
    workspace.push_back((elements * static_cast<int64_t>(sizeof(S)) + kAlignment - 1) / kAlignment *
                        kAlignment);
    if (kernel.scratch_elements) scratch = std::max(scratch, kernel.scratch_elements(shapes[n]));
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
    p.blocks = kernel.blocks(shapes[n]);
    calls_.push_back(p);
  }
  executor_.reserve_scratch(scratch);
}

template <class S>
void CpuProgram<S>::set_draw(DrawRow draw) {
  draw_ = std::move(draw);
}

template <class S>
void CpuProgram<S>::run(const std::vector<char>* active) {
  for (const auto& call : calls_) executor_.run(call, members_, active);
}

template class CpuProgram<float>;
template class CpuProgram<double>;

}  // namespace statelab

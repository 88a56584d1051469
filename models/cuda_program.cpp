#include "models/cuda_program.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/member_ops.h"
#include "kernels/error.h"
#include "models/fusion.h"

namespace statelab {

std::vector<int64_t> cuda_workspaces(const CallTable& calls) {
  std::vector<int64_t> out;
  for (const CallShapes& shapes : calls.shapes) {
    if (const std::string limit = cuda_limit(shapes); !limit.empty())
      throw UnsupportedOp(op_name(shapes.op), limit);
    int64_t bytes = 0;
    if (shapes.op != Op::kDraw) {
      const CudaKernel& kernel = cuda_kernel(shapes.op);
      if (kernel.workspace_bytes != nullptr) bytes = kernel.workspace_bytes(shapes);
    }
    out.push_back((bytes + kAlignment - 1) / kAlignment * kAlignment);
  }
  return out;
}

Graph fused_for_cuda(const Graph& graph, std::span<const ValueId> keep) {
  return fused(graph, keep, [](const CallShapes& shapes) {
    // For few rows the weight, which every block splits anew, weighs more than reading dy twice.
    constexpr int64_t kFewestRows = 2048;
    if (shapes.op == Op::kLinearBwd && shapes.in[0]->shape.rows() < kFewestRows) return false;
    return cuda_limit(shapes).empty();
  });
}

CudaProgram::CudaProgram(const Graph& graph, MemberStore& store, CudaStream& stream,
                         Precision precision, std::vector<ValueId> keep)
    : graph_(fused_for_cuda(graph, keep)), members_(store.members()), stream_(stream) {
  const auto& nodes = graph_.nodes();
  const std::vector<int64_t> workspace = cuda_workspaces(CallTable(graph_));
  plan_ = plan_memory(graph_, workspace, keep, members_, sizeof(float), Unread::kDropped);
  verify_graph(graph_, plan_, workspace, keep, members_, sizeof(float), Unread::kDropped);
  arena_ = CudaBuffer(stream_.device(), plan_.bytes);
  // NaN in floats, -1 in tokens: what a kernel forgets to write is seen.
  stream_.fill(arena_.data(), 0xFF, arena_.bytes());
  int64_t constant_bytes = 0;
  std::vector<int64_t> constant(graph_.values().size(), -1);  // where it lies among the constants
  for (const Node& node : nodes) {
    if (node.op != Op::kConstant) continue;
    constant[static_cast<size_t>(node.outputs[0])] = constant_bytes;
    constant_bytes += kAlignment * members_;
  }
  constants_ = CudaBuffer(stream_.device(), constant_bytes);
  for (size_t v = 0; v < graph_.values().size(); ++v) {
    const GraphValue& value = graph_.values()[v];
    if (constant[v] >= 0) {
      operands_.push_back({constants_.data() + constant[v], kAlignment, &value.type.shape});
    } else if (value.role != Role::kTemporary) {
      operands_.push_back(store.bind(value.name, value.type));
    } else {
      operands_.push_back({plan_.offset[v] < 0 ? nullptr : arena_.data() + plan_.offset[v],
                           member_stride_bytes(value.type.shape, value.type.dtype, sizeof(float)),
                           &value.type.shape});
    }
  }
  in_.resize(nodes.size());
  out_.resize(nodes.size());
  for (size_t n = 0; n < nodes.size(); ++n) {
    for (ValueId id : nodes[n].inputs)
      in_[n].push_back(id == kNoValue ? Operand{} : operands_[static_cast<size_t>(id)]);
    for (ValueId id : nodes[n].outputs) out_[n].push_back(operands_[static_cast<size_t>(id)]);
    CudaCall call;
    call.op = nodes[n].op;
    call.attributes = &nodes[n].attributes;
    call.in = in_[n];
    call.out = out_[n];
    if (workspace[n] > 0)
      call.workspace = {arena_.data() + plan_.workspace_offset[n], workspace[n], nullptr};
    call.members = members_;
    call.precision = precision;
    if (call.op == Op::kConstant) {
      cuda_kernel(call.op).launch(call, stream_.handle());
    } else {
      calls_.push_back(call);
    }
  }
}

CudaProgram::~CudaProgram() {
  try {
    stream_.synchronize();  // the graph and the arena may be in use
  } catch (const std::exception&) {
    // A broken device tells whoever asks it for results.
  }
}

void CudaProgram::set_draw(DrawRow rows, std::unique_ptr<CudaDraw> device) {
  if (captured_) stream_.synchronize();
  captured_ = CudaGraph();
  rows_ = std::move(rows);
  draw_ = std::move(device);
}

void CudaProgram::run(int64_t times) {
  if (times <= 0) return;
  if (!captured_) {
    captured_ = CudaGraph::capture(stream_, [this] { enqueue(); });
  }
  for (int64_t i = 0; i < times; ++i) {
    if (draw_ == nullptr) {
      for (const CudaCall& call : calls_) {
        if (call.op == Op::kDraw) draw_on_host(call);
      }
    }
    captured_.launch(stream_);
  }
}

void CudaProgram::enqueue() const {
  for (size_t i = 0; i < calls_.size();) {
    const CudaCall& call = calls_[i];
    const size_t joined = cuda_member_ops(std::span(calls_).subspan(i));
    i += std::max<size_t>(joined, 1);
    if (joined > 0) {
      launch_member_ops(std::span(calls_).subspan(i - joined, joined), stream_.handle());
    } else if (call.op != Op::kDraw) {
      cuda_kernel(call.op).launch(call, stream_.handle());
    } else if (draw_ != nullptr) {
      enqueue_draw(call);
    }
  }
}

void CudaProgram::enqueue_draw(const CudaCall& call) const {
  const auto& a = call.attrs<DrawAttrs>();
  draw_->launch({.step = call.in[0],
                 .tokens = call.out[0],
                 .targets = call.out[1],
                 .members = members_,
                 .batch = a.batch,
                 .seqlen = a.seqlen},
                stream_.handle());
}

void CudaProgram::draw_on_host(const CudaCall& call) {
  if (!rows_) throw std::logic_error("a program with a draw needs set_draw()");
  const auto& a = call.attrs<DrawAttrs>();
  const auto bytes_of = [&](const Operand& x) {
    return static_cast<size_t>(members_ * x.stride_bytes);
  };
  std::vector<std::byte> steps(bytes_of(call.in[0])), tokens(bytes_of(call.out[0])),
      targets(bytes_of(call.out[1]));
  stream_.to_host(steps.data(), call.in[0].data, static_cast<int64_t>(steps.size()));
  const Operand step{steps.data(), call.in[0].stride_bytes, nullptr},
      token{tokens.data(), call.out[0].stride_bytes, nullptr},
      target{targets.data(), call.out[1].stride_bytes, nullptr};
  const auto n = static_cast<size_t>(a.seqlen);
  for (int m = 0; m < members_; ++m) {
    const auto at = static_cast<uint32_t>(*step.at<int32_t>(m));
    for (int64_t b = 0; b < a.batch; ++b) {
      rows_(m, at, static_cast<uint32_t>(b), {token.at<int32_t>(m) + b * a.seqlen, n},
            {target.at<int32_t>(m) + b * a.seqlen, n});
    }
  }
  stream_.to_device(call.out[0].data, tokens.data(), static_cast<int64_t>(tokens.size()));
  stream_.to_device(call.out[1].data, targets.data(), static_cast<int64_t>(targets.size()));
}

void CudaProgram::copy_out(ValueId id, int member, void* to, int64_t bytes) const {
  const Operand& x = operands_[static_cast<size_t>(id)];
  if (x.data == nullptr) throw std::logic_error(graph_.value(id).name + " was not kept");
  stream_.to_host(to, x.at<std::byte>(member), bytes);
}

}  // namespace statelab

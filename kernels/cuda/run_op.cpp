#include "kernels/cuda/run_op.h"

#include <stdexcept>

#include "kernels/cuda/op_memory.h"
#include "kernels/error.h"

namespace statelab {
namespace cuda {

namespace {

std::vector<const ValueType*> types_of(const std::vector<OpArray>& inputs) {
  std::vector<const ValueType*> types;
  for (const OpArray& a : inputs) types.push_back(a.absent ? nullptr : &a.type);
  return types;
}

}  // namespace

std::vector<ValueType> supported_outputs(Op op, const Attributes& attributes,
                                         const std::vector<OpArray>& inputs) {
  if (op == Op::kDraw) throw UnsupportedOp(op_name(op), "has no CUDA kernel of its own");
  const std::vector<const ValueType*> types = types_of(inputs);
  std::vector<ValueType> out = infer(op, attributes, types);
  const std::string limit = cuda_limit({op, &attributes, types, out});
  if (!limit.empty()) throw UnsupportedOp(op_name(op), limit);
  return out;
}

OpMemory::OpMemory(CudaStream& stream, Op op, const Attributes& attributes,
                   std::span<const std::vector<OpArray>* const> inputs)
    : op_(op), attributes_(attributes), members_(static_cast<int>(inputs.size())) {
  if (inputs.empty()) throw std::invalid_argument("an op needs at least one member");
  const std::vector<OpArray>& first = *inputs[0];
  out_types_ = supported_outputs(op_, attributes_, first);
  for (const OpArray& a : first) {
    in_types_.push_back(a.type);
    absent_.push_back(a.absent);
  }
  for (size_t i = 0; i < in_types_.size(); ++i) {
    in_.push_back(absent_[i] ? Operand{} : allocate(stream, in_types_[i]));
    if (absent_[i]) continue;
    std::vector<std::byte> bytes(static_cast<size_t>(in_[i].stride_bytes));
    const OpArray* held = nullptr;
    for (int m = 0; m < members_; ++m) {
      const OpArray& a = inputs[static_cast<size_t>(m)]->at(i);
      if (a.absent || !(a.type.shape == in_types_[i].shape) || a.type.dtype != in_types_[i].dtype)
        throw std::invalid_argument("members' operands must agree in shape and type");
      if (&a != held) store_array<float>(a, bytes.data());
      held = &a;
      stream.to_device(in_[i].at<std::byte>(m), bytes.data(), in_[i].stride_bytes);
    }
  }
  for (const ValueType& type : out_types_) out_.push_back(allocate(stream, type));
  const CudaKernel& kernel = cuda_kernel(op_);
  const std::vector<const ValueType*> types = types_of(first);
  const CallShapes shapes{op_, &attributes_, types, out_types_};
  const int64_t floats = kernel.workspace_bytes ? (kernel.workspace_bytes(shapes) + 3) / 4 : 0;
  workspace_ = allocate(stream, {DType::kReal, Shape{static_cast<int>(floats)}});
  workspace_.shape = nullptr;
}

Operand OpMemory::allocate(CudaStream& stream, const ValueType& type) {
  const int64_t stride = member_stride_bytes(type.shape, type.dtype, sizeof(float));
  memory_.emplace_back(stream.device(), stride * members_);
  stream.fill(memory_.back().data(), 0xFF, stride * members_);
  return {memory_.back().data(), stride, &type.shape};
}

CudaCall OpMemory::call(Precision precision) const {
  return {op_, &attributes_, in_, out_, workspace_, members_, precision};
}

void OpMemory::launch(Precision precision, CudaStream& stream) const {
  cuda_kernel(op_).launch(call(precision), stream.handle());
}

OpRun OpMemory::read(CudaStream& stream, int member) const {
  auto load = [&](const ValueType& type, const Operand& from) {
    std::vector<std::byte> bytes(static_cast<size_t>(from.stride_bytes));
    stream.to_host(bytes.data(), from.at<std::byte>(member), from.stride_bytes);
    return load_array<float>(type, bytes.data());
  };
  OpRun run;
  for (size_t i = 0; i < out_.size(); ++i) run.outputs.push_back(load(out_types_[i], out_[i]));
  for (size_t i = 0; i < in_.size(); ++i)
    run.inputs.push_back(absent_[i] ? absent_array() : load(in_types_[i], in_[i]));
  return run;
}

int64_t OpMemory::operand_bytes() const {
  int64_t bytes = 0;
  for (const auto* operands : {&in_, &out_}) {
    for (const Operand& x : *operands) bytes += x.stride_bytes * members_;
  }
  for (const int i : updated_inputs(op_, static_cast<int>(in_.size())))
    bytes += in_[static_cast<size_t>(i)].stride_bytes * members_;
  return bytes;
}

}  // namespace cuda

std::vector<OpRun> run_op_cuda(Op op, const Attributes& attributes,
                               const std::vector<std::vector<OpArray>>& inputs, Precision precision,
                               int device) {
  std::vector<const std::vector<OpArray>*> members;
  for (const std::vector<OpArray>& member : inputs) {
    cuda::supported_outputs(op, attributes, member);  // before a device is asked for
    members.push_back(&member);
  }
  CudaStream stream(device);
  const cuda::OpMemory memory(stream, op, attributes, members);
  memory.launch(precision, stream);
  stream.synchronize();
  std::vector<OpRun> runs;
  for (size_t m = 0; m < inputs.size(); ++m)
    runs.push_back(memory.read(stream, static_cast<int>(m)));
  return runs;
}

}  // namespace statelab

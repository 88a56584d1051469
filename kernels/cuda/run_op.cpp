#include "kernels/cuda/run_op.h"

#include <stdexcept>

#include "kernels/cuda/op_memory.h"
#include "kernels/error.h"

namespace statelab {
namespace cuda {

OpMemory::OpMemory(CudaStream& stream, Op op, const Attributes& attributes,
                   const std::vector<std::vector<OpArray>>& inputs)
    : op_(op), attributes_(attributes), members_(static_cast<int>(inputs.size())) {
  if (inputs.empty()) throw std::invalid_argument("an op needs at least one member");
  if (op == Op::kDraw) throw UnsupportedOp(op_name(op), "has no CUDA kernel of its own");
  for (const OpArray& a : inputs[0]) {
    in_types_.push_back(a.type);
    absent_.push_back(a.absent);
  }
  std::vector<const ValueType*> types;
  for (size_t i = 0; i < in_types_.size(); ++i)
    types.push_back(absent_[i] ? nullptr : &in_types_[i]);
  out_types_ = infer(op_, attributes_, types);
  const CallShapes shapes{op_, &attributes_, types, out_types_};
  const std::string limit = cuda_limit(shapes);
  if (!limit.empty()) throw UnsupportedOp(op_name(op_), limit);
  for (size_t i = 0; i < in_types_.size(); ++i) {
    in_.push_back(absent_[i] ? Operand{} : allocate(stream, in_types_[i]));
    if (absent_[i]) continue;
    for (int m = 0; m < members_; ++m) {
      const OpArray& a = inputs[static_cast<size_t>(m)].at(i);
      if (a.absent || !(a.type.shape == in_types_[i].shape) || a.type.dtype != in_types_[i].dtype)
        throw std::invalid_argument("members' operands must agree in shape and type");
      std::vector<std::byte> bytes(static_cast<size_t>(in_[i].stride_bytes));
      store_array<float>(a, bytes.data());
      stream.to_device(in_[i].at<std::byte>(m), bytes.data(), in_[i].stride_bytes);
    }
  }
  for (const ValueType& type : out_types_) out_.push_back(allocate(stream, type));
  const CudaKernel& kernel = cuda_kernel(op_);
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
  return bytes;
}

}  // namespace cuda

std::vector<OpRun> run_op_cuda(Op op, const Attributes& attributes,
                               const std::vector<std::vector<OpArray>>& inputs, Precision precision,
                               int device) {
  CudaStream stream(device);
  const cuda::OpMemory memory(stream, op, attributes, inputs);
  memory.launch(precision, stream);
  stream.synchronize();
  std::vector<OpRun> runs;
  for (size_t m = 0; m < inputs.size(); ++m)
    runs.push_back(memory.read(stream, static_cast<int>(m)));
  return runs;
}

}  // namespace statelab

#include "kernels/cpu/run_op.h"

#include <cstring>
#include <memory>
#include <stdexcept>

#include "kernels/cpu/executor.h"
#include "kernels/error.h"

namespace statelab {
namespace {

struct AlignedBytes {
  std::vector<std::byte> memory;
  std::byte* data = nullptr;
  explicit AlignedBytes(int64_t bytes)
      : memory(static_cast<size_t>(bytes + kAlignment), std::byte{0xFF}) {
    data = reinterpret_cast<std::byte*>(
        (reinterpret_cast<uintptr_t>(memory.data()) + kAlignment - 1) / kAlignment * kAlignment);
  }
};

template <class S>
void store(const OpArray& a, std::byte* to) {
  for (size_t i = 0; i < a.data.size(); ++i) {
    switch (a.type.dtype) {
      case DType::kReal:
        reinterpret_cast<S*>(to)[i] = static_cast<S>(a.data[i]);
        break;
      case DType::kInt32:
        reinterpret_cast<int32_t*>(to)[i] = static_cast<int32_t>(a.data[i]);
        break;
      case DType::kFloat64:
        reinterpret_cast<double*>(to)[i] = a.data[i];
        break;
    }
  }
}

template <class S>
OpArray load(const ValueType& type, const std::byte* from) {
  OpArray a{type, std::vector<double>(static_cast<size_t>(type.shape.size())), false};
  for (size_t i = 0; i < a.data.size(); ++i) {
    switch (type.dtype) {
      case DType::kReal:
        a.data[i] = static_cast<double>(reinterpret_cast<const S*>(from)[i]);
        break;
      case DType::kInt32:
        a.data[i] = reinterpret_cast<const int32_t*>(from)[i];
        break;
      case DType::kFloat64:
        a.data[i] = reinterpret_cast<const double*>(from)[i];
        break;
    }
  }
  return a;
}

}  // namespace

OpArray real_array(Shape shape, std::vector<double> data) {
  if (static_cast<int64_t>(data.size()) != shape.size()) {
    throw std::invalid_argument("array of " + std::to_string(data.size()) + " elements for shape " +
                                shape.text());
  }
  return {{DType::kReal, std::move(shape)}, std::move(data), false};
}

OpArray absent_array() { return {{}, {}, true}; }

template <class S>
OpRun run_op(Op op, const Attributes& attributes, const std::vector<OpArray>& inputs, int threads) {
  std::vector<const ValueType*> types;
  for (const OpArray& a : inputs) types.push_back(a.absent ? nullptr : &a.type);
  const std::vector<ValueType> out_types = infer(op, attributes, types);
  const CallShapes shapes{op, &attributes, types, out_types};
  const CpuKernel<S>& kernel = cpu_kernel<S>(op);

  std::vector<std::unique_ptr<AlignedBytes>> memory;
  auto allocate = [&](const ValueType& t) {
    const int64_t stride = member_stride_bytes(t.shape, t.dtype, sizeof(S));
    memory.push_back(std::make_unique<AlignedBytes>(stride));
    return Operand{memory.back()->data, stride, &t.shape};
  };
  std::vector<Operand> in, out;
  for (const OpArray& a : inputs) {
    in.push_back(a.absent ? Operand{} : allocate(a.type));
    if (!a.absent) store<S>(a, in.back().data);
  }
  for (const ValueType& t : out_types) out.push_back(allocate(t));
  const Shape workspace_shape{
      kernel.workspace_elements ? static_cast<int>(kernel.workspace_elements(shapes)) : 0};
  const ValueType workspace_type{DType::kReal, workspace_shape};

  PreparedCall<S> prepared;
  prepared.call = {op, &attributes, in, out, allocate(workspace_type), nullptr};
  prepared.kernel = &kernel;
  prepared.blocks = kernel.blocks(shapes);
  ThreadPool pool(threads);
  Executor<S> executor(pool);
  executor.reserve_scratch(kernel.scratch_elements ? kernel.scratch_elements(shapes) : 0);
  executor.run(prepared, 1);

  OpRun result;
  for (size_t i = 0; i < out.size(); ++i)
    result.outputs.push_back(load<S>(out_types[i], out[i].data));
  for (size_t i = 0; i < in.size(); ++i) {
    result.inputs.push_back(inputs[i].absent ? absent_array()
                                             : load<S>(inputs[i].type, in[i].data));
  }
  return result;
}

template OpRun run_op<float>(Op, const Attributes&, const std::vector<OpArray>&, int);
template OpRun run_op<double>(Op, const Attributes&, const std::vector<OpArray>&, int);

}  // namespace statelab

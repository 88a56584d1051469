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

}  // namespace

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
    if (!a.absent) store_array<S>(a, in.back().data);
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
    result.outputs.push_back(load_array<S>(out_types[i], out[i].data));
  for (size_t i = 0; i < in.size(); ++i) {
    result.inputs.push_back(inputs[i].absent ? absent_array()
                                             : load_array<S>(inputs[i].type, in[i].data));
  }
  return result;
}

template OpRun run_op<float>(Op, const Attributes&, const std::vector<OpArray>&, int);
template OpRun run_op<double>(Op, const Attributes&, const std::vector<OpArray>&, int);

}  // namespace statelab

// Stands in for the CUDA backend in builds without nvcc: every question gets an honest answer, every use an error.
#include "kernels/cuda/device.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/member_ops.h"
#include "kernels/cuda/op_memory.h"
#include "kernels/cuda/run_op.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/time_op.h"

namespace statelab {
namespace {

const char* const kReason =
    "this build has no CUDA backend: nvcc was not found, or STATELAB_CUDA=OFF, when it was "
    "configured";

[[noreturn]] void refuse() { throw CudaError(kReason); }

}  // namespace

bool built_with_cuda() { return false; }

std::vector<CudaDevice> cuda_devices(std::string* reason) {
  if (reason) *reason = kReason;
  return {};
}

const CudaKernel& cuda_kernel(Op) { refuse(); }
std::string cuda_limit(const CallShapes&) { return kReason; }
size_t cuda_member_ops(std::span<const CudaCall>) { return 0; }
void launch_member_ops(std::span<const CudaCall>, CUstream_st*) { refuse(); }
int cuda_chunk_size(int, int, int chunk_size, int) { return chunk_size; }
int cuda_delta_chunk_size(int, int, int chunk_size, int) { return chunk_size; }

std::vector<OpRun> run_op_cuda(Op, const Attributes&, const std::vector<std::vector<OpArray>>&,
                               Precision, int) {
  refuse();
}

namespace cuda {
OpMemory::OpMemory(CudaStream&, Op op, const Attributes& attributes,
                   std::span<const std::vector<OpArray>* const>)
    : op_(op), attributes_(attributes), members_(0) {
  refuse();
}
CudaCall OpMemory::call(Precision) const { refuse(); }
void OpMemory::launch(Precision, CudaStream&) const { refuse(); }
OpRun OpMemory::read(CudaStream&, int) const { refuse(); }
int64_t OpMemory::operand_bytes() const { refuse(); }
}  // namespace cuda

CudaTiming time_op_cuda(Op, const Attributes&, const std::vector<OpArray>&, int, Precision, int) {
  refuse();
}
double cuda_copy_rate(int) { refuse(); }

CudaMemoryInfo cuda_memory_info(int) { refuse(); }
CudaStream::CudaStream(int device) : device_(device) { refuse(); }
CudaStream::~CudaStream() = default;
void CudaStream::synchronize() {}
void CudaStream::to_device(void*, const void*, int64_t) { refuse(); }
void CudaStream::to_host(void*, const void*, int64_t) { refuse(); }
void CudaStream::fill(void*, unsigned char, int64_t) { refuse(); }

CudaBuffer::CudaBuffer(int device, int64_t bytes) : device_(device), bytes_(bytes) { refuse(); }
CudaBuffer::~CudaBuffer() = default;
CudaBuffer::CudaBuffer(CudaBuffer&&) noexcept {}
CudaBuffer& CudaBuffer::operator=(CudaBuffer&&) noexcept { return *this; }

CudaGraph::~CudaGraph() = default;
CudaGraph::CudaGraph(CudaGraph&&) noexcept {}
CudaGraph& CudaGraph::operator=(CudaGraph&&) noexcept { return *this; }
void CudaGraph::begin(CudaStream&) { refuse(); }
void CudaGraph::abandon(CudaStream&) {}
CudaGraph CudaGraph::end(CudaStream&) { refuse(); }
void CudaGraph::launch(CudaStream&) const { refuse(); }

}  // namespace statelab

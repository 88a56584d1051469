#include <utility>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/runtime.h"

namespace statelab {

using cuda::check;

CudaMemoryInfo cuda_memory_info(int device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

// ---- stream

CudaStream::CudaStream(int device) : device_(device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}

CudaStream::~CudaStream() {
  cudaSetDevice(device_);
  cudaStreamDestroy(stream_);
}

void CudaStream::synchronize() {
  check(cudaSetDevice(device_), "cudaSetDevice");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

void CudaStream::to_device(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  check(cudaSetDevice(device_), "cudaSetDevice");
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync");
  synchronize();
}

void CudaStream::to_host(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  check(cudaSetDevice(device_), "cudaSetDevice");
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
  synchronize();
}

void CudaStream::fill(void* to, unsigned char byte, int64_t bytes) {
  if (bytes == 0) return;
  check(cudaSetDevice(device_), "cudaSetDevice");
  check(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), stream_), "cudaMemsetAsync");
}

// ---- buffer

CudaBuffer::CudaBuffer(int device, int64_t bytes) : device_(device), bytes_(bytes) {
  if (bytes == 0) return;
  check(cudaSetDevice(device), "cudaSetDevice");
  void* data = nullptr;
  check(cudaMalloc(&data, static_cast<size_t>(bytes)), "cudaMalloc");
  data_ = static_cast<std::byte*>(data);
}

CudaBuffer::~CudaBuffer() {
  if (data_ == nullptr) return;
  cudaSetDevice(device_);
  cudaFree(data_);
}

CudaBuffer::CudaBuffer(CudaBuffer&& other) noexcept { *this = std::move(other); }

CudaBuffer& CudaBuffer::operator=(CudaBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

// ---- graph

CudaGraph::~CudaGraph() {
  if (exec_ == nullptr) return;
  cudaSetDevice(device_);
  cudaGraphExecDestroy(exec_);
}

CudaGraph::CudaGraph(CudaGraph&& other) noexcept { *this = std::move(other); }

CudaGraph& CudaGraph::operator=(CudaGraph&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(nodes_, other.nodes_);
  std::swap(exec_, other.exec_);
  return *this;
}

void CudaGraph::begin(CudaStream& stream) {
  check(cudaSetDevice(stream.device()), "cudaSetDevice");
  check(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
}

void CudaGraph::abandon(CudaStream& stream) {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream.handle(), &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

CudaGraph CudaGraph::end(CudaStream& stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream.handle(), &graph), "cudaStreamEndCapture");
  CudaGraph out;
  out.device_ = stream.device();
  size_t nodes = 0;
  cudaGraphExec_t exec = nullptr;
  cudaError_t code = cudaGraphGetNodes(graph, nullptr, &nodes);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(code, "cudaGraphInstantiate");
  out.exec_ = exec;
  out.nodes_ = static_cast<int>(nodes);
  return out;
}

void CudaGraph::launch(CudaStream& stream) const {
  check(cudaSetDevice(stream.device()), "cudaSetDevice");
  check(cudaGraphLaunch(exec_, stream.handle()), "cudaGraphLaunch");
}

}  // namespace statelab

#include <algorithm>

#include "kernels/cuda/check.cuh"
#include "kernels/cuda/op_memory.h"
#include "kernels/cuda/time_op.h"

namespace statelab {
namespace {

using cuda::check;

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event_); }
  void record(CudaStream& stream) {
    check(cudaEventRecord(event_, stream.handle()), "cudaEventRecord");
  }
  /// Microseconds from `start`; both must have happened.
  double since(const Event& start) const {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start.event_, event_), "cudaEventElapsedTime");
    return ms * 1e3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

double percentile(std::vector<double> x, double p) {
  std::sort(x.begin(), x.end());
  return x[static_cast<size_t>(p * static_cast<double>(x.size() - 1) + 0.5)];
}

}  // namespace

CudaTiming time_op_cuda(Op op, const Attributes& attributes, const std::vector<OpArray>& inputs,
                        int members, Precision precision, int device) {
  cuda::supported_outputs(op, attributes, inputs);  // before a device is asked for
  CudaStream stream(device);
  const std::vector<const std::vector<OpArray>*> all(static_cast<size_t>(members), &inputs);
  const cuda::OpMemory memory(stream, op, attributes, all);
  memory.launch(precision, stream);
  stream.synchronize();
  constexpr int kInARow = 10, kHotRuns = 15, kColdRuns = 9;
  const CudaGraph once = CudaGraph::capture(stream, [&] { memory.launch(precision, stream); });
  const CudaGraph row = CudaGraph::capture(stream, [&] {
    for (int i = 0; i < kInARow; ++i) memory.launch(precision, stream);
  });
  constexpr int64_t kFlushBytes = int64_t{256} << 20;  // several times any L2
  CudaBuffer flush(device, kFlushBytes);
  Event start, end;
  std::vector<double> hot, cold;
  for (int i = 0; i < kHotRuns + 2; ++i) {
    start.record(stream);
    row.launch(stream);
    end.record(stream);
    stream.synchronize();
    if (i >= 2) hot.push_back(end.since(start) / kInARow);
  }
  for (int i = 0; i < kColdRuns; ++i) {
    stream.fill(flush.data(), static_cast<unsigned char>(i), kFlushBytes);
    start.record(stream);
    once.launch(stream);
    end.record(stream);
    stream.synchronize();
    cold.push_back(end.since(start));
  }
  CudaTiming out;
  out.hot_us = percentile(hot, 0.5);
  out.cold_us = percentile(cold, 0.5);
  out.spread_pct = 100 * (percentile(hot, 0.9) - percentile(hot, 0.1)) / out.hot_us;
  out.bytes = memory.operand_bytes();
  return out;
}

double cuda_copy_rate(int device) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  CudaStream stream(device);
  CudaBuffer from(device, kBytes), to(device, kBytes);
  stream.fill(from.data(), 1, kBytes);
  Event start, end;
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    start.record(stream);
    check(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(kBytes),
                          cudaMemcpyDeviceToDevice, stream.handle()),
          "cudaMemcpyAsync");
    end.record(stream);
    stream.synchronize();
    if (i >= 2) times.push_back(end.since(start));
  }
  return 2.0 * static_cast<double>(kBytes) / (percentile(times, 0.5) * 1e-6);
}

}  // namespace statelab

#include "experiments/verify/production.h"

#include <mutex>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/run_op.h"

namespace statelab::verify {
namespace {

template <class Attrs>
void fit_chunks(Attributes& attributes) {
  if (auto* a = std::get_if<Attrs>(&attributes)) {
    constexpr bool kDelta = std::is_same_v<Attrs, GatedDeltaScanAttrs>;
    a->chunk_size = (kDelta ? cuda_delta_chunk_size : cuda_chunk_size)(
        a->headdim, a->d_state, a->chunked ? a->chunk_size : 1, 0);
    a->chunked = true;
  }
}

Engine cuda_engine(int device) {
  // One op at a time: a check's threads would only wait for each other on the device.
  static std::mutex busy;
  const auto run = [device](Op op, const Attributes& attributes, const std::vector<OpArray>& in) {
    Attributes fitted = attributes;
    fit_chunks<Mamba3ScanAttrs>(fitted);
    fit_chunks<Mamba2ScanAttrs>(fitted);
    fit_chunks<GatedDeltaScanAttrs>(fitted);
    const std::lock_guard lock(busy);
    return run_op_cuda(op, fitted, {in}, Precision::kFp32, device)[0];
  };
  return {"cuda fp32", false, ComputeDevice::cuda(device), run};
}

}  // namespace

std::string Engine::reason() const {
  return fp64 ? "fp64 rounding, 1e5 ulp" : "fp32 rounding, 1e3 ulp";
}

const std::vector<Engine>& engines() {
  static const std::vector<Engine> all = [] {
    std::vector<Engine> out = {
        {"cpu fp64", true, 1,
         [](Op op, const Attributes& a, const std::vector<OpArray>& in) {
           return run_op<double>(op, a, in);
         }},
        {"cpu fp32", false, 1,
         [](Op op, const Attributes& a, const std::vector<OpArray>& in) {
           return run_op<float>(op, a, in);
         }},
    };
    for (const CudaDevice& device : cuda_devices()) {
      if (!device.problem.empty() || device.compute_major < 8) continue;
      out.push_back(cuda_engine(device.index));
      break;
    }
    return out;
  }();
  return all;
}

OpArray token_array(Shape shape, const std::vector<int32_t>& tokens) {
  return {
      {DType::kInt32, std::move(shape)}, std::vector<double>(tokens.begin(), tokens.end()), false};
}

}  // namespace statelab::verify

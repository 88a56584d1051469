#include "experiments/verify/production.h"

namespace statelab::verify {

std::string Engine::reason() const {
  return fp64 ? "fp64 rounding, 1e5 ulp" : "fp32 rounding, 1e3 ulp";
}

const std::vector<Engine>& engines() {
  static const std::vector<Engine> all = {
      {"cpu fp64", true,
       [](Op op, const Attributes& a, const std::vector<OpArray>& in) {
         return run_op<double>(op, a, in);
       }},
      {"cpu fp32", false,
       [](Op op, const Attributes& a, const std::vector<OpArray>& in) {
         return run_op<float>(op, a, in);
       }},
  };
  return all;
}

OpArray token_array(Shape shape, const std::vector<int32_t>& tokens) {
  return {
      {DType::kInt32, std::move(shape)}, std::vector<double>(tokens.begin(), tokens.end()), false};
}

}  // namespace statelab::verify

#include "kernels/cpu/kernel.h"

#include <stdexcept>

#include "kernels/cpu/kernels.h"

namespace statelab {
namespace {

template <class S>
CpuKernel<S> make(Op op) {
  using namespace cpu;
  switch (op) {
    case Op::kDraw:
      return draw_kernel<S>();
    case Op::kConstant:
      return constant_kernel<S>();
    case Op::kAdd:
      return add_kernel<S>();
    case Op::kEmbedding:
      return embedding_kernel<S>();
    case Op::kEmbeddingBwd:
      return embedding_bwd_kernel<S>();
    case Op::kLinear:
      return linear_kernel<S>();
    case Op::kLinearBwdX:
      return linear_bwd_x_kernel<S>();
    case Op::kLinearBwdW:
      return linear_bwd_w_kernel<S>();
    case Op::kLinearBwd:
      return linear_bwd_kernel<S>();
    case Op::kNormLinear:
      return norm_linear_kernel<S>();
    case Op::kNormLinearBwd:
      return norm_linear_bwd_kernel<S>();
    case Op::kRmsNorm:
      return rms_norm_kernel<S>();
    case Op::kRmsNormBwd:
      return rms_norm_bwd_kernel<S>();
    case Op::kSwiglu:
      return swiglu_kernel<S>();
    case Op::kSwigluBwd:
      return swiglu_bwd_kernel<S>();
    case Op::kCausalConv1d:
      return causal_conv1d_kernel<S>();
    case Op::kCausalConv1dBwd:
      return causal_conv1d_bwd_kernel<S>();
    case Op::kMamba3Scan:
      return mamba3_scan_kernel<S>();
    case Op::kMamba3ScanBwd:
      return mamba3_scan_bwd_kernel<S>();
    case Op::kMamba2Scan:
      return mamba2_scan_kernel<S>();
    case Op::kMamba2ScanBwd:
      return mamba2_scan_bwd_kernel<S>();
    case Op::kGatedDeltaScan:
      return gated_delta_scan_kernel<S>();
    case Op::kGatedDeltaScanBwd:
      return gated_delta_scan_bwd_kernel<S>();
    case Op::kLstm:
      return lstm_kernel<S>();
    case Op::kLstmBwd:
      return lstm_bwd_kernel<S>();
    case Op::kCrossEntropy:
      return cross_entropy_kernel<S>();
    case Op::kCrossEntropyBwd:
      return cross_entropy_bwd_kernel<S>();
    case Op::kSelect:
      return select_kernel<S>();
    case Op::kSelectBwd:
      return select_bwd_kernel<S>();
    case Op::kMamba3ScanAt:
    case Op::kMamba2ScanAt:
      return scan_at_kernel<S>();
    case Op::kMamba3ScanAtBwd:
    case Op::kMamba2ScanAtBwd:
      return scan_at_bwd_kernel<S>();
    case Op::kHeadLoss:
      return head_loss_kernel<S>();
    case Op::kOutProjLoss:
      return out_proj_loss_kernel<S>();
    case Op::kScore:
      return score_kernel<S>();
    case Op::kGlobalNorm:
      return global_norm_kernel<S>();
    case Op::kSchedule:
      return schedule_kernel<S>();
    case Op::kGuard:
      return guard_kernel<S>();
    case Op::kAdamW:
      return adamw_kernel<S>();
    case Op::kMetrics:
      return metrics_kernel<S>();
    case Op::kAdvance:
      return advance_kernel<S>();
  }
  throw std::logic_error(std::string("no CPU kernel for ") + op_name(op));
}

constexpr int kOps = static_cast<int>(Op::kAdvance) + 1;

}  // namespace

template <class S>
const CpuKernel<S>& cpu_kernel(Op op) {
  static const std::vector<CpuKernel<S>> table = [] {
    std::vector<CpuKernel<S>> t;
    for (int i = 0; i < kOps; ++i) t.push_back(make<S>(static_cast<Op>(i)));
    return t;
  }();
  return table[static_cast<size_t>(op)];
}

template const CpuKernel<float>& cpu_kernel(Op);
template const CpuKernel<double>& cpu_kernel(Op);

}  // namespace statelab

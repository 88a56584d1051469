#include "kernels/cuda/kernel.h"

#include "kernels/cuda/kernels.h"
#include "kernels/error.h"

namespace statelab {

const CudaKernel& cuda_kernel(Op op) {
  switch (op) {
    case Op::kConstant: {
      static const CudaKernel kernel = cuda::constant_kernel();
      return kernel;
    }
    case Op::kAdd: {
      static const CudaKernel kernel = cuda::add_kernel();
      return kernel;
    }
    case Op::kEmbedding: {
      static const CudaKernel kernel = cuda::embedding_kernel();
      return kernel;
    }
    case Op::kEmbeddingBwd: {
      static const CudaKernel kernel = cuda::embedding_bwd_kernel();
      return kernel;
    }
    case Op::kLinear: {
      static const CudaKernel kernel = cuda::linear_kernel();
      return kernel;
    }
    case Op::kLinearBwdX: {
      static const CudaKernel kernel = cuda::linear_bwd_x_kernel();
      return kernel;
    }
    case Op::kLinearBwdW: {
      static const CudaKernel kernel = cuda::linear_bwd_w_kernel();
      return kernel;
    }
    case Op::kLinearBwd: {
      static const CudaKernel kernel = cuda::linear_bwd_kernel();
      return kernel;
    }
    case Op::kNormLinear: {
      static const CudaKernel kernel = cuda::norm_linear_kernel();
      return kernel;
    }
    case Op::kNormLinearBwd: {
      static const CudaKernel kernel = cuda::norm_linear_bwd_kernel();
      return kernel;
    }
    case Op::kRmsNorm: {
      static const CudaKernel kernel = cuda::rms_norm_kernel();
      return kernel;
    }
    case Op::kRmsNormBwd: {
      static const CudaKernel kernel = cuda::rms_norm_bwd_kernel();
      return kernel;
    }
    case Op::kSwiglu: {
      static const CudaKernel kernel = cuda::swiglu_kernel();
      return kernel;
    }
    case Op::kSwigluBwd: {
      static const CudaKernel kernel = cuda::swiglu_bwd_kernel();
      return kernel;
    }
    case Op::kCausalConv1d: {
      static const CudaKernel kernel = cuda::causal_conv1d_kernel();
      return kernel;
    }
    case Op::kCausalConv1dBwd: {
      static const CudaKernel kernel = cuda::causal_conv1d_bwd_kernel();
      return kernel;
    }
    case Op::kMamba3Scan: {
      static const CudaKernel kernel = cuda::mamba3_scan_kernel();
      return kernel;
    }
    case Op::kMamba3ScanBwd: {
      static const CudaKernel kernel = cuda::mamba3_scan_bwd_kernel();
      return kernel;
    }
    case Op::kMamba2Scan: {
      static const CudaKernel kernel = cuda::mamba2_scan_kernel();
      return kernel;
    }
    case Op::kMamba2ScanBwd: {
      static const CudaKernel kernel = cuda::mamba2_scan_bwd_kernel();
      return kernel;
    }
    case Op::kGatedDeltaScan: {
      static const CudaKernel kernel = cuda::gated_delta_scan_kernel();
      return kernel;
    }
    case Op::kGatedDeltaScanBwd: {
      static const CudaKernel kernel = cuda::gated_delta_scan_bwd_kernel();
      return kernel;
    }
    case Op::kLstm: {
      static const CudaKernel kernel = cuda::lstm_kernel();
      return kernel;
    }
    case Op::kLstmBwd: {
      static const CudaKernel kernel = cuda::lstm_bwd_kernel();
      return kernel;
    }
    case Op::kCrossEntropy: {
      static const CudaKernel kernel = cuda::cross_entropy_kernel();
      return kernel;
    }
    case Op::kCrossEntropyBwd: {
      static const CudaKernel kernel = cuda::cross_entropy_bwd_kernel();
      return kernel;
    }
    case Op::kSelect: {
      static const CudaKernel kernel = cuda::select_kernel();
      return kernel;
    }
    case Op::kSelectBwd: {
      static const CudaKernel kernel = cuda::select_bwd_kernel();
      return kernel;
    }
    case Op::kMamba3ScanAt:
    case Op::kMamba2ScanAt: {
      static const CudaKernel kernel = cuda::scan_at_kernel();
      return kernel;
    }
    case Op::kMamba3ScanAtBwd:
    case Op::kMamba2ScanAtBwd: {
      static const CudaKernel kernel = cuda::scan_at_bwd_kernel();
      return kernel;
    }
    case Op::kHeadLoss: {
      static const CudaKernel kernel = cuda::head_loss_kernel();
      return kernel;
    }
    case Op::kOutProjLoss: {
      static const CudaKernel kernel = cuda::out_proj_loss_kernel();
      return kernel;
    }
    case Op::kScore: {
      static const CudaKernel kernel = cuda::score_kernel();
      return kernel;
    }
    case Op::kGlobalNorm: {
      static const CudaKernel kernel = cuda::global_norm_kernel();
      return kernel;
    }
    case Op::kSchedule: {
      static const CudaKernel kernel = cuda::schedule_kernel();
      return kernel;
    }
    case Op::kGuard: {
      static const CudaKernel kernel = cuda::guard_kernel();
      return kernel;
    }
    case Op::kAdamW: {
      static const CudaKernel kernel = cuda::adamw_kernel();
      return kernel;
    }
    case Op::kMetrics: {
      static const CudaKernel kernel = cuda::metrics_kernel();
      return kernel;
    }
    case Op::kAdvance: {
      static const CudaKernel kernel = cuda::advance_kernel();
      return kernel;
    }
    case Op::kDraw:
      break;
  }
  throw UnsupportedOp(op_name(op), "has no CUDA kernel of its own");
}

std::string cuda_limit(const CallShapes& shapes) {
  if (shapes.op == Op::kDraw) return {};
  const CudaKernel& kernel = cuda_kernel(shapes.op);
  return kernel.limit ? kernel.limit(shapes) : std::string();
}

}  // namespace statelab

// The CUDA kernel of every op, one function a kernel; defined in the file named after the op.
#pragma once

#include "kernels/cuda/kernel.h"

namespace statelab::cuda {

CudaKernel constant_kernel();
CudaKernel add_kernel();
CudaKernel embedding_kernel();
CudaKernel embedding_bwd_kernel();
CudaKernel linear_kernel();
CudaKernel linear_bwd_x_kernel();
CudaKernel linear_bwd_w_kernel();
CudaKernel linear_bwd_kernel();
CudaKernel norm_linear_kernel();
CudaKernel norm_linear_bwd_kernel();
CudaKernel rms_norm_kernel();
CudaKernel rms_norm_bwd_kernel();
CudaKernel swiglu_kernel();
CudaKernel swiglu_bwd_kernel();
CudaKernel causal_conv1d_kernel();
CudaKernel causal_conv1d_bwd_kernel();
CudaKernel mamba3_scan_kernel();
CudaKernel mamba3_scan_bwd_kernel();
CudaKernel mamba2_scan_kernel();
CudaKernel mamba2_scan_bwd_kernel();
CudaKernel gated_delta_scan_kernel();
CudaKernel gated_delta_scan_bwd_kernel();
CudaKernel lstm_kernel();
CudaKernel lstm_bwd_kernel();
CudaKernel cross_entropy_kernel();
CudaKernel cross_entropy_bwd_kernel();
CudaKernel select_kernel();
CudaKernel select_bwd_kernel();
CudaKernel scan_at_kernel();
CudaKernel scan_at_bwd_kernel();
CudaKernel head_loss_kernel();
CudaKernel out_proj_loss_kernel();
CudaKernel score_kernel();
CudaKernel global_norm_kernel();
CudaKernel schedule_kernel();
CudaKernel guard_kernel();
CudaKernel adamw_kernel();
CudaKernel metrics_kernel();
CudaKernel advance_kernel();

}  // namespace statelab::cuda

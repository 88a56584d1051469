// The CPU kernel of every op, one function a kernel; defined in the file named after the op.
#pragma once

#include "kernels/cpu/kernel.h"

namespace statelab::cpu {

template <class S>
CpuKernel<S> draw_kernel();
template <class S>
CpuKernel<S> constant_kernel();
template <class S>
CpuKernel<S> add_kernel();
template <class S>
CpuKernel<S> embedding_kernel();
template <class S>
CpuKernel<S> embedding_bwd_kernel();
template <class S>
CpuKernel<S> linear_kernel();
template <class S>
CpuKernel<S> linear_bwd_x_kernel();
template <class S>
CpuKernel<S> linear_bwd_w_kernel();
template <class S>
CpuKernel<S> linear_bwd_kernel();
template <class S>
CpuKernel<S> norm_linear_kernel();
template <class S>
CpuKernel<S> norm_linear_bwd_kernel();
template <class S>
CpuKernel<S> rms_norm_kernel();
template <class S>
CpuKernel<S> rms_norm_bwd_kernel();
template <class S>
CpuKernel<S> swiglu_kernel();
template <class S>
CpuKernel<S> swiglu_bwd_kernel();
template <class S>
CpuKernel<S> causal_conv1d_kernel();
template <class S>
CpuKernel<S> causal_conv1d_bwd_kernel();
template <class S>
CpuKernel<S> mamba3_scan_kernel();
template <class S>
CpuKernel<S> mamba3_scan_bwd_kernel();
template <class S>
CpuKernel<S> mamba2_scan_kernel();
template <class S>
CpuKernel<S> mamba2_scan_bwd_kernel();
template <class S>
CpuKernel<S> gated_delta_scan_kernel();
template <class S>
CpuKernel<S> gated_delta_scan_bwd_kernel();
template <class S>
CpuKernel<S> lstm_kernel();
template <class S>
CpuKernel<S> lstm_bwd_kernel();
template <class S>
CpuKernel<S> cross_entropy_kernel();
template <class S>
CpuKernel<S> cross_entropy_bwd_kernel();
template <class S>
CpuKernel<S> select_kernel();
template <class S>
CpuKernel<S> select_bwd_kernel();
template <class S>
CpuKernel<S> scan_at_kernel();
template <class S>
CpuKernel<S> scan_at_bwd_kernel();
template <class S>
CpuKernel<S> head_loss_kernel();
template <class S>
CpuKernel<S> out_proj_loss_kernel();
template <class S>
CpuKernel<S> score_kernel();
template <class S>
CpuKernel<S> global_norm_kernel();
template <class S>
CpuKernel<S> schedule_kernel();
template <class S>
CpuKernel<S> guard_kernel();
template <class S>
CpuKernel<S> adamw_kernel();
template <class S>
CpuKernel<S> metrics_kernel();
template <class S>
CpuKernel<S> advance_kernel();

}  // namespace statelab::cpu

#include <gtest/gtest.h>

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/run_op.h"
#include "kernels/cuda/time_op.h"
#include "kernels/error.h"

namespace statelab {
namespace {

TEST(CudaInventory, EmptyListComesWithAReasonAndAFullOneWithout) {
  std::string reason = "unset";
  const auto devices = cuda_devices(&reason);
  EXPECT_EQ(devices.empty(), !reason.empty()) << reason;
  EXPECT_NE(reason, "unset");
}

TEST(CudaInventory, BuildWithoutCudaSaysSo) {
  std::string reason;
  const auto devices = cuda_devices(&reason);
  const bool blames_the_build = reason.find("this build has no CUDA backend") != std::string::npos;
  EXPECT_EQ(blames_the_build, !built_with_cuda()) << reason;
  if (!built_with_cuda()) {
    EXPECT_TRUE(devices.empty());
  }
}

TEST(CudaInventory, AskingTwiceGivesTheSameAnswer) {
  std::string first;
  std::string second;
  const auto before = cuda_devices(&first);
  const auto after = cuda_devices(&second);
  EXPECT_EQ(first, second);
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(before[i].problem, after[i].problem);
}

TEST(CudaInventory, VersionNumbersReadAsTheToolkitWritesThem) {
  EXPECT_EQ(cuda_version_text(13000), "13.0");
  EXPECT_EQ(cuda_version_text(12080), "12.8");
  EXPECT_EQ(cuda_version_text(0), "none");
}

TEST(CudaRunOp, WhatNoDeviceComputesIsRefusedBeforeOneIsLookedFor) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  const auto zeros = [](const Shape& shape) {
    return real_array(shape, std::vector<double>(static_cast<size_t>(shape.size())));
  };
  const std::vector<OpArray> wide = {zeros({1, 3, 2}), zeros({2, 1, 9}), zeros({2})};
  const CausalConv1dAttrs attributes{0, 2, 9};
  const int nowhere = 1 << 20;  // a device that no machine has
  EXPECT_THROW(run_op_cuda(Op::kCausalConv1d, attributes, {wide}, Precision::kFp32, nowhere),
               UnsupportedOp);
  EXPECT_THROW(time_op_cuda(Op::kCausalConv1d, attributes, wide, 1, Precision::kFp32, nowhere),
               UnsupportedOp);
  EXPECT_THROW(run_op_cuda(Op::kDraw, DrawAttrs{}, {{}}, Precision::kFp32, nowhere), UnsupportedOp);
  const std::vector<OpArray> unlike = {zeros({2}), zeros({3})};
  EXPECT_THROW(run_op_cuda(Op::kAdd, {}, {unlike}, Precision::kFp32, nowhere), ShapeError);
}

/// Without a device the answer is that of compute capability 9.0; a chunk is part of what decides a run's bits there.
TEST(CudaInventory, ChunksFitTheSharedMemoryOfHopper) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  const auto devices = cuda_devices();
  if (!devices.empty() && devices[0].compute_major != 9)
    GTEST_SKIP() << devices[0].name << " has another amount";
  for (const int headdim : {16, 64, 128}) {
    for (const int d_state : {16, 64, 128}) {
      EXPECT_EQ(cuda_chunk_size(headdim, d_state, 64), headdim == 128 && d_state == 128 ? 32 : 64)
          << headdim << " by " << d_state;
    }
  }
  EXPECT_EQ(cuda_chunk_size(64, 64, 1024), 64);
  EXPECT_EQ(cuda_chunk_size(64, 64, 48), 32);
  EXPECT_EQ(cuda_chunk_size(64, 64, 5), 16);
}

}  // namespace
}  // namespace statelab

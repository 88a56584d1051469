#include <gtest/gtest.h>

#include "kernels/cuda/device.h"

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

}  // namespace
}  // namespace statelab

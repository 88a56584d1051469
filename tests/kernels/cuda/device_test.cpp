#include "kernels/cuda/device.h"

#include <gtest/gtest.h>

namespace statelab {
namespace {

class CudaDevices : public testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    devices_ = cuda_devices(&reason);
    if (devices_.empty()) GTEST_SKIP() << reason;
  }
  std::vector<CudaDevice> devices_;
};

TEST_F(CudaDevices, RunCodeOfThisBuild) {
  for (const auto& device : devices_) EXPECT_EQ(device.problem, "") << device.name;
}

TEST_F(CudaDevices, ReportNameCapabilityMemoryAndVersions) {
  for (size_t i = 0; i < devices_.size(); ++i) {
    const auto& device = devices_[i];
    EXPECT_EQ(device.index, static_cast<int>(i));
    EXPECT_FALSE(device.name.empty());
    EXPECT_GE(device.compute_major, 5) << device.name;
    EXPECT_GT(device.multiprocessors, 0) << device.name;
    EXPECT_GT(device.total_bytes, int64_t{1} << 30) << device.name;
    EXPECT_GE(device.driver_version, device.runtime_version / 1000 * 1000) << device.name;
    EXPECT_GT(device.runtime_version, 0) << device.name;
  }
}

}  // namespace
}  // namespace statelab

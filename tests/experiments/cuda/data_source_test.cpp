// What training and evaluation draw on a device is what they draw on the host: stages, seeds and passes included. The rows
// themselves are compared task by task in tests/tasks/cuda.
#include "experiments/data_source.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/runtime.h"

namespace statelab {
namespace {

class CudaDataSource : public testing::Test {
 protected:
  static constexpr int kMembers = 2, kBatch = 5;

  void SetUp() override {
    std::string reason;
    if (cuda_devices(&reason).empty()) GTEST_SKIP() << reason;
  }

  /// Compares all rows at one step word of the device. `host(row)` names the host's (step, sample).
  template <class Host>
  static void expect_host_rows(const DataSource& data, std::optional<uint32_t> data_step,
                               int32_t word, int seqlen, Host&& host) {
    CudaStream stream(0);
    const int64_t stride = int64_t{kBatch} * seqlen * 4;
    const CudaBuffer step(0, 4), tokens(0, kMembers * stride), targets(0, kMembers * stride);
    stream.to_device(step.data(), &word, 4);
    stream.fill(tokens.data(), 0xFF, tokens.bytes());
    stream.fill(targets.data(), 0xA5, targets.bytes());
    CudaDraw::Call call;
    call.step = {step.data(), 0, nullptr};  // one word for both members
    call.tokens = {tokens.data(), stride, nullptr};
    call.targets = {targets.data(), stride, nullptr};
    call.members = kMembers;
    call.batch = kBatch;
    call.seqlen = seqlen;
    const auto draw = data.cuda_draw(0, data_step);
    ASSERT_NE(draw, nullptr);
    draw->launch(call, stream.handle());
    const auto size = static_cast<size_t>(kMembers * kBatch * seqlen);
    std::vector<int32_t> device_tokens(size), device_targets(size);
    stream.to_host(device_tokens.data(), tokens.data(), tokens.bytes());
    stream.to_host(device_targets.data(), targets.data(), targets.bytes());

    std::vector<int32_t> host_tokens(size, -2), host_targets(size, -2);
    const auto row_size = static_cast<size_t>(seqlen);
    for (int m = 0; m < kMembers; ++m) {
      for (int row = 0; row < kBatch; ++row) {
        const size_t at = static_cast<size_t>(m * kBatch + row) * row_size;
        const auto [host_step, sample] = host(row);
        data.draw(m, host_step, sample, std::span(host_tokens).subspan(at, row_size),
                  std::span(host_targets).subspan(at, row_size));
      }
    }
    EXPECT_EQ(device_tokens, host_tokens);
    EXPECT_EQ(device_targets, host_targets);
  }
};

TEST_F(CudaDataSource, TrainsOnTheHostsRowsInEveryStage) {
  const auto task = make_task(*find_preset("parity.xlstm"));
  const TrainData data(task, {{10, {3, 10}}, {5, {3, 30}}}, {1, 2});
  for (const uint32_t step : {0u, 9u, 10u, 14u, 15u, 20u}) {
    SCOPED_TRACE(step);
    expect_host_rows(data, std::nullopt, static_cast<int32_t>(step), task->seqlen(30),
                     [&](int row) { return std::pair(step, static_cast<uint32_t>(row)); });
  }
}

TEST_F(CudaDataSource, EvaluatesTheHostsRowsPassByPass) {
  const auto task = make_task(*find_preset("word.S3"));
  const EvalData data(task, {3, Stream::kTest}, {20, 40});
  for (const uint32_t pass : {0u, 1u, 6u}) {
    SCOPED_TRACE(pass);
    expect_host_rows(
        data, data.data_step(), static_cast<int32_t>(pass), task->seqlen(40), [&](int row) {
          return std::pair(data.data_step(), pass * kBatch + static_cast<uint32_t>(row));
        });
  }
}

}  // namespace
}  // namespace statelab

// The device's rows are the host's, bit for bit: the host is held to independent oracles elsewhere (oracle_test.cpp).
#include "tasks/cuda/draw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/runtime.h"
#include "tests/tasks/every_task.h"

namespace statelab {
namespace {

using testing::Case;

/// Rows of all members, as one device call leaves them.
struct Rows {
  std::vector<int32_t> tokens, targets;  // (members, batch, seqlen)
};

/// A call with its own memory, laid out as in an arena: a gap behind each member's slices.
struct Shape {
  int members = 2, batch = 37, seqlen = 0;
};

class CudaDrawsRows : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason;
    if (cuda_devices(&reason).empty()) GTEST_SKIP() << reason;
    stream_ = std::make_unique<CudaStream>(0);
  }

  /// Draws once at each of `steps`, through one recorded graph, over poisoned memory.
  std::vector<Rows> draw(const DeviceDraw& device_draw, const Shape& shape,
                         const std::vector<std::vector<int32_t>>& steps) {
    const auto members = static_cast<size_t>(shape.members);
    const int64_t entries = int64_t{shape.batch} * shape.seqlen;
    const int64_t stride = entries + kGap;  // in entries
    const int64_t bytes = stride * shape.members * 4;
    const CudaBuffer tokens(0, bytes), targets(0, bytes), step(0, shape.members * kStepStride);
    DeviceDraw::Call call;
    call.step = step.data();
    call.step_stride_bytes = kStepStride;
    call.tokens = tokens.data();
    call.targets = targets.data();
    call.tokens_stride_bytes = call.targets_stride_bytes = stride * 4;
    call.members = shape.members;
    call.batch = shape.batch;
    call.seqlen = shape.seqlen;
    const CudaGraph graph =
        CudaGraph::capture(*stream_, [&] { device_draw.launch(call, stream_->handle()); });
    std::vector<Rows> all;
    for (const std::vector<int32_t>& words : steps) {
      for (size_t m = 0; m < members; ++m) {
        stream_->to_device(step.data() + static_cast<int64_t>(m) * kStepStride, &words[m], 4);
      }
      stream_->fill(tokens.data(), 0xA5, bytes);
      stream_->fill(targets.data(), 0xA5, bytes);
      graph.launch(*stream_);
      all.push_back({fetch(tokens, shape, stride), fetch(targets, shape, stride)});
    }
    return all;
  }

  std::unique_ptr<CudaStream> stream_;

 private:
  static constexpr int64_t kGap = 3, kStepStride = 256;
  static constexpr uint32_t kPoison = 0xA5A5A5A5u;

  std::vector<int32_t> fetch(const CudaBuffer& from, const Shape& shape, int64_t stride) {
    std::vector<int32_t> padded(static_cast<size_t>(stride * shape.members)), rows;
    stream_->to_host(padded.data(), from.data(), from.bytes());
    for (int m = 0; m < shape.members; ++m) {
      const auto begin = padded.begin() + m * stride;
      rows.insert(rows.end(), begin, begin + stride - kGap);
      EXPECT_TRUE(
          std::all_of(begin + stride - kGap, begin + stride,
                      [](int32_t value) { return static_cast<uint32_t>(value) == kPoison; }))
          << "written behind member " << m;
    }
    return rows;
  }
};

/// The host's rows; sample(row) and lengths are those of this step.
template <class Sample>
Rows host_rows(const Task& task, const std::vector<RngKey>& keys, uint32_t step,
               LengthRange lengths, const Shape& shape, Sample&& sample) {
  const auto seqlen = static_cast<size_t>(shape.seqlen);
  const size_t size =
      static_cast<size_t>(shape.members) * static_cast<size_t>(shape.batch) * seqlen;
  Rows rows{std::vector<int32_t>(size, -2), std::vector<int32_t>(size, -2)};
  size_t at = 0;
  for (int m = 0; m < shape.members; ++m) {
    for (int row = 0; row < shape.batch; ++row, at += seqlen) {
      task.draw(keys[static_cast<size_t>(m)], step, sample(row), lengths,
                std::span(rows.tokens).subspan(at, seqlen),
                std::span(rows.targets).subspan(at, seqlen));
    }
  }
  return rows;
}

/// Says where rows differ first, rather than printing all of them.
void expect_equal(const Rows& device, const Rows& host, int seqlen) {
  for (const auto& [name, got, want] : {std::tuple("tokens", &device.tokens, &host.tokens),
                                        std::tuple("targets", &device.targets, &host.targets)}) {
    ASSERT_EQ(got->size(), want->size()) << name;
    const auto [g, w] = std::mismatch(got->begin(), got->end(), want->begin());
    if (g == got->end()) continue;
    const auto at = g - got->begin();
    ADD_FAILURE() << name << ": row " << at / seqlen << " (all members counted), position "
                  << at % seqlen << ": device " << *g << ", host " << *w;
  }
}

const std::vector<RngKey> kKeys = {{5, Stream::kTrain}, {0xfedcba98u, Stream::kTrain}};

std::vector<Case> cases() {
  std::vector<Case> all = testing::every_task();
  for (const std::string& name : list_presets()) {
    const TaskConfig config = *find_preset(name);
    all.push_back(
        {name, config, config.name == "flip_flop" ? LengthRange{4, 64} : LengthRange{4, 40}});
  }
  TaskConfig own_group = testing::config_of("word_problem", "word", "all");
  own_group.custom_group.generators = {{2, 3, 1, 4}, {1, 2, 4, 3}};
  all.push_back({"own group", own_group, {4, 40}});
  all.push_back(
      {"word.Z200: tables beyond a block's shared memory", testing::word_config("Z200"), {4, 40}});
  return all;
}

TEST_F(CudaDrawsRows, LikeTheHostInTrainingOverTwoStages) {
  for (const Case& c : cases()) {
    const auto task = make_task(c.config);
    const LengthRange second{c.lengths.min, c.lengths.max + 35};
    DeviceDraw::Plan plan;
    plan.keys = kKeys;
    plan.stages = {{3, c.lengths}, {9, second}};
    Shape shape;
    shape.seqlen = task->seqlen(second.max) + 2;
    for (const bool one_thread_per_row : {false, true}) {
      SCOPED_TRACE(c.label + (one_thread_per_row ? ", a thread per row" : ""));
      plan.one_thread_per_row = one_thread_per_row;
      const DeviceDraw device_draw(0, task->draw_spec(), plan);
      const std::vector<int> steps = {0, 2, 3, 8, 9, 100000};
      std::vector<std::vector<int32_t>> words;
      for (const int step : steps) words.push_back({step, step});
      const std::vector<Rows> device = draw(device_draw, shape, words);
      for (size_t i = 0; i < steps.size(); ++i) {
        SCOPED_TRACE("step " + std::to_string(steps[i]));
        const Rows host = host_rows(*task, kKeys, static_cast<uint32_t>(steps[i]),
                                    steps[i] < 3 ? c.lengths : second, shape,
                                    [](int row) { return static_cast<uint32_t>(row); });
        expect_equal(device[i], host, shape.seqlen);
      }
    }
  }
}

TEST_F(CudaDrawsRows, LikeTheHostInEvaluationPassByPass) {
  constexpr uint32_t kDataStep = 40u << 16 | 40u;
  for (const Case& c : cases()) {
    const auto task = make_task(c.config);
    DeviceDraw::Plan plan;
    plan.keys = {{77, Stream::kTest}};
    plan.same_key = true;
    plan.stages = {{0, c.lengths}};
    plan.data_step = kDataStep;
    for (const bool one_thread_per_row : {false, true}) {
      SCOPED_TRACE(c.label + (one_thread_per_row ? ", a thread per row" : ""));
      plan.one_thread_per_row = one_thread_per_row;
      const DeviceDraw device_draw(0, task->draw_spec(), plan);
      for (const int batch : {1, 32, 33}) {
        const Shape shape{2, batch, task->seqlen(c.lengths.max)};
        const std::vector<Rows> device = draw(device_draw, shape, {{0, 0}, {1, 1}, {7, 7}});
        for (const int i : {0, 1, 2}) {
          const int pass = i == 2 ? 7 : i;
          SCOPED_TRACE("batch " + std::to_string(batch) + ", pass " + std::to_string(pass));
          const Rows host =
              host_rows(*task, {plan.keys[0], plan.keys[0]}, kDataStep, c.lengths, shape,
                        [&](int row) { return static_cast<uint32_t>(pass * batch + row); });
          expect_equal(device[static_cast<size_t>(i)], host, shape.seqlen);
        }
      }
    }
  }
}

// Lengths around a warp's 32 items, and rows too long for the staging of a thread per row.
TEST_F(CudaDrawsRows, LikeTheHostAtEveryLength) {
  for (const Case& c : cases()) {
    const auto task = make_task(c.config);
    for (const int length : {31, 32, 33, 63, 64, 65, 66, 1000}) {
      const LengthRange lengths{length - 1, length};  // one of the two suits any rule
      DeviceDraw::Plan plan;
      plan.keys = kKeys;
      plan.stages = {{1, lengths}};
      const Shape shape{2, 3, task->seqlen(length) + 1};
      for (const bool one_thread_per_row : {false, true}) {
        SCOPED_TRACE(c.label + " at " + std::to_string(length) +
                     (one_thread_per_row ? ", a thread per row" : ""));
        plan.one_thread_per_row = one_thread_per_row;
        const DeviceDraw device_draw(0, task->draw_spec(), plan);
        const std::vector<Rows> device = draw(device_draw, shape, {{4, 5}});
        // The members' step words may differ: each reads its own.
        for (const int m : {0, 1}) {
          const Shape one{1, shape.batch, shape.seqlen};
          const Rows host =
              host_rows(*task, {kKeys[static_cast<size_t>(m)]}, static_cast<uint32_t>(4 + m),
                        lengths, one, [](int row) { return static_cast<uint32_t>(row); });
          const auto size = static_cast<std::ptrdiff_t>(host.tokens.size());
          const Rows member{
              {device[0].tokens.begin() + m * size, device[0].tokens.begin() + (m + 1) * size},
              {device[0].targets.begin() + m * size, device[0].targets.begin() + (m + 1) * size}};
          expect_equal(member, host, shape.seqlen);
        }
      }
    }
  }
}

TEST_F(CudaDrawsRows, OfTheLongestLengthAndOfManyStages) {
  for (const char* preset : {"parity.xlstm", "modarith.xlstm", "modarith-br-mul.xlstm", "ffl"}) {
    SCOPED_TRACE(preset);
    const auto task = make_task(*find_preset(preset));
    DeviceDraw::Plan plan;
    plan.keys = {kKeys[0]};
    for (int i = 0; i < 100; ++i) plan.stages.push_back({5 * (i + 1), {8, 10 + 2 * i}});
    plan.stages.push_back({1000, {kMaxLength - 1, kMaxLength}});
    const Shape shape{1, 2, task->seqlen(kMaxLength)};
    const DeviceDraw device_draw(0, task->draw_spec(), plan);
    const std::vector<Rows> device = draw(device_draw, shape, {{0}, {164}, {165}, {499}, {500}});
    const std::vector<int> steps = {0, 164, 165, 499, 500};
    for (size_t i = 0; i < steps.size(); ++i) {
      SCOPED_TRACE(steps[i]);
      const LengthRange lengths = plan.stages[static_cast<size_t>(steps[i] / 5)].lengths;
      const Rows host = host_rows(*task, plan.keys, static_cast<uint32_t>(steps[i]), lengths, shape,
                                  [](int row) { return static_cast<uint32_t>(row); });
      expect_equal(device[i], host, shape.seqlen);
    }
  }
}

TEST_F(CudaDrawsRows, NotForMoreMembersThanKeys) {
  const auto task = make_task(*find_preset("parity.xlstm"));
  DeviceDraw::Plan plan;
  plan.keys = kKeys;
  plan.stages = {{1, {3, 40}}};
  const DeviceDraw device_draw(0, task->draw_spec(), plan);
  DeviceDraw::Call call;
  call.members = 3;
  EXPECT_THROW(device_draw.launch(call, stream_->handle()), std::invalid_argument);
  plan.stages.clear();
  EXPECT_THROW(DeviceDraw(0, task->draw_spec(), plan), std::invalid_argument);
}

}  // namespace
}  // namespace statelab

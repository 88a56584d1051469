// mamba2_scan on bf16 tiles.
#include <string>
#include <utility>
#include <vector>

#include "tests/kernels/cuda/tiles_agreement.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test
using A = Mamba2ScanAttrs;
using Case = TiledCase<A>;
using Change = std::function<void(A&, Arrays&)>;

A attrs(int nheads, int ngroups) {
  A a;
  a.nheads = nheads, a.headdim = 64, a.ngroups = ngroups, a.d_state = 64;
  a.chunk_size = 64;
  return a;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  auto add = [&](const std::string& name, A a, int batch, int seqlen, const Change& change = {}) {
    out.push_back({name + "_T" + std::to_string(seqlen) + "_H" + std::to_string(a.nheads) + "_G" +
                       std::to_string(a.ngroups) + "_Q" + std::to_string(a.chunk_size),
                   a, batch, seqlen, change});
  };
  for (const int seqlen : {1, 2, 15, 16, 17, 33, 40, 63, 64, 65, 81, 128, 129, 151, 160, 1000})
    add("", attrs(2, 1), 2, seqlen);
  for (const int seqlen : {1, 40, 65, 151}) {
    add("OneHead", attrs(1, 1), 2, seqlen);  // odd rows
    add("Groups", attrs(4, 2), 1, seqlen);
    add("GroupOfFour", attrs(4, 1), 1, seqlen);
    add("GroupAHead", attrs(3, 3), 1, seqlen);  // odd rows
    add("ManyHeads", attrs(5, 1), 1, seqlen);   // odd rows, a gate of another width
    add("ManyMore", attrs(6, 2), 1, seqlen);
  }
  for (const int chunk : {16, 32, 48}) {
    for (const int seqlen : {chunk, 100}) {
      A a = attrs(2, 1);
      a.chunk_size = chunk;
      add("", a, 2, seqlen);
    }
  }
  const std::vector<std::pair<std::string, Change>> switches = {
      {"LargeSteps", [](A& a, Arrays& in) { in[1] = random_array("steps", {a.nheads}, 1, 4); }},
      {"TinySteps", [](A& a, Arrays& in) { in[1] = random_array("steps", {a.nheads}, -40, -30); }},
      {"SlowDecay", [](A& a, Arrays& in) { in[2] = random_array("slow", {a.nheads}, -9, -6); }},
      {"FastDecay", [](A& a, Arrays& in) { in[2] = random_array("fast", {a.nheads}, 3, 4); }}};
  for (const auto& [name, change] : switches) {
    add(name, attrs(2, 1), 2, 40, change);
    add(name, attrs(2, 2), 2, 161, change);
  }
  return out;
}

Arrays operands(const Case& c, const std::string& text) {
  const A& a = c.attributes;
  return {random_array(text + "proj", {c.batch, c.seqlen, a.d_proj()}, -1.5, 1.5),
          random_array(text + "dt", {a.nheads}, -4, -1.5),
          random_array(text + "A", {a.nheads}, 0, 2.7),
          random_array(text + "D", {a.nheads}, 0.5, 1.5),
          random_array(text + "norm", {a.d_inner()}, 0.5, 1.5)};
}
const TiledScan<A> kScan = {Op::kMamba2Scan, Op::kMamba2ScanBwd, operands};

using Mamba2Tiles = OnTiles;

TEST_F(Mamba2Tiles, InTf32AgreeWithDoublePrecisionNearlyAsFp32Does) {
  expect_cases_agree(kScan, cases(), Precision::kTf32, {4e-5, 2e-4});
}

TEST_F(Mamba2Tiles, InBf16AgreeAsFarAsTheirOperandsDo) {
  expect_cases_agree(kScan, cases(), Precision::kBf16, {2e-2, 5e-2});
}

TEST_F(Mamba2Tiles, OfAMemberHaveTheSameBitsAloneInACohortAndAgain) {
  expect_bits_of_members(kScan, cases());
}

TEST_F(Mamba2Tiles, WaitForTheirRowsWhenTheDeviceIsBusy) {
  for (const int seqlen : {41, 131}) {
    const Case c{"busy" + std::to_string(seqlen), attrs(2, 1), 256, seqlen, {}};
    expect_agreement_when_busy(kScan, c, 4, {{4e-5, 2e-4}, {2e-2, 5e-2}});
  }
}

TEST_F(Mamba2Tiles, SmallCasesWriteEveryOutput) {
  expect_every_output_written(kScan, {{"small", attrs(2, 1), 1, 81, {}},
                                      {"small", attrs(1, 1), 1, 33, {}},
                                      {"small", attrs(4, 2), 1, 17, {}}});
}

}  // namespace
}  // namespace statelab

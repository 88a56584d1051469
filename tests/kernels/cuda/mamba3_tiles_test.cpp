// mamba3_scan on bf16 tiles.
#include <string>
#include <utility>
#include <vector>

#include "tests/kernels/cuda/tiles_agreement.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test
using A = Mamba3ScanAttrs;
using Case = TiledCase<A>;
using Change = std::function<void(A&, Arrays&)>;

A attrs(int nheads, int ngroups, int nangles) {
  A a;
  a.nheads = nheads, a.headdim = 64, a.ngroups = ngroups, a.d_state = 64, a.nangles = nangles;
  a.chunk_size = 64;
  return a;
}

OpArray absent() {
  OpArray out;
  out.absent = true;
  return out;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  auto add = [&](const std::string& name, A a, int batch, int seqlen, const Change& change = {}) {
    if (change) {
      Arrays none(8);
      change(a, none);
    }
    out.push_back({name + "_T" + std::to_string(seqlen) + "_H" + std::to_string(a.nheads) + "_G" +
                       std::to_string(a.ngroups) + "_S" + std::to_string(a.nangles) + "_Q" +
                       std::to_string(a.chunk_size),
                   a, batch, seqlen, change});
  };
  for (const int seqlen : {1, 2, 15, 16, 17, 33, 40, 63, 64, 65, 81, 128, 129, 151, 1000})
    add("", attrs(2, 1, 16), 2, seqlen);
  for (const int seqlen : {1, 40, 65, 151}) {
    add("OddRows", attrs(1, 1, 16), 2, seqlen);
    add("Groups", attrs(4, 2, 16), 1, seqlen);
    add("ManyHeads", attrs(5, 1, 8), 1, seqlen);
  }
  for (const int nangles : {1, 5, 31, 32}) add("", attrs(2, 1, nangles), 2, 100);
  for (const int chunk : {16, 32, 48}) {
    A a = attrs(2, 1, 16);
    a.chunk_size = chunk;
    add("", a, 2, 100);
  }
  const std::vector<std::pair<std::string, Change>> switches = {
      {"StandardRotation", [](A& a, Arrays&) { a.rotation = A::Rotation::kStandard; }},
      {"NoRotation", [](A& a, Arrays&) { a.rotation = A::Rotation::kNone; }},
      {"NoAngles",
       [](A& a, Arrays&) {
         a.rotation = A::Rotation::kNone;
         a.nangles = 0;
       }},
      {"Euler", [](A& a, Arrays&) { a.discretization = A::Discretization::kEuler; }},
      {"Half", [](A& a, Arrays&) { a.discretization = A::Discretization::kHalf; }},
      {"HeavyTail", [](A& a, Arrays&) { a.heavy_tail = true; }},
      {"Floor", [](A& a, Arrays&) { a.a_floor = 0.7; }},
      {"NoNorm", [](A&, Arrays& in) { in[4] = in[5] = absent(); }},
      {"NoBias", [](A&, Arrays& in) { in[2] = in[3] = absent(); }},
      {"OnlyBNormAndCBias", [](A&, Arrays& in) { in[2] = in[5] = absent(); }},
      {"OutNorm",
       [](A& a, Arrays& in) { in[7] = random_array("tiles norm", {a.d_inner()}, 0.5, 1.5); }},
      {"LargeSteps",
       [](A& a, Arrays& in) { in[1] = random_array("tiles steps", {a.nheads}, 1, 4); }}};
  for (const auto& [name, change] : switches) {
    add(name, attrs(2, 1, 16), 2, 40, change);
    add(name, attrs(2, 2, 16), 2, 97, change);
  }
  return out;
}

Arrays operands(const Case& c, const std::string& text) {
  const A& a = c.attributes;
  const int H = a.nheads, N = a.d_state;
  return {random_array(text + "proj", {c.batch, c.seqlen, a.d_proj()}, -1.5, 1.5),
          random_array(text + "dt", {H}, -4, -1.5),
          random_array(text + "Bb", {H, 1, N}, -0.5, 1.5),
          random_array(text + "Cb", {H, 1, N}, -0.5, 1.5),
          random_array(text + "Bn", {N}, 0.5, 1.5),
          random_array(text + "Cn", {N}, 0.5, 1.5),
          random_array(text + "D", {H}, 0.5, 1.5),
          absent()};
}
const TiledScan<A> kScan = {Op::kMamba3Scan, Op::kMamba3ScanBwd, operands};

using Mamba3Tiles = OnTiles;

TEST_F(Mamba3Tiles, InTf32AgreeWithDoublePrecisionNearlyAsFp32Does) {
  expect_cases_agree(kScan, cases(), Precision::kTf32, {4e-5, 1e-4});
}

TEST_F(Mamba3Tiles, InBf16AgreeAsFarAsTheirOperandsDo) {
  expect_cases_agree(kScan, cases(), Precision::kBf16, {2e-2, 5e-2});
}

TEST_F(Mamba3Tiles, OfAMemberHaveTheSameBitsAloneInACohortAndAgain) {
  expect_bits_of_members(kScan, cases());
}

/// A wait that was missing made trainings without rotation end in NaN.
TEST_F(Mamba3Tiles, WaitForTheirRowsWhenTheDeviceIsBusy) {
  for (const auto rotation :
       {A::Rotation::kNone, A::Rotation::kStandard, A::Rotation::kDataDependent}) {
    Case c{"busy" + std::to_string(static_cast<int>(rotation)), attrs(2, 1, 16), 256, 41, {}};
    c.attributes.rotation = rotation;
    expect_agreement_when_busy(kScan, c, 8, {{4e-5, 1e-4}, {2e-2, 5e-2}});
  }
}

TEST_F(Mamba3Tiles, SmallCasesWriteEveryOutput) {
  std::vector<Case> small = {{"small", attrs(2, 1, 16), 1, 81, {}},
                             {"small", attrs(1, 1, 32), 1, 33, {}}};
  small.push_back(small[0]);
  small.back().attributes.rotation = A::Rotation::kNone;
  expect_every_output_written(kScan, small);
}

}  // namespace
}  // namespace statelab

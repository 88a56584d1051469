// Cases of mamba3_scan_at and mamba2_scan_at, for the tests of both backends.
#pragma once

#include <functional>
#include <initializer_list>

#include "tests/kernels/op_cases.h"

namespace statelab::testing_support {

struct ScanAtCase {
  std::string name;
  bool mamba3 = true;
  Attributes attributes;
  int batch = 1, seqlen = 1, d_inner = 1;
  std::function<Arrays(const std::string&)> inputs;  ///< from a text: proj .. norm, targets

  Op forward() const { return mamba3 ? Op::kMamba3ScanAt : Op::kMamba2ScanAt; }
  Op backward() const { return mamba3 ? Op::kMamba3ScanAtBwd : Op::kMamba2ScanAtBwd; }
  Op scan() const { return mamba3 ? Op::kMamba3Scan : Op::kMamba2Scan; }
  Op scan_backward() const { return mamba3 ? Op::kMamba3ScanBwd : Op::kMamba2ScanBwd; }
};

/// One target a sequence, at the last position of the first, nowhere in the second, anywhere in the others; before it a second one
/// in the fourth.
inline OpArray one_target(const std::string& text, int batch, int seqlen) {
  std::vector<int32_t> targets(static_cast<size_t>(batch * seqlen), -1);
  const std::vector<int32_t> at = integers(text + "at", static_cast<size_t>(batch), seqlen);
  for (int b = 0; b < batch; ++b) {
    int32_t* const row = targets.data() + b * seqlen;
    if (b != 1) row[b == 0 ? seqlen - 1 : at[static_cast<size_t>(b)]] = b % 3;
    if (b == 3) row[at[3] / 2] = 2;
  }
  return integer_array({batch, seqlen}, targets);
}

using Mamba3AtChange = std::function<void(Mamba3ScanAttrs&, Arrays&)>;

/// `change` sees the attributes first (with empty operands), then again with the operands.
inline ScanAtCase mamba3_at_case(const std::string& name, Mamba3ScanAttrs a, int batch, int seqlen,
                                 const Mamba3AtChange& change = {}) {
  if (change) {
    Arrays none(9);
    change(a, none);
  }
  const auto inputs = [=](const std::string& text) {
    const int H = a.nheads, N = a.d_state;
    Arrays in = {random_array(text + "proj", {batch, seqlen, a.d_proj()}, -1.5, 1.5),
                 random_array(text + "dt", {H}, -4, -1.5),
                 random_array(text + "Bb", {H, 1, N}, -0.5, 1.5),
                 random_array(text + "Cb", {H, 1, N}, -0.5, 1.5),
                 random_array(text + "Bn", {N}, 0.5, 1.5),
                 random_array(text + "Cn", {N}, 0.5, 1.5),
                 random_array(text + "D", {H}, 0.5, 1.5),
                 absent_array(),
                 one_target(text, batch, seqlen)};
    Mamba3ScanAttrs same = a;
    if (change) change(same, in);
    return in;
  };
  return {"mamba3 " + name + " " + std::to_string(batch) + "x" + std::to_string(seqlen) +
              " heads " + std::to_string(a.nheads) + "x" + std::to_string(a.headdim) + " groups " +
              std::to_string(a.ngroups) + " states " + std::to_string(a.d_state),
          true,
          a,
          batch,
          seqlen,
          a.d_inner(),
          inputs};
}

inline ScanAtCase mamba2_at_case(Mamba2ScanAttrs a, int batch, int seqlen) {
  const auto inputs = [=](const std::string& text) {
    return Arrays{random_array(text + "proj", {batch, seqlen, a.d_proj()}, -1.5, 1.5),
                  random_array(text + "dt", {a.nheads}, -4, -1.5),
                  random_array(text + "A", {a.nheads}, 0, 2.7),
                  random_array(text + "D", {a.nheads}, 0.5, 1.5),
                  random_array(text + "norm", {a.d_inner()}, 0.5, 1.5),
                  one_target(text, batch, seqlen)};
  };
  return {"mamba2 " + std::to_string(batch) + "x" + std::to_string(seqlen) + " heads " +
              std::to_string(a.nheads) + "x" + std::to_string(a.headdim) + " groups " +
              std::to_string(a.ngroups) + " states " + std::to_string(a.d_state),
          false,
          a,
          batch,
          seqlen,
          a.d_inner(),
          inputs};
}

/// Every choice of the scans, and heads of awkward sizes.
inline std::vector<ScanAtCase> scan_at_cases() {
  using A = Mamba3ScanAttrs;
  std::vector<ScanAtCase> out;
  auto mamba3 = [](int heads, int channels, int groups, int states) {
    A a;
    a.nheads = heads, a.headdim = channels, a.ngroups = groups, a.d_state = states;
    a.nangles = states / 4;
    return a;
  };
  const std::pair<const char*, Mamba3AtChange> choices[] = {
      {"", {}},
      {"standard rotation", [](A& a, Arrays&) { a.rotation = A::Rotation::kStandard; }},
      {"no rotation", [](A& a, Arrays&) { a.rotation = A::Rotation::kNone; }},
      {"no angles", [](A& a, Arrays&) { a.nangles = 0; }},
      {"all turn", [](A& a, Arrays&) { a.nangles = a.d_state / 2; }},
      {"euler", [](A& a, Arrays&) { a.discretization = A::Discretization::kEuler; }},
      {"half", [](A& a, Arrays&) { a.discretization = A::Discretization::kHalf; }},
      {"heavy tail", [](A& a, Arrays&) { a.heavy_tail = true; }},
      {"floor", [](A& a, Arrays&) { a.a_floor = 0.7; }},
      {"no norms", [](A&, Arrays& in) { in[4] = in[5] = absent_array(); }},
      {"no biases", [](A&, Arrays& in) { in[2] = in[3] = absent_array(); }},
      {"norm of B, bias of C", [](A&, Arrays& in) { in[2] = in[5] = absent_array(); }},
      {"output norm",
       [](A& a, Arrays& in) { in[7] = random_array("norm", {a.d_inner()}, 0.5, 1.5); }},
      {"large steps", [](A& a, Arrays& in) { in[1] = random_array("dt", {a.nheads}, 1, 3); }}};
  for (const auto& [name, change] : choices) {
    out.push_back(mamba3_at_case(name, mamba3(4, 16, 2, 16), 5, 37, change));
    out.push_back(mamba3_at_case(name, mamba3(2, 64, 1, 64), 4, 70, change));
  }
  for (const int seqlen : {1, 2, 31, 33, 65, 161, 300})
    out.push_back(mamba3_at_case("", mamba3(2, 64, 1, 64), 5, seqlen));
  for (const int heads : {1, 4}) {
    out.push_back(mamba3_at_case("", mamba3(heads, 64, 1, 64), 4, 40));
    out.push_back(mamba3_at_case("ten pairs", mamba3(heads, 64, 1, 64), 3, 67,
                                 [](A& a, Arrays&) { a.nangles = 10; }));
  }
  for (const auto& [channels, states] :
       {std::pair{8, 24}, {48, 80}, {24, 8}, {1, 4}, {5, 6}, {128, 128}, {100, 16}, {16, 128}}) {
    out.push_back(mamba3_at_case("", mamba3(2, channels, 1, states), 3, 41));
    out.push_back(mamba3_at_case("", mamba3(3, channels, 3, states), 3, 29));
  }
  auto mamba2 = [](int heads, int channels, int groups, int states) {
    Mamba2ScanAttrs a;
    a.nheads = heads, a.headdim = channels, a.ngroups = groups, a.d_state = states;
    return a;
  };
  for (const int seqlen : {1, 33, 161})
    out.push_back(mamba2_at_case(mamba2(2, 64, 1, 64), 5, seqlen));
  out.push_back(mamba2_at_case(mamba2(1, 64, 1, 64), 5, 40));
  for (const auto& [channels, states] :
       {std::pair{8, 24}, {48, 80}, {24, 8}, {1, 4}, {5, 7}, {128, 128}, {16, 128}})
    out.push_back(mamba2_at_case(mamba2(4, channels, 2, states), 5, 41));
  return out;
}

}  // namespace statelab::testing_support

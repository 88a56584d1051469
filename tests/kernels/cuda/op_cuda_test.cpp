// Every op on the GPU: agreement with the double-precision CPU op, bits that do not depend on the cohort or on the run, and
// refusals. One test per op and claim; a case is a shape and a set of switches. Operands are rounded to float beforehand, and
// those of a backward op come from the CPU's forward op, so that a difference is the arithmetic of this op alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/cuda/kernel.h"
#include "kernels/error.h"
#include "tests/kernels/cuda/op_agreement.h"
#include "tests/kernels/scan_at_cases.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

// ---- cases

/// Targets of about half the positions are -1; `last_only`: all but the last of a sequence; `none`: all.
enum class Supervision { kHalf, kLastOnly, kNone, kAll };
OpArray target_array(const std::string& text, int batch, int seqlen, int classes, Supervision s) {
  const auto n = static_cast<size_t>(batch * seqlen);
  auto targets = integers(text + "targets", n, static_cast<uint32_t>(classes));
  const auto coin = integers(text + "coin", n, 2);
  for (size_t i = 0; i < n; ++i) {
    const bool last = static_cast<int>(i) % seqlen == seqlen - 1;
    const bool hidden = s == Supervision::kHalf       ? coin[i] == 0
                        : s == Supervision::kLastOnly ? !last
                                                      : s == Supervision::kNone;
    if (hidden) targets[i] = -1;
  }
  return integer_array({batch, seqlen}, targets);
}

/// Multiples of 1/2 among real numbers: rows with several largest elements.
OpArray logit_array(const std::string& text, Shape shape) {
  OpArray a = random_array(text + "logits", std::move(shape), -4, 4);
  for (size_t i = 0; i < a.data.size(); i += 2) a.data[i] = std::round(2 * a.data[i]) / 2;
  return a;
}

struct LossShape {
  int batch, seqlen, classes, width;
  Supervision supervision;
};
std::vector<LossShape> loss_shapes() {
  using S = Supervision;
  std::vector<LossShape> out;
  for (const int seqlen : kSeqlens) out.push_back({batch_of(seqlen), seqlen, 8, 8, S::kHalf});
  for (const auto& [classes, width] : {std::pair{1, 1},
                                       {2, 3},
                                       {2, 8},
                                       {3, 4},
                                       {5, 7},
                                       {12, 16},
                                       {17, 24},
                                       {31, 33},
                                       {60, 64},
                                       {100, 104},
                                       {128, 136},
                                       {130, 130},
                                       {256, 257},
                                       {300, 301}})
    out.push_back({3, 33, classes, width, S::kHalf});
  for (const S s : {S::kLastOnly, S::kNone, S::kAll}) out.push_back({5, 40, 20, 24, s});
  out.push_back({256, 40, 8, 8, S::kLastOnly});
  return out;
}

std::vector<Case> loss_cases(bool backward) {
  std::vector<Case> out;
  for (const LossShape& s : loss_shapes()) {
    out.push_back({extents({s.batch, s.seqlen, s.classes, s.width}) + "_" +
                       std::to_string(static_cast<int>(s.supervision)),
                   CrossEntropyAttrs{s.classes},
                   [s, backward](const std::string& text) {
                     Arrays in = {logit_array(text, {s.batch, s.seqlen, s.width}),
                                  target_array(text, s.batch, s.seqlen, s.classes, s.supervision)};
                     if (backward) in.insert(in.begin(), random_array(text + "dloss", {1}, 0.5, 2));
                     return in;
                   },
                   is_long(s.seqlen)});
  }
  return out;
}

std::vector<Case> score_cases() {
  std::vector<Case> out;
  for (const LossShape& s : loss_shapes()) {
    ScoreAttrs a;
    a.classes = s.classes;
    a.legal_begin = s.classes > 4 ? 1 : 0;
    a.legal_end = s.classes > 8 ? s.classes - 2 : s.classes;
    a.samples = 2 * s.batch - 1;  // pass 1 is short of one sequence, pass 2 is empty
    out.push_back(
        {extents({s.batch, s.seqlen, s.classes, s.width}) + "_" +
             std::to_string(static_cast<int>(s.supervision)),
         a, [s](const std::string& text) {
           OpArray logits = logit_array(text, {s.batch, s.seqlen, s.width});
           const OpArray targets = target_array(text, s.batch, s.seqlen, s.classes, s.supervision);
           // Most answers are right, so that prefixes are long enough to tell something.
           const auto coin = integers(text + "right", targets.data.size(), 8);
           for (size_t i = 0; i < targets.data.size(); ++i) {
             const auto at = i * static_cast<size_t>(s.width);
             if (targets.data[i] >= 0 && coin[i] != 0)
               logits.data[at + static_cast<size_t>(targets.data[i])] = 5;
           }
           const int n = kScores + 3 * s.seqlen;
           std::vector<double> counts;
           for (const int32_t c : integers(text + "counts", static_cast<size_t>(n), 9))
             counts.push_back(c);
           return Arrays{logits, targets, integer_array({1}, integers(text + "pass", 1, 3)),
                         double_array({n}, counts)};
         }});
  }
  return out;
}

std::vector<Case> row_cases(const Attributes& attributes,
                            const std::function<Arrays(const std::string&, Shape)>& inputs,
                            const std::vector<int>& columns) {
  std::vector<Case> out;
  auto add = [&](int batch, int seqlen, int n) {
    out.push_back({extents({batch, seqlen, n}), attributes,
                   [=](const std::string& text) {
                     return inputs(text, {batch, seqlen, n});
                   },
                   is_long(seqlen)});
  };
  for (const int seqlen : kSeqlens) add(batch_of(seqlen), seqlen, 32);
  for (const int n : columns) add(3, 33, n);
  add(64, 40, 64);  // more rows than a run holds
  return out;
}

std::vector<Case> embedding_cases(bool backward) {
  std::vector<Case> out;
  auto add = [&](int batch, int seqlen, int vocab, int d) {
    out.push_back(
        {extents({batch, seqlen, vocab, d}),
         {},
         [=](const std::string& text) {
           Arrays in = {integer_array({batch, seqlen},
                                      integers(text + "tokens", static_cast<size_t>(batch * seqlen),
                                               static_cast<uint32_t>(vocab))),
                        random_array(text + "weight", {vocab, d})};
           if (backward) in.insert(in.begin() + 1, random_array(text + "dy", {batch, seqlen, d}));
           return in;
         },
         is_long(seqlen)});
  };
  for (const int seqlen : kSeqlens) add(batch_of(seqlen), seqlen, 8, 32);
  for (const int d : {1, 7, 30, 33, 64, 100, 128, 130, 260}) add(3, 33, 5, d);
  for (const int vocab : {1, 2, 130, 3000}) add(13, 40, vocab, 64);
  add(64, 40, 2, 64);
  add(1, 20000, 3, 32);
  return out;
}

std::vector<Case> linear_cases(Op op) {
  std::vector<Case> out;
  auto add = [&](int batch, int seqlen, int in_features, int out_features) {
    out.push_back({extents({batch, seqlen, in_features, out_features}),
                   {},
                   [=](const std::string& text) {
                     const double scale = 1 / std::sqrt(in_features);
                     const OpArray x = random_array(text + "x", {batch, seqlen, in_features}),
                                   w = random_array(text + "w", {out_features, in_features}, -scale,
                                                    scale),
                                   dy = random_array(text + "dy", {batch, seqlen, out_features});
                     return op == Op::kLinear       ? Arrays{x, w}
                            : op == Op::kLinearBwdX ? Arrays{dy, w}
                            : op == Op::kLinearBwdW ? Arrays{dy, x}
                                                    : Arrays{dy, w, x};
                   },
                   is_long(seqlen)});
  };
  for (const int seqlen : kSeqlens) add(batch_of(seqlen), seqlen, 32, 64);
  for (const auto& [in, to] :
       {std::pair{1, 1}, {7, 3},   {33, 31},  {30, 62},  {64, 386}, {128, 64}, {64, 8},
        {130, 65},       {100, 2}, {64, 406}, {386, 64}, {406, 64}, {64, 448}, {128, 98},
        {66, 34},        {32, 34}, {14, 40},  {416, 66}, {418, 64}, {160, 226}})
    add(3, 33, in, to);
  add(64, 40, 32, 96);
  // Several tiles of rows a block, parts of dW that end within a tile, fewer rows than a tile.
  for (const auto& [in, to] : {std::pair{64, 406}, {128, 64}, {64, 128}, {406, 64}, {34, 50}}) {
    add(1, 3, in, to);
    add(1, 17, in, to);
    add(13, 161, in, to);
  }
  if (op == Op::kLinear) add(1, 16400, 64, 406);  // tiles of 32 rows
  if (op == Op::kLinearBwdW || op == Op::kLinearBwd)
    add(1, 33001, 64, 406);  // dW by whole rows; its last run is short
  if (op == Op::kLinearBwdW) add(3, 11001, 128, 64);
  return out;
}

std::vector<Case> conv_cases(bool backward) {
  std::vector<Case> out;
  auto add = [&](int batch, int seqlen, int columns, int begin, int channels, int width) {
    out.push_back({extents({batch, seqlen, columns, begin, channels, width}),
                   CausalConv1dAttrs{begin, channels, width},
                   [=](const std::string& text) {
                     Arrays in = {random_array(text + "x", {batch, seqlen, columns}, -2, 2),
                                  random_array(text + "w", {channels, 1, width}, -0.5, 0.5),
                                  random_array(text + "b", {channels}, -0.5, 0.5)};
                     if (backward)
                       in.insert(in.begin(), random_array(text + "dy", {batch, seqlen, columns}));
                     return in;
                   },
                   is_long(seqlen)});
  };
  for (const int seqlen : kSeqlens) add(batch_of(seqlen), seqlen, 41, 5, 33, 4);
  for (const int width : {1, 2, 3, 5, 6, 7, 8}) add(3, 37, 40, 4, 32, width);
  for (const int seqlen : {3, 5, 7}) add(2, seqlen, 9, 0, 9, 8);
  add(3, 33, 1, 0, 1, 4);
  add(3, 33, 70, 64, 6, 4);
  add(64, 40, 386, 128, 256, 4);
  add(1, 5000, 8, 2, 5, 4);
  add(3, 161, 386, 128, 256, 4);
  for (const int begin : {1, 2}) add(3, 33, 12, begin, 6, 4);
  for (const int seqlen : {15, 16, 17}) add(3, seqlen, 66, 2, 64, 4);
  add(40, 161, 386, 128, 256, 4);  // runs of several tiles
  add(3, 33, 600, 7, 590, 4);      // more channels than threads of a block
  // Rows too wide for shared memory.
  add(3, 37, 1300, 128, 1100, 4);
  add(3, 37, 1301, 5, 700, 4);
  add(2, 33, 1100, 3, 900, 8);
  for (const int columns : {41, 42}) {
    out.push_back({extents({3, 37, columns}) + "_nobias", CausalConv1dAttrs{2, 38, 4},
                   [=](const std::string& text) {
                     Arrays in = {random_array(text + "x", {3, 37, columns}, -2, 2),
                                  random_array(text + "w", {38, 1, 4}, -0.5, 0.5), absent_array()};
                     if (backward)
                       in.insert(in.begin(), random_array(text + "dy", {3, 37, columns}));
                     return in;
                   }});
  }
  return out;
}

// ---- scans. Step sizes as an initialised or trained model has them: dt about 0.02 to 0.3.

using Mamba3Change = std::function<void(Mamba3ScanAttrs&, Arrays&, const std::string&)>;

Mamba3ScanAttrs mamba3_attrs(int nheads, int headdim, int groups, int d_state) {
  Mamba3ScanAttrs a;
  a.nheads = nheads, a.headdim = headdim, a.ngroups = groups, a.d_state = d_state;
  a.nangles = d_state / 4;
  return a;
}

/// `change` sees the attributes first (with empty operands), then again with the operands.
Case mamba3_case(const std::string& name, Mamba3ScanAttrs a, int batch, int seqlen, bool backward,
                 const Mamba3Change& change = {}) {
  if (change) {
    Arrays none(8);
    change(a, none, "");
  }
  a.chunk_size = cuda_chunk_size(a.headdim, a.d_state, 64);
  const std::string full = extents({batch, seqlen, a.nheads, a.headdim, a.ngroups, a.d_state}) +
                           "_" + std::to_string(a.nangles) + name;
  return {full, a,
          [=](const std::string& text) {
            const int H = a.nheads, N = a.d_state;
            Arrays in = {random_array(text + "proj", {batch, seqlen, a.d_proj()}, -1.5, 1.5),
                         random_array(text + "dt", {H}, -4, -1.5),
                         random_array(text + "Bb", {H, 1, N}, -0.5, 1.5),
                         random_array(text + "Cb", {H, 1, N}, -0.5, 1.5),
                         random_array(text + "Bn", {N}, 0.5, 1.5),
                         random_array(text + "Cn", {N}, 0.5, 1.5),
                         random_array(text + "D", {H}, 0.5, 1.5),
                         absent_array()};
            Mamba3ScanAttrs same = a;
            if (change) change(same, in, text);
            in = rounded(in);
            if (!backward) return in;
            return scan_operands(random_array(text + "dy", {batch, seqlen, a.d_inner()}), in,
                                 cpu_outputs(Op::kMamba3Scan, a, in));
          },
          is_long(seqlen)};
}

std::vector<Case> mamba3_cases(bool backward) {
  using A = Mamba3ScanAttrs;
  using Text = const std::string&;
  std::vector<Case> out;
  for (const int seqlen : kSeqlens)
    out.push_back(mamba3_case("", mamba3_attrs(1, 64, 1, 64), batch_of(seqlen), seqlen, backward));
  out.push_back(mamba3_case("", mamba3_attrs(4, 16, 2, 32), 2, 1000, backward));
  int turn = 0;
  for (const int headdim : {16, 32, 64, 128}) {
    for (const int d_state : {16, 32, 64, 128}) {
      const int nheads = 1 + turn % 4, groups = nheads % 2 == 0 && turn % 3 != 0 ? 2 : 1;
      A a = mamba3_attrs(nheads, headdim, groups, d_state);
      if (turn % 2) a.nangles = d_state / 2;
      out.push_back(mamba3_case("", a, 2, turn % 3 == 0 ? 151 : 65, backward));
      ++turn;
    }
  }
  for (const auto& [headdim, d_state] : {std::pair{8, 24}, {48, 80}, {24, 8}, {1, 4}, {5, 6}}) {
    A a = mamba3_attrs(2, headdim, 1, d_state);
    for (const int seqlen : {33, 129}) out.push_back(mamba3_case("", a, 2, seqlen, backward));
    a.nangles = d_state / 2, a.ngroups = 2;
    out.push_back(mamba3_case("", a, 2, 40, backward));
  }
  const std::vector<std::pair<std::string, Mamba3Change>> switches = {
      {"StandardRotation", [](A& a, Arrays&, Text) { a.rotation = A::Rotation::kStandard; }},
      {"StandardRotationOfAll",
       [](A& a, Arrays&, Text) {
         a.rotation = A::Rotation::kStandard;
         a.nangles = a.d_state / 2;
       }},
      {"NoRotation", [](A& a, Arrays&, Text) { a.rotation = A::Rotation::kNone; }},
      {"NoAngles",
       [](A& a, Arrays&, Text) {
         a.rotation = A::Rotation::kNone;
         a.nangles = 0;
       }},
      {"Euler", [](A& a, Arrays&, Text) { a.discretization = A::Discretization::kEuler; }},
      {"Half", [](A& a, Arrays&, Text) { a.discretization = A::Discretization::kHalf; }},
      {"HeavyTail", [](A& a, Arrays&, Text) { a.heavy_tail = true; }},
      {"Floor", [](A& a, Arrays&, Text) { a.a_floor = 0.7; }},
      {"NoNorm", [](A&, Arrays& in, Text) { in[4] = in[5] = absent_array(); }},
      {"NoBias", [](A&, Arrays& in, Text) { in[2] = in[3] = absent_array(); }},
      {"OnlyBNormAndCBias", [](A&, Arrays& in, Text) { in[2] = in[5] = absent_array(); }},
      {"OutNorm", [](A& a, Arrays& in,
                     Text text) { in[7] = random_array(text + "norm", {a.d_inner()}, 0.5, 1.5); }},
      {"OutNormAlone",
       [](A& a, Arrays& in, Text text) {
         in[2] = in[3] = in[4] = in[5] = absent_array();
         in[7] = random_array(text + "norm", {a.d_inner()}, 0.5, 1.5);
       }},
      {"LargeSteps", [](A& a, Arrays& in, Text text) {
         in[1] = random_array(text + "dt large", {a.nheads}, 1, 4);
       }}};
  for (const auto& [name, change] : switches) {
    out.push_back(mamba3_case(name, mamba3_attrs(2, 32, 1, 32), 2, 40, backward, change));
    out.push_back(mamba3_case(name, mamba3_attrs(4, 16, 2, 16), 2, 97, backward, change));
  }
  return out;
}

Case mamba2_case(Mamba2ScanAttrs a, int batch, int seqlen, bool backward) {
  a.chunk_size = cuda_chunk_size(a.headdim, a.d_state, 64);
  const std::string name = extents({batch, seqlen, a.nheads, a.headdim, a.ngroups, a.d_state}) +
                           (a.negative_eigenvalues ? "_negative" : "");
  return {name, a,
          [=](const std::string& text) {
            const Arrays in =
                rounded({random_array(text + "proj", {batch, seqlen, a.d_proj()}, -1.5, 1.5),
                         random_array(text + "dt", {a.nheads}, -4, -1.5),
                         random_array(text + "A", {a.nheads}, 0, 2.7),
                         random_array(text + "D", {a.nheads}, 0.5, 1.5),
                         random_array(text + "norm", {a.d_inner()}, 0.5, 1.5)});
            if (!backward) return in;
            return scan_operands(random_array(text + "dy", {batch, seqlen, a.d_inner()}), in,
                                 cpu_outputs(Op::kMamba2Scan, a, in));
          },
          is_long(seqlen)};
}

std::vector<Case> mamba2_cases(bool backward) {
  std::vector<Case> out;
  auto attrs = [](int nheads, int headdim, int groups, int d_state, bool negative) {
    Mamba2ScanAttrs a;
    a.nheads = nheads, a.headdim = headdim, a.ngroups = groups, a.d_state = d_state;
    a.negative_eigenvalues = negative;
    return a;
  };
  for (const int seqlen : kSeqlens)
    out.push_back(mamba2_case(attrs(1, 64, 1, 64, false), batch_of(seqlen), seqlen, backward));
  out.push_back(mamba2_case(attrs(4, 16, 2, 32, true), 2, 1000, backward));
  int turn = 0;
  for (const int headdim : {16, 32, 64, 128}) {
    for (const int d_state : {16, 32, 64, 128}) {
      const int nheads = 1 + turn % 4, groups = nheads % 2 == 0 && turn % 3 != 0 ? 2 : 1;
      for (const bool negative : {false, true})
        out.push_back(mamba2_case(attrs(nheads, headdim, groups, d_state, negative), 2,
                                  turn % 3 == 0 ? 151 : 65, backward));
      ++turn;
    }
  }
  for (const auto& [headdim, d_state] : {std::pair{8, 24}, {48, 80}, {24, 8}, {1, 4}, {5, 7}}) {
    for (const bool negative : {false, true}) {
      out.push_back(mamba2_case(attrs(2, headdim, 1, d_state, negative), 2, 129, backward));
      out.push_back(mamba2_case(attrs(4, headdim, 2, d_state, negative), 2, 40, backward));
    }
  }
  return out;
}

// ---- the optimizer

OpArray settings_array(const std::string& text) {
  const auto r = uniform(text + "settings", 2, 0.5, 1);
  return double_array({kSettings}, {1e-2 * r[0], 0.9, 0.95 + 0.049 * r[1], 1e-8, 0.1, 1.0});
}

std::vector<Case> global_norm_cases() {
  const std::vector<std::vector<Shape>> sets = {{{1}},
                                                {{4095}, {4096}, {4097}},
                                                {{3, 7}, {64, 386}, {1000, 64}},
                                                std::vector<Shape>(150, {33})};
  std::vector<Case> out;
  for (const auto& shapes : sets) {
    out.push_back({extents({static_cast<int>(shapes.size()), static_cast<int>(shapes[0].size())}),
                   {},
                   [shapes](const std::string& text) {
                     Arrays in;
                     for (size_t i = 0; i < shapes.size(); ++i)
                       in.push_back(random_array(text + std::to_string(i), shapes[i]));
                     return in;
                   }});
  }
  return out;
}

std::vector<Case> adamw_cases() {
  const std::vector<std::vector<Shape>> sets = {
      {{1}, {3}, {1023}, {1024}, {1025}, {64, 32}, {33, 31}}, std::vector<Shape>(93, {7})};
  std::vector<Case> out;
  for (const auto& shapes : sets) {
    for (const bool clips : {true, false}) {
      AdamWAttrs a;
      for (size_t i = 0; i < shapes.size(); ++i) a.decays.push_back(i % 3 != 1);
      out.push_back({extents({static_cast<int>(shapes.size())}) + (clips ? "_clips" : ""), a,
                     [shapes, clips](const std::string& text) {
                       OpArray settings = settings_array(text);
                       if (!clips) settings.data[kSettingClipNorm] = 0;
                       // The last member of three is frozen.
                       const bool frozen = !text.empty() && text.back() == '2';
                       Arrays in = {random_array(text + "norm", {1}, 0.5, 4),
                                    double_array({1}, {settings.data[kSettingLr]}),
                                    integer_array({1}, integers(text + "step", 1, 2000)), settings,
                                    integer_array({1}, {frozen ? 5 : -1})};
                       for (size_t i = 0; i < shapes.size(); ++i) {
                         const std::string t = text + std::to_string(i);
                         in.push_back(random_array(t + "w", shapes[i]));
                         in.push_back(random_array(t + "m", shapes[i], -0.1, 0.1));
                         in.push_back(random_array(t + "v", shapes[i], 0, 0.01));
                         in.push_back(random_array(t + "g", shapes[i]));
                       }
                       return in;
                     }});
    }
  }
  return out;
}

std::vector<Case> schedule_cases() {
  using Kind = ScheduleAttrs::Kind;
  std::vector<Case> out;
  for (const Kind kind : {Kind::kCosine, Kind::kLinear, Kind::kConstant}) {
    for (const int stages : {1, 3, 32}) {
      ScheduleAttrs a{kind, stages == 3 ? 0.1 : 0.0, {}, {}};
      for (int i = 0; i < stages; ++i)
        a.begins.push_back(i * (900 / stages)), a.lengths.push_back(900 / stages);
      for (const uint32_t bound : {20u, 1200u}) {
        out.push_back({std::to_string(static_cast<int>(kind)) + "_" +
                           extents({stages, static_cast<int>(bound)}),
                       a, [bound](const std::string& text) {
                         return Arrays{integer_array({1}, integers(text + "step", 1, bound)),
                                       settings_array(text)};
                       }});
      }
    }
  }
  return out;
}

/// A number, NaN or infinity, by member.
OpArray perhaps_finite(const std::string& text) {
  const double inf = std::numeric_limits<double>::infinity();
  const double values[] = {1.5, std::nan(""), inf, -inf, 0, 1};
  return real_array({1}, {values[integers(text, 1, 6)[0]]});
}
OpArray perhaps_diverged(const std::string& text) {
  return integer_array({1}, {integers(text + "diverged", 1, 2)[0] == 0 ? -1 : 7});
}

std::vector<Case> named(int count, const std::function<Arrays(const std::string&)>& inputs) {
  std::vector<Case> out;
  for (int i = 0; i < count; ++i) out.push_back({std::to_string(i), {}, inputs});
  return out;
}

std::vector<Case> select_cases(bool backward) {
  std::vector<Case> out;
  for (const auto& [batch, seqlen, width] :
       {std::tuple{1, 1, 1}, {5, 2, 3}, {5, 33, 64}, {9, 161, 64}, {4, 40, 7}, {300, 5, 130}}) {
    out.push_back({extents({batch, seqlen, width}), {}, [=](const std::string& text) {
                     return Arrays{random_array(text, {batch, backward ? 1 : seqlen, width}),
                                   one_target(text, batch, seqlen)};
                   }});
  }
  if (!backward) {
    out.push_back({"targets", {}, [=](const std::string& text) {
                     const OpArray targets = one_target(text, 6, 35);
                     return Arrays{targets, targets};
                   }});
  }
  return out;
}

std::vector<Case> cases_of(Op op) {
  switch (op) {
    case Op::kDraw:
    case Op::kGatedDeltaScan:  // a file of their own has these
    case Op::kGatedDeltaScanBwd:
    case Op::kLstm:
    case Op::kLstmBwd:
    case Op::kHeadLoss:
    case Op::kNormLinear:
    case Op::kNormLinearBwd:
    case Op::kOutProjLoss:
    case Op::kMamba3ScanAt:
    case Op::kMamba3ScanAtBwd:
    case Op::kMamba2ScanAt:
    case Op::kMamba2ScanAtBwd:
      break;
    case Op::kSelect:
    case Op::kSelectBwd:
      return select_cases(op == Op::kSelectBwd);
    case Op::kConstant:
      return {{"", ConstantAttrs{1.25}, [](const std::string&) { return Arrays{}; }}};
    case Op::kAdd:
      return row_cases(
          {},
          [](const std::string& text, const Shape& shape) {
            return Arrays{random_array(text + "a", shape), random_array(text + "b", shape)};
          },
          {1, 3, 7, 130});
    case Op::kEmbedding:
      return embedding_cases(false);
    case Op::kEmbeddingBwd:
      return embedding_cases(true);
    case Op::kLinear:
    case Op::kLinearBwdX:
    case Op::kLinearBwdW:
    case Op::kLinearBwd:
      return linear_cases(op);
    case Op::kRmsNorm:
    case Op::kRmsNormBwd:
      return row_cases(RmsNormAttrs{},
                       [op](const std::string& text, const Shape& shape) {
                         Arrays in = {random_array(text + "x", shape, -2, 2),
                                      random_array(text + "w", {shape.last()}, 0.5, 1.5)};
                         if (op == Op::kRmsNormBwd)
                           in.insert(in.begin(), random_array(text + "dy", shape));
                         return in;
                       },
                       {1,   2,   4,   7,   9,   17,  33,  36,  64,  65,  100,
                        127, 128, 129, 130, 132, 256, 260, 512, 516, 1100});
    case Op::kSwiglu:
    case Op::kSwigluBwd:
      return row_cases({},
                       [op](const std::string& text, const Shape& shape) {
                         const Shape ug{shape[0], shape[1], 2 * shape[2]};
                         Arrays in = {random_array(text + "ug", ug, -4, 4)};
                         if (op == Op::kSwigluBwd)
                           in.insert(in.begin(), random_array(text + "dy", shape));
                         return in;
                       },
                       {1, 3, 20, 64, 85, 96, 128, 300, 1100});
    case Op::kCausalConv1d:
      return conv_cases(false);
    case Op::kCausalConv1dBwd:
      return conv_cases(true);
    case Op::kMamba3Scan:
      return mamba3_cases(false);
    case Op::kMamba3ScanBwd:
      return mamba3_cases(true);
    case Op::kMamba2Scan:
      return mamba2_cases(false);
    case Op::kMamba2ScanBwd:
      return mamba2_cases(true);
    case Op::kCrossEntropy:
      return loss_cases(false);
    case Op::kCrossEntropyBwd:
      return loss_cases(true);
    case Op::kScore:
      return score_cases();
    case Op::kGlobalNorm:
      return global_norm_cases();
    case Op::kSchedule:
      return schedule_cases();
    case Op::kGuard:
      return named(12, [](const std::string& text) {
        return Arrays{perhaps_finite(text + "loss"), perhaps_finite(text + "norm"),
                      integer_array({1}, integers(text + "step", 1, 100)), perhaps_diverged(text)};
      });
    case Op::kAdamW:
      return adamw_cases();
    case Op::kMetrics:
      return named(4, [](const std::string& text) {
        return Arrays{
            random_array(text + "loss", {1}), random_array(text + "accuracy", {1}),
            random_array(text + "norm", {1}), double_array({1}, uniform(text + "lr", 1)),
            perhaps_diverged(text),           double_array({kWindows}, uniform(text, kWindows))};
      });
    case Op::kAdvance:
      return named(2, [](const std::string& text) {
        return Arrays{integer_array({1}, integers(text + "step", 1, 100)),
                      integer_array({1}, integers(text + "optimizer_step", 1, 100))};
      });
  }
  return {};
}

class CudaOps : public OpOnCuda {};

TEST_P(CudaOps, EveryOpAgreesWithDoublePrecision) {
  for (const Case& c : cases_of(GetParam())) {
    for (const int members : {1, kMembers})
      ASSERT_NO_FATAL_FAILURE(expect_agreement(GetParam(), c, Precision::kFp32, members));
  }
}

TEST_P(CudaOps, AMemberHasTheSameBitsAloneAndInACohort) {
  for (const Case& c : cases_of(GetParam())) {
    const auto in = inputs_of(GetParam(), c, kMembers);
    const auto cohort = run_op_cuda(GetParam(), c.attributes, in, Precision::kFp32);
    for (size_t m = 0; m < in.size(); ++m) {
      const auto alone = run_op_cuda(GetParam(), c.attributes, {in[m]}, Precision::kFp32);
      EXPECT_EQ(different_bits(alone[0], cohort[m]), "")
          << op_name(GetParam()) << " " << c.name << " member " << m;
    }
  }
}

/// Few and small cases, in every precision: what fits under compute-sanitizer, whose racecheck is a thousand times slower.
TEST_P(CudaOps, SmallCasesWriteEveryOutput) {
  std::vector<Case> cases = cases_of(GetParam());
  auto elements = [](const Case& c) {
    int64_t n = 0;
    for (const OpArray& a : c.inputs("size")) n += a.absent ? 0 : a.type.shape.size();
    return n;
  };
  std::stable_sort(cases.begin(), cases.end(),
                   [&](const Case& a, const Case& b) { return elements(a) < elements(b); });
  for (const size_t at : {size_t{0}, cases.size() / 4, cases.size() / 2}) {
    const Case& c = cases[at];
    const auto in = inputs_of(GetParam(), c, 2);
    for (const Precision precision : {Precision::kFp32, Precision::kTf32, Precision::kBf16}) {
      const auto runs = run_op_cuda(GetParam(), c.attributes, in, precision);
      for (size_t i = 0; i < runs[1].outputs.size(); ++i) {
        if (!is_compared(GetParam(), c.attributes, in[1], i)) continue;
        const auto& data = runs[1].outputs[i].data;
        EXPECT_TRUE(std::none_of(data.begin(), data.end(), [](double x) { return std::isnan(x); }))
            << c.name << " in " << precision_name(precision) << " leaves output " << i
            << " unwritten";
      }
    }
  }
}

TEST_P(CudaOps, TwiceGivesTheSameBits) {
  for (const Case& c : cases_of(GetParam())) {
    const auto in = inputs_of(GetParam(), c, kMembers);
    const auto first = run_op_cuda(GetParam(), c.attributes, in, Precision::kFp32);
    const auto second = run_op_cuda(GetParam(), c.attributes, in, Precision::kFp32);
    for (size_t m = 0; m < in.size(); ++m) {
      EXPECT_EQ(different_bits(first[m], second[m]), "")
          << op_name(GetParam()) << " " << c.name << " member " << m;
    }
  }
}

std::vector<Op> all_ops() {
  std::vector<Op> out;
  for (int i = 0; i <= static_cast<int>(Op::kAdvance); ++i) {
    const auto op = static_cast<Op>(i);
    if (op == Op::kDraw || op == Op::kGatedDeltaScan || op == Op::kGatedDeltaScanBwd ||
        op == Op::kLstm || op == Op::kLstmBwd || op == Op::kHeadLoss || op == Op::kOutProjLoss ||
        op == Op::kNormLinear || op == Op::kNormLinearBwd || op == Op::kMamba3ScanAt ||
        op == Op::kMamba3ScanAtBwd || op == Op::kMamba2ScanAt || op == Op::kMamba2ScanAtBwd)
      continue;
    out.push_back(op);
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Op, CudaOps, ::testing::ValuesIn(all_ops()), op_test_name);

class CudaProducts : public CudaOps {};

TEST_P(CudaProducts, AgreeWithDoublePrecisionAsFarAsTheirOperandsDo) {
  for (const Case& c : cases_of(GetParam())) {
    for (const Precision precision : {Precision::kTf32, Precision::kBf16})
      ASSERT_NO_FATAL_FAILURE(expect_agreement(GetParam(), c, precision, 1));
  }
}

TEST_P(CudaProducts, OfAMemberHaveTheSameBitsAloneAndInACohort) {
  for (const Case& c : cases_of(GetParam())) {
    const auto in = inputs_of(GetParam(), c, 2);
    for (const Precision precision : {Precision::kTf32, Precision::kBf16}) {
      const auto cohort = run_op_cuda(GetParam(), c.attributes, in, precision);
      const auto alone = run_op_cuda(GetParam(), c.attributes, {in[1]}, precision);
      EXPECT_EQ(different_bits(alone[0], cohort[1]), "")
          << op_name(GetParam()) << " " << c.name << " in " << precision_name(precision);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Op, CudaProducts,
                         ::testing::Values(Op::kLinear, Op::kLinearBwdX, Op::kLinearBwdW,
                                           Op::kLinearBwd, Op::kMamba3Scan, Op::kMamba3ScanBwd,
                                           Op::kMamba2Scan, Op::kMamba2ScanBwd),
                         op_test_name);

/// Needs no GPU: shapes alone decide.
TEST(CudaLimits, RefuseWithAReason) {
  if (!built_with_cuda()) GTEST_SKIP() << "this build has no CUDA backend";
  auto refusal = [](Op op, const Attributes& attributes, const Arrays& in) {
    std::vector<const ValueType*> types;
    for (const OpArray& a : in) types.push_back(a.absent ? nullptr : &a.type);
    const std::vector<ValueType> out = infer(op, attributes, types);
    return cuda_limit({op, &attributes, types, out});
  };
  for (const auto& [headdim, d_state, word] :
       {std::tuple{136, 16, "headdim"}, {16, 136, "d_state"}}) {
    Mamba3ScanAttrs a = mamba3_attrs(1, headdim, 1, d_state);
    a.chunk_size = 16;
    const Arrays in3 = {random_array("proj", {1, 2, a.d_proj()}),
                        random_array("dt", {1}),
                        absent_array(),
                        absent_array(),
                        absent_array(),
                        absent_array(),
                        random_array("D", {1}),
                        absent_array()};
    EXPECT_THAT(refusal(Op::kMamba3Scan, a, in3), ::testing::HasSubstr(word));
    const Arrays bwd3 = scan_operands(random_array("dy", {1, 2, a.d_inner()}), in3,
                                      cpu_outputs(Op::kMamba3Scan, a, in3));
    EXPECT_THAT(refusal(Op::kMamba3ScanBwd, a, bwd3), ::testing::HasSubstr(word));
    Mamba2ScanAttrs b;
    b.headdim = headdim, b.d_state = d_state, b.chunk_size = 16;
    const Arrays in2 = {random_array("proj", {1, 2, b.d_proj()}), random_array("dt", {1}),
                        random_array("A", {1}), random_array("D", {1}),
                        random_array("norm", {headdim})};
    EXPECT_THAT(refusal(Op::kMamba2Scan, b, in2), ::testing::HasSubstr(word));
    const Arrays bwd2 = scan_operands(random_array("dy", {1, 2, b.d_inner()}), in2,
                                      cpu_outputs(Op::kMamba2Scan, b, in2));
    EXPECT_THAT(refusal(Op::kMamba2ScanBwd, b, bwd2), ::testing::HasSubstr(word));
  }
  EXPECT_EQ(
      refusal(Op::kCausalConv1d, CausalConv1dAttrs{0, 2, 9},
              {random_array("x", {1, 3, 2}), random_array("w", {2, 1, 9}), random_array("b", {2})}),
      "width must be 1..8 on a CUDA device, is 9");
  ScheduleAttrs schedule;
  schedule.begins.resize(33), schedule.lengths.resize(33, 1);
  EXPECT_EQ(refusal(Op::kSchedule, schedule, {integer_array({1}, {0}), settings_array("s")}),
            "a schedule has at most 32 stages on a CUDA device, this one has 33");
  EXPECT_THROW(cuda_kernel(Op::kDraw), UnsupportedOp);  // the owner of the data supplies it
}

}  // namespace
}  // namespace statelab

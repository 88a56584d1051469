// The scans at one position, in double: the same numbers as the whole scan, its gradients where only that position has a cotangent.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/run_op.h"
#include "kernels/error.h"
#include "tests/kernels/scan_at_cases.h"

namespace statelab {
namespace {

using namespace testing_support;  // NOLINT: a test

Arrays run(Op op, const Attributes& attributes, const Arrays& in) {
  return run_op<double>(op, attributes, in).outputs;
}

void expect_close(const OpArray& actual, const OpArray& expected, const std::string& what) {
  ASSERT_EQ(actual.type.shape.text(), expected.type.shape.text()) << what;
  double largest = 1e-300, error = 0;
  for (size_t i = 0; i < actual.data.size(); ++i) {
    largest = std::max(largest, std::abs(expected.data[i]));
    error = std::max(error, std::abs(actual.data[i] - expected.data[i]));
  }
  EXPECT_LE(error, 1e-12 * largest) << what;
}

/// What the whole scan takes and gives, of the same operands.
struct Whole {
  Arrays in, out;
  explicit Whole(const ScanAtCase& c, const Arrays& at) : in(at.begin(), at.end() - 1) {
    out = run(c.scan(), c.attributes, in);
  }
};

TEST(ScanAt, IsTheScansRowAtTheSupervisedPosition) {
  for (const ScanAtCase& c : scan_at_cases()) {
    const Arrays in = c.inputs(c.name);
    const Whole whole(c, in);
    const Arrays actual = run(c.forward(), c.attributes, in);
    for (const size_t i : {size_t{0}, size_t{1}}) {
      expect_close(actual[i], run(Op::kSelect, {}, {whole.out[i], in.back()})[0],
                   c.name + " output " + std::to_string(i));
    }
  }
}

TEST(ScanAt, HasTheScansGradients) {
  for (const ScanAtCase& c : scan_at_cases()) {
    const Arrays in = c.inputs(c.name);
    const Whole whole(c, in);
    const OpArray dy = random_array(c.name + "dy", {c.batch, 1, c.d_inner});
    Arrays operands = {dy};
    operands.insert(operands.end(), in.begin(), in.end());
    operands.push_back(run(c.forward(), c.attributes, in)[1]);
    const Arrays actual = run(c.backward(), c.attributes, operands);
    const Arrays expected =
        run(c.scan_backward(), c.attributes,
            scan_operands(run(Op::kSelectBwd, {}, {dy, in.back()})[0], whole.in, whole.out));
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      if (!in[i].absent) expect_close(actual[i], expected[i], c.name + " of " + std::to_string(i));
    }
  }
}

TEST(ScanAt, ReadsNothingBehindThePosition) {
  const ScanAtCase c = scan_at_cases()[0];
  Arrays in = c.inputs("behind");
  const Arrays before = run(c.forward(), c.attributes, in);
  const auto width = static_cast<size_t>(in[0].type.shape.last()),
             seqlen = static_cast<size_t>(c.seqlen);
  for (size_t b = 0; b < static_cast<size_t>(c.batch); ++b) {
    size_t p = seqlen - 1;
    while (p > 0 && in.back().data[b * seqlen + p] < 0) --p;
    std::fill(in[0].data.begin() + static_cast<std::ptrdiff_t>((b * seqlen + p + 1) * width),
              in[0].data.begin() + static_cast<std::ptrdiff_t>((b + 1) * seqlen * width), NAN);
  }
  EXPECT_EQ(run(c.forward(), c.attributes, in)[0].data, before[0].data);
}

TEST(Select, TakesTheLastPositionWithATargetOrTheFirst) {
  const OpArray targets = integer_array({3, 4}, {-1, 2, 0, -1, -1, -1, -1, -1, 1, -1, -1, 3});
  const OpArray x = integer_array({3, 4}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  const OpArray picked = run(Op::kSelect, {}, {x, targets})[0];
  EXPECT_EQ(picked.type.shape.text(), Shape({3, 1}).text());
  EXPECT_EQ(picked.data, (std::vector<double>{2, 4, 11}));
  const OpArray dx =
      run(Op::kSelectBwd, {}, {real_array({3, 1, 2}, {1, 2, 3, 4, 5, 6}), targets})[0];
  std::vector<double> expected(24);
  expected[4] = 1, expected[5] = 2, expected[8] = 3, expected[9] = 4, expected[22] = 5,
  expected[23] = 6;
  EXPECT_EQ(dx.data, expected);
}

TEST(ScanAt, RefusesWhatItCannotCompute) {
  const ScanAtCase c = scan_at_cases().back();
  Mamba2ScanAttrs a = std::get<Mamba2ScanAttrs>(c.attributes);
  a.negative_eigenvalues = true;
  EXPECT_THROW(run(c.forward(), a, c.inputs("negative")), ShapeError);
  Arrays in = c.inputs("targets");
  in.back() = integer_array({1, 2}, {0, 0});
  EXPECT_THROW(run(c.forward(), c.attributes, in), ShapeError);
}

}  // namespace
}  // namespace statelab

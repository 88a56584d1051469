// The production ops against the golden vectors: values and gradients, chunked and recurrent.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/run_op.h"
#include "tests/models/reference/golden_check.h"

namespace statelab {
namespace {

using golden::sine_fill;
using Arrays = std::vector<OpArray>;

std::vector<double> filled(size_t n, double value) { return std::vector<double>(n, value); }
double inverse_softplus(double y) { return y + std::log(-std::expm1(-y)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

std::vector<double> loss_weights(size_t n) {
  std::vector<double> w(n);
  for (size_t i = 0; i < n; ++i) w[i] = golden::loss_weight(i);
  return w;
}

/// Columns [begin, begin + count) of (rows, width).
std::vector<double> columns(const OpArray& a, int begin, int count) {
  std::vector<double> out;
  for (int64_t r = 0; r < a.type.shape.rows(); ++r) {
    for (int c = begin; c < begin + count; ++c)
      out.push_back(a.data[static_cast<size_t>(r * a.type.shape.last() + c)]);
  }
  return out;
}

struct Algorithm {
  bool chunked;
  int chunk_size;
};
const Algorithm kAlgorithms[] = {{true, 64}, {true, 3}, {true, 1}, {false, 64}, {false, 2}};

/// The golden scan takes a and dt apart; here a = A dt with A = -softplus(dd_A), so dd_A is solved for.
TEST(ProductionMamba3Scan, ReproducesGoldenOutputsAndGradients) {
  const int T = 7, N = 8, P = 3, S = 2;
  const auto q = sine_fill(.1, T * N), k = sine_fill(.2, T * N), v = sine_fill(.3, T * P),
             z = sine_fill(1.0, T * P);
  const auto a = sine_fill(.4, T, .25, -.3), dt = sine_fill(.5, T, .5, .6), trap = sine_fill(.6, T),
             ang = sine_fill(.9, T * S);
  std::vector<double> proj;
  for (int t = 0; t < T; ++t) {
    auto append = [&](const std::vector<double>& x, int n) {
      proj.insert(proj.end(), x.begin() + t * n, x.begin() + (t + 1) * n);
    };
    append(z, P);
    append(v, P);
    append(k, N);
    append(q, N);
    proj.push_back(inverse_softplus(dt[size_t(t)]));
    proj.push_back(inverse_softplus(-a[size_t(t)] / dt[size_t(t)]));
    proj.push_back(trap[size_t(t)]);
    append(ang, S);
  }
  for (const Algorithm& algorithm : kAlgorithms) {
    Mamba3ScanAttrs at;
    at.nheads = 1, at.headdim = P, at.d_state = N, at.nangles = S, at.a_floor = 0;
    at.chunked = algorithm.chunked, at.chunk_size = algorithm.chunk_size;
    const Arrays in = {real_array({1, T, at.d_proj()}, proj),
                       real_array({1}, {0}),
                       real_array({1, 1, N}, sine_fill(.8, N, .3, 1)),
                       real_array({1, 1, N}, sine_fill(.7, N, .3, 1)),
                       absent_array(),
                       absent_array(),
                       real_array({1}, {0.5}),
                       absent_array()};
    const OpRun forward = run_op<double>(Op::kMamba3Scan, at, in);
    golden::expect_output(forward.outputs[0].data, golden::kMamba3Scan);

    Arrays backward_in = {real_array({1, T, P}, loss_weights(T * P))};
    backward_in.insert(backward_in.end(), in.begin(), in.end());
    backward_in.insert(backward_in.end(), forward.outputs.begin() + 1, forward.outputs.end());
    const auto d = run_op<double>(Op::kMamba3ScanBwd, at, backward_in).outputs;
    const OpArray& dproj = d[0];
    std::vector<double> da(T), ddt(T);
    const auto draw_dt = columns(dproj, 2 * P + 2 * N, 1),
               draw_A = columns(dproj, 2 * P + 2 * N + 1, 1);
    for (size_t t = 0; t < T; ++t) {  // undo A = -softplus(dd_A), dt = softplus(dd_dt), a = A dt
      const double A = a[t] / dt[t];
      da[t] = -draw_A[t] / sigmoid(inverse_softplus(-A)) / dt[t];
      ddt[t] = draw_dt[t] / sigmoid(inverse_softplus(dt[t])) - A * da[t];
    }
    golden::expect_gradients(
        {columns(dproj, 2 * P + N, N), columns(dproj, 2 * P, N), columns(dproj, P, P),
         columns(dproj, 0, P), da, ddt, columns(dproj, 2 * P + 2 * N + 2, 1), d[3].data, d[2].data,
         columns(dproj, 2 * P + 2 * N + 3, S), d[6].data},
        golden::kMamba3ScanGradients);
  }
}

/// Gate and norm are made the identity (silu(z) = 1; eps so large that the norm is a constant that its weight undoes),
/// so that the op's output is the recurrence's.
TEST(ProductionMamba2Scan, ReproducesGoldenOutputsAndGradientsInBothEigenvalueRanges) {
  const int T = 7, N = 4, P = 3;
  const double kUnitGate = 1.2784645427610738;
  const auto q = sine_fill(.1, T * N), k = sine_fill(.2, T * N), x = sine_fill(.3, T * P),
             dt = sine_fill(.5, T, .5, .6);
  for (const bool negative : {false, true}) {
    const double A = negative ? -2.5 : -1.25;
    std::vector<double> proj;
    for (int t = 0; t < T; ++t) {
      auto append = [&](const std::vector<double>& y, int n) {
        proj.insert(proj.end(), y.begin() + t * n, y.begin() + (t + 1) * n);
      };
      proj.insert(proj.end(), P, kUnitGate);
      append(x, P);
      append(k, N);
      append(q, N);
      proj.push_back(inverse_softplus(dt[size_t(t)]));
    }
    for (const Algorithm& algorithm : kAlgorithms) {
      Mamba2ScanAttrs at;
      at.nheads = 1, at.headdim = P, at.d_state = N, at.negative_eigenvalues = negative,
      at.eps = 1e30;
      at.chunked = algorithm.chunked, at.chunk_size = algorithm.chunk_size;
      const Arrays in = {real_array({1, T, at.d_proj()}, proj), real_array({1}, {0}),
                         real_array({1}, {std::log(-A)}), real_array({1}, {0.5}),
                         real_array({P}, filled(P, 1e15))};
      const OpRun forward = run_op<double>(Op::kMamba2Scan, at, in);
      golden::expect_output(forward.outputs[0].data,
                            negative ? golden::kMamba2SignedScan : golden::kMamba2Scan);
      golden::expect_output(forward.outputs[1].data,
                            negative ? golden::kMamba2SignedScan : golden::kMamba2Scan);
      Arrays backward_in = {real_array({1, T, P}, loss_weights(T * P))};
      backward_in.insert(backward_in.end(), in.begin(), in.end());
      backward_in.insert(backward_in.end(), forward.outputs.begin() + 1, forward.outputs.end());
      const auto d = run_op<double>(Op::kMamba2ScanBwd, at, backward_in).outputs;
      auto ddt = columns(d[0], 2 * P + 2 * N, 1);
      for (size_t t = 0; t < T; ++t) ddt[t] /= sigmoid(inverse_softplus(dt[t]));
      golden::expect_gradients(
          {columns(d[0], 2 * P + N, N),
           columns(d[0], 2 * P, N),
           columns(d[0], P, P),
           ddt,
           {d[2].data[0] / A},
           d[3].data},
          negative ? golden::kMamba2SignedScanGradients : golden::kMamba2ScanGradients);
    }
  }
}

/// The norm is made the identity (eps so large that it is a constant that its weight undoes) and the gate left out. The
/// golden rule takes the log decay g itself; here g = -softplus(a), so a is solved for.
TEST(ProductionGatedDeltaScan, ReproducesGoldenOutputsAndGradientsForBothBetaRanges) {
  const int T = 7, K = 4, V = 3;
  const auto q = sine_fill(.1, T * K), k = sine_fill(.2, T * K), v = sine_fill(.3, T * V),
             b = sine_fill(.6, T), g = sine_fill(.4, T, .25, -.3);
  std::vector<double> proj;
  for (int t = 0; t < T; ++t) {
    auto append = [&](const std::vector<double>& x, int n) {
      proj.insert(proj.end(), x.begin() + t * n, x.begin() + (t + 1) * n);
    };
    append(q, K);
    append(k, K);
    append(v, V);
    proj.push_back(inverse_softplus(-g[size_t(t)]));
    proj.push_back(b[size_t(t)]);
  }
  for (const bool negative : {false, true}) {
    for (const Algorithm& algorithm : kAlgorithms) {
      GatedDeltaScanAttrs at;
      at.nheads = 1, at.headdim = V, at.d_state = K, at.beta_max = negative ? 2 : 1;
      at.gate = false, at.eps = 1e30;
      at.chunked = algorithm.chunked, at.chunk_size = algorithm.chunk_size;
      const Arrays in = {real_array({1, T, at.d_proj()}, proj), real_array({1}, {0}),
                         real_array({1}, {0}), real_array({V}, filled(V, 1e15))};
      const OpRun forward = run_op<double>(Op::kGatedDeltaScan, at, in);
      for (const size_t output : {0, 1}) {
        golden::expect_output(forward.outputs[output].data,
                              negative ? golden::kGatedDeltaSigned : golden::kGatedDelta);
      }
      Arrays backward_in = {real_array({1, T, V}, loss_weights(T * V))};
      backward_in.insert(backward_in.end(), in.begin(), in.end());
      backward_in.insert(backward_in.end(), forward.outputs.begin() + 1, forward.outputs.end());
      const auto d = run_op<double>(Op::kGatedDeltaScanBwd, at, backward_in).outputs;
      auto dg = columns(d[0], 2 * K + V, 1);
      double da_sum = 0, dA_log = 0;
      for (size_t t = 0; t < T; ++t) {
        da_sum += dg[t];
        dg[t] /= -sigmoid(inverse_softplus(-g[t]));
        dA_log += dg[t] * g[t];
      }
      golden::expect_gradients(
          {columns(d[0], 0, K), columns(d[0], K, K), columns(d[0], 2 * K, V),
           columns(d[0], 2 * K + V + 1, 1), dg},
          negative ? golden::kGatedDeltaSignedGradients : golden::kGatedDeltaGradients);
      golden::expect_close(d[1].data[0], da_sum, "dt_bias");
      golden::expect_close(d[2].data[0], dA_log, "A_log");
    }
  }
}

TEST(ProductionMamba3Block, ReproducesGoldenOutputsAndGradients) {
  const int d_model = 4, T = 6, N = 8;
  for (const Algorithm& algorithm : kAlgorithms) {
    Mamba3ScanAttrs at;
    at.nheads = 2, at.headdim = 4, at.d_state = N, at.nangles = 2, at.heavy_tail = true;
    at.chunked = algorithm.chunked, at.chunk_size = algorithm.chunk_size;
    ASSERT_EQ(at.d_proj(), 40);
    const OpArray u = real_array({1, T, d_model}, sine_fill(.9, T * d_model)),
                  in_proj = real_array({40, 4}, sine_fill(.1, 160, .8)),
                  out_proj = real_array({4, 8}, sine_fill(.8, 32, .5));
    const OpArray proj = run_op<double>(Op::kLinear, {}, {u, in_proj}).outputs[0];
    const Arrays in = {proj,
                       real_array({2}, sine_fill(.2, 2, .3)),
                       real_array({2, 1, N}, sine_fill(.3, 16, .3, 1)),
                       real_array({2, 1, N}, sine_fill(.4, 16, .3, 1)),
                       real_array({N}, sine_fill(.5, N, .2, 1)),
                       real_array({N}, sine_fill(.6, N, .2, 1)),
                       real_array({2}, sine_fill(.7, 2)),
                       absent_array()};
    const OpRun scan = run_op<double>(Op::kMamba3Scan, at, in);
    const OpArray out = run_op<double>(Op::kLinear, {}, {scan.outputs[0], out_proj}).outputs[0];
    golden::expect_output(out.data, golden::kMamba3Block);

    const OpArray dout = real_array({1, T, d_model}, loss_weights(T * d_model));
    const OpArray dy = run_op<double>(Op::kLinearBwdX, {}, {dout, out_proj}).outputs[0];
    const OpArray dout_proj =
        run_op<double>(Op::kLinearBwdW, {}, {dout, scan.outputs[0]}).outputs[0];
    Arrays backward_in = {dy};
    backward_in.insert(backward_in.end(), in.begin(), in.end());
    backward_in.insert(backward_in.end(), scan.outputs.begin() + 1, scan.outputs.end());
    const auto d = run_op<double>(Op::kMamba3ScanBwd, at, backward_in).outputs;
    const OpArray du = run_op<double>(Op::kLinearBwdX, {}, {d[0], in_proj}).outputs[0];
    const OpArray din_proj = run_op<double>(Op::kLinearBwdW, {}, {d[0], u}).outputs[0];
    golden::expect_gradients({du.data, din_proj.data, d[1].data, d[2].data, d[3].data, d[4].data,
                              d[5].data, d[6].data, dout_proj.data},
                             golden::kMamba3BlockGradients);

    at.heavy_tail = false;
    const OpArray softplus =
        run_op<double>(Op::kLinear, {},
                       {run_op<double>(Op::kMamba3Scan, at, in).outputs[0], out_proj})
            .outputs[0];
    golden::expect_close(golden::weighted_sum(softplus.data), golden::kMamba3BlockSoftplusLoss,
                         "softplus loss");
  }
}

TEST(ProductionLstm, ReproducesGoldenOutputsAndGradients) {
  const int B = 2, T = 5, H = 3;
  const Arrays in = {real_array({B, T, 4 * H}, sine_fill(.1, B * T * 4 * H)),
                     real_array({4 * H, H}, sine_fill(.2, 4 * H * H, .8)),
                     real_array({4 * H}, sine_fill(.3, 4 * H, .5))};
  const auto out = run_op<double>(Op::kLstm, LstmAttrs{H}, in).outputs;
  golden::expect_output(out[0].data, golden::kLstm);
  const auto d = run_op<double>(Op::kLstmBwd, LstmAttrs{H},
                                {real_array({B, T, H}, loss_weights(B * T * H)), in[0], in[1],
                                 in[2], out[0], out[1], out[2]})
                     .outputs;
  golden::expect_gradients({d[0].data, d[1].data, d[2].data}, golden::kLstmGradients);
}

}  // namespace
}  // namespace statelab

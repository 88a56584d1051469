#include "experiments/bench_train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>

#include "experiments/build_info.h"
#include "experiments/data_source.h"
#include "experiments/execution.h"
#include "models/cohort.h"
#include "models/model.h"
#include "models/program.h"
#include "tasks/task.h"

namespace statelab {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Timing {
  double median = 0, spread_pct = 0;  // seconds of one call
};

/// `calls(n)` makes n calls. Slices of equal numbers of calls, so long that the clock's grain does not matter.
Timing time_calls(const std::function<void(int64_t)>& calls, double seconds, int repeats) {
  calls(1);
  const double once = std::max(seconds_of([&] { calls(1); }), 1e-7);
  const auto count = std::max<int64_t>(1, static_cast<int64_t>(seconds / repeats / once));
  std::vector<double> slices;
  for (int r = 0; r < repeats; ++r)
    slices.push_back(seconds_of([&] { calls(count); }) / static_cast<double>(count));
  std::sort(slices.begin(), slices.end());
  Timing t;
  t.median = slices[slices.size() / 2];
  t.spread_pct = 100 * (slices.back() - slices.front()) / t.median;
  return t;
}

double product_rate(const BenchTrainOptions& options) {
  constexpr int kRows = 2048, kIn = 512, kOut = 512;
  ThreadPool pool(options.threads);
  MemberStore store(1, sizeof(float));
  Graph graph;
  const ValueId x = graph.parameter("x", {kRows, kIn}), w = graph.parameter("w", {kOut, kIn});
  const ValueId y = graph.apply1(Op::kLinear, {}, {x, w});
  CpuProgram<float> program(graph, store, pool, {y});
  for (const char* name : {"x", "w"}) {
    float* p = store.data<float>(name, 0);
    for (int64_t i = 0; i < store.elements(name); ++i)
      p[i] = 0.01f * static_cast<float>(i % 97) - 0.5f;
  }
  const Timing t =
      time_calls([&](int64_t n) { program.run(n); }, options.seconds / 2, options.repeats);
  return 2.0 * kRows * kIn * kOut / t.median;
}

/// The first step's loss of training against the same batch in double.
void check_first_step(const CohortShape& shape, const DataSource& data, TrainCohort& cohort,
                      const std::string& work, double tolerance) {
  const int seqlen = shape.stages[0].seqlen;
  const MemberState start = cohort.snapshot(0);
  Model<double> exact(shape.model, shape.batch, seqlen, false);
  for (const NamedTensor& t : start.weights)
    exact.set(t.name, std::vector<double>(t.data.begin(), t.data.end()));
  std::vector<int32_t> tokens(static_cast<size_t>(shape.batch) * static_cast<size_t>(seqlen)),
      targets(tokens.size());
  for (int b = 0; b < shape.batch; ++b) {
    const auto at = static_cast<size_t>(b) * static_cast<size_t>(seqlen),
               n = static_cast<size_t>(seqlen);
    data.draw(0, 0, static_cast<uint32_t>(b), std::span(tokens).subspan(at, n),
              std::span(targets).subspan(at, n));
  }
  const double expected = exact.run(tokens, targets);
  cohort.run(1);
  const double loss = cohort.read_metrics(0).loss;
  if (!(std::abs(loss - expected) <= tolerance * std::abs(expected))) {
    throw BenchRefused(work + ": the first step's loss is " + std::to_string(loss) +
                       ", in double precision " + std::to_string(expected));
  }
}

/// What is left out of a step's work, and what cannot be.
enum class Batch {
  kFull,  ///< sequences of full length, a label at the last position: what the official code was timed with
  kCurriculum,  ///< lengths from 3 on and one label, as the runs of the lab train
  kDense        ///< full length, a label at every position: nothing can be left out
};

struct Work {
  std::string name, mixer;
  int n_layers, length, members;
  Batch batch = Batch::kCurriculum;
};

/// A cohort on parity, profile xlstm.
struct Workload {
  Workload(const Work& work, const ComputeDevice& device)
      : task(make_task(task_config(work))), members(static_cast<size_t>(work.members)) {
    shape.model.mixer = work.mixer;
    if (work.mixer == "gated_delta_net") shape.model.headdim = shape.model.d_inner();  // one head
    shape.model.n_layers = work.n_layers;
    shape.model.vocab_size = task->vocab_size();
    shape.model.pad_vocab_multiple = 16;  // the published timings' vocabulary
    shape.batch = 256;
    shape.one_target = task->one_target();
    shape.stages = {{1 << 20, task->seqlen(work.length)}};
    const int shortest = work.batch == Batch::kCurriculum ? 3 : work.length;
    const StageConfig stage{1 << 20, {shortest, work.length}};
    data = std::make_unique<TrainData>(task, std::vector<StageConfig>{stage},
                                       std::vector<uint32_t>(members.size(), 0));
    cohort = std::make_unique<TrainCohort>(shape, members, *data, device);
  }
  static TaskConfig task_config(const Work& work) {
    TaskConfig config;
    if (work.batch == Batch::kDense) config.supervision = "all";
    return config;
  }
  double tokens() const {
    return static_cast<double>(shape.batch) * shape.stages[0].seqlen *
           static_cast<double>(members.size());
  }
  std::shared_ptr<const Task> task;
  std::vector<MemberSettings> members;
  CohortShape shape;
  std::unique_ptr<TrainData> data;
  std::unique_ptr<TrainCohort> cohort;
};

}  // namespace

void refuse_slow_builds() {
  const std::string& type = build_info().build_type;
  if (type == "Release" || type == "RelWithDebInfo") return;
  throw BenchRefused("this is a " + type +
                     " build; benchmarks need a Release build (./statelab builds one)");
}

double train_flop_per_token(const ModelConfig& model, int seqlen) {
  double weights = 0;
  for (const ParameterSpec& spec : parameter_specs(model)) {
    if (spec.shape.rank() == 2 && spec.name != "backbone.embedding.weight")
      weights += static_cast<double>(spec.shape.size());
  }
  if (model.tie_embeddings) weights += static_cast<double>(model.padded_vocab()) * model.d_model;
  if (model.mixer == "lstm") return 6 * weights;  // all of its products are with weights
  const double L = std::min(model.chunk_size, seqlen), N = model.d_state, P = model.headdim;
  const bool delta = model.is_delta_rule();
  double head = (L + 1) * (delta ? 8 * N + 7 * P : 4 * N + 3 * P);
  if (seqlen > model.chunk_size) head += (delta ? 20 : 14) * N * P;
  return 6 * weights + model.n_layers * model.nheads() * head;
}

BenchTrainReport bench_train(const BenchTrainOptions& options) {
  const BuildInfo& build = build_info();
  refuse_slow_builds();
  BenchTrainReport report;
  report.processor = processor_name();
  report.compiler = build.compiler;
  report.build_type = build.build_type;
  report.commit = build.commit;
  report.threads = options.threads;
  report.product_flop_per_s = product_rate(options);
  for (const Work& work : {Work{"mamba3, 1 layer, 40 tokens", "mamba3", 1, 41, 1},
                           Work{"mamba3, 1 layer, 40 tokens, 4 runs", "mamba3", 1, 41, 4},
                           Work{"mamba2, 1 layer, 40 tokens", "mamba2", 1, 41, 1},
                           Work{"lstm, 1 layer, 40 tokens", "lstm", 1, 41, 1},
                           Work{"mamba3, 3 layers, 160 tokens", "mamba3", 3, 161, 1}}) {
    Workload load(work, options.threads);
    check_first_step(load.shape, *load.data, *load.cohort, work.name, 1e-4);
    const Timing t =
        time_calls([&](int64_t n) { load.cohort->run(n); }, options.seconds, options.repeats);
    BenchTrainRow row;
    row.work = work.name;
    row.model = load.shape.model;
    row.batch = load.shape.batch;
    row.seqlen = load.shape.stages[0].seqlen;
    row.members = work.members;
    row.parameters = load.cohort->parameter_count();
    row.step_ms = t.median * 1e3;
    row.spread_pct = t.spread_pct;
    row.tokens_per_s = load.tokens() / t.median;
    row.flop_per_token = train_flop_per_token(row.model, row.seqlen);
    row.flop_per_s = row.flop_per_token * row.tokens_per_s;
    row.share_of_product_pct = 100 * row.flop_per_s / report.product_flop_per_s;
    report.rows.push_back(row);
  }
  return report;
}

BenchCudaReport bench_train_cuda(const BenchTrainOptions& options, const ComputeDevice& device) {
  const BuildInfo& build = build_info();
  refuse_slow_builds();
  const CudaDevice& here = machine_cuda_devices().at(static_cast<size_t>(device.index));
  BenchCudaReport report;
  report.device = here.name;
  report.driver = cuda_version_text(here.driver_version);
  report.toolkit = cuda_version_text(here.runtime_version);
  report.precision = precision_name(device.precision);
  report.build_type = build.build_type;
  report.commit = build.commit;
  // What rounding of the factors alone, to 10 and 7 bits, does to a loss near its first value.
  const double tolerance = device.precision == Precision::kFp32   ? 1e-4
                           : device.precision == Precision::kTf32 ? 2e-3
                                                                  : 2e-2;
  for (const Work& work :
       {Work{"mamba3, 3 layers, 160 tokens, full length", "mamba3", 3, 161, 1, Batch::kFull},
        Work{"mamba3, 3 layers, 160 tokens, full length, 16 runs", "mamba3", 3, 161, 16,
             Batch::kFull},
        Work{"mamba3, 1 layer, 40 tokens, full length", "mamba3", 1, 41, 1, Batch::kFull},
        Work{"mamba3, 1 layer, 40 tokens, full length, 16 runs", "mamba3", 1, 41, 16, Batch::kFull},
        Work{"mamba2, 3 layers, 160 tokens, full length", "mamba2", 3, 161, 1, Batch::kFull},
        Work{"mamba2, 3 layers, 160 tokens, full length, 16 runs", "mamba2", 3, 161, 16,
             Batch::kFull},
        Work{"mamba3, 3 layers, 160 tokens", "mamba3", 3, 161, 1},
        Work{"mamba3, 3 layers, 160 tokens, 16 runs", "mamba3", 3, 161, 16},
        Work{"mamba3, 1 layer, 40 tokens", "mamba3", 1, 41, 1},
        Work{"mamba3, 1 layer, 40 tokens, 16 runs", "mamba3", 1, 41, 16},
        Work{"mamba3, 3 layers, 160 tokens, dense", "mamba3", 3, 161, 1, Batch::kDense},
        Work{"mamba3, 3 layers, 160 tokens, dense, 16 runs", "mamba3", 3, 161, 16, Batch::kDense},
        Work{"mamba3, 1 layer, 40 tokens, dense", "mamba3", 1, 41, 1, Batch::kDense},
        Work{"mamba3, 1 layer, 40 tokens, dense, 16 runs", "mamba3", 1, 41, 16, Batch::kDense},
        Work{"mamba2, 3 layers, 160 tokens, dense", "mamba2", 3, 161, 1, Batch::kDense},
        Work{"mamba2, 3 layers, 160 tokens, dense, 16 runs", "mamba2", 3, 161, 16, Batch::kDense},
        Work{"mamba2, 3 layers, 160 tokens", "mamba2", 3, 161, 1},
        Work{"mamba2, 3 layers, 160 tokens, 16 runs", "mamba2", 3, 161, 16},
        Work{"mamba2, 1 layer, 40 tokens, 16 runs", "mamba2", 1, 41, 16},
        Work{"gated_delta_net, 3 layers, 160 tokens", "gated_delta_net", 3, 161, 1},
        Work{"gated_delta_net, 3 layers, 160 tokens, 16 runs", "gated_delta_net", 3, 161, 16},
        Work{"lstm, 3 layers, 160 tokens", "lstm", 3, 161, 1},
        Work{"lstm, 1 layer, 40 tokens", "lstm", 1, 41, 1},
        Work{"lstm, 1 layer, 40 tokens, 16 runs", "lstm", 1, 41, 16}}) {
    Workload load(work, device);
    check_first_step(load.shape, *load.data, *load.cohort, work.name, tolerance);
    const auto steps = [&](int64_t n) {
      load.cohort->run(n);
      load.cohort->synchronize();
    };
    steps(20);  // clocks rise
    const Timing t = time_calls(steps, options.seconds, options.repeats);
    BenchCudaRow row;
    row.work = work.name;
    row.model = load.shape.model;
    row.batch = load.shape.batch;
    row.seqlen = load.shape.stages[0].seqlen;
    row.members = work.members;
    row.parameters = load.cohort->parameter_count();
    row.launches = load.cohort->launches();
    row.step_ms = t.median * 1e3;
    row.member_ms = row.step_ms / work.members;
    row.spread_pct = t.spread_pct;
    row.tokens_per_s = load.tokens() / t.median;
    row.flop_per_s = train_flop_per_token(row.model, row.seqlen) * row.tokens_per_s;
    report.rows.push_back(row);
  }
  return report;
}

}  // namespace statelab

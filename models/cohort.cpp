#include "models/cohort.h"

#include <algorithm>
#include <stdexcept>

#include "models/model.h"
#include "models/program.h"

namespace statelab {
namespace {

ScheduleAttrs schedule_attrs(const CohortShape& shape) {
  ScheduleAttrs a;
  a.kind = shape.schedule.name == "cosine"   ? ScheduleAttrs::Kind::kCosine
           : shape.schedule.name == "linear" ? ScheduleAttrs::Kind::kLinear
                                             : ScheduleAttrs::Kind::kConstant;
  a.warmup = shape.schedule.warmup;
  int64_t begin = 0;
  for (const StageShape& stage : shape.stages) {
    a.begins.push_back(begin);
    a.lengths.push_back(stage.steps);
    begin += stage.steps;
  }
  if (!shape.schedule.per_stage) {
    a.begins = {0};
    a.lengths = {begin};
  }
  return a;
}

void check(const CohortShape& shape, size_t members) {
  auto fail = [](const std::string& what) { throw std::invalid_argument("cohort: " + what); };
  for (const ModelProblem& p : validate(shape.model)) fail("model." + p.field + " " + p.message);
  if (members == 0) fail("needs at least one member");
  if (shape.batch < 1) fail("batch must be at least 1, is " + std::to_string(shape.batch));
  if (shape.stages.empty()) fail("needs at least one stage");
  int64_t total = 0;
  for (const StageShape& s : shape.stages) {
    if (s.steps < 1 || s.seqlen < 1) fail("a stage needs at least one step and one position");
    total += s.steps;
  }
  if (total > INT32_MAX) fail("more than 2147483647 steps");
  const std::string& n = shape.schedule.name;
  if (n != "cosine" && n != "linear" && n != "constant")
    fail("schedule must be cosine, linear or constant, is " + n);
}

const std::string kExpAvg = ".exp_avg", kExpAvgSq = ".exp_avg_sq";

}  // namespace

struct TrainCohort::Impl {
  CohortShape shape;
  std::vector<ParameterSpec> specs;
  const DataSource* data;
  ThreadPool pool;
  MemberStore store;
  std::unique_ptr<CpuProgram<float>> program;
  int program_seqlen = 0;
  int64_t total = 0;

  Impl(const CohortShape& s, std::span<const MemberSettings> members, const DataSource& source,
       int threads)
      : shape(s),
        data(&source),
        pool(std::max(threads, 1)),
        store(static_cast<int>(members.size()), sizeof(float)) {
    check(shape, members.size());
    specs = parameter_specs(shape.model);
    for (const StageShape& stage : shape.stages) total += stage.steps;
    build(shape.stages[0].seqlen);
    for (size_t m = 0; m < members.size(); ++m) {
      const int member = static_cast<int>(m);
      double* row = store.data<double>("settings", member);
      row[kSettingLr] = members[m].lr;
      row[kSettingBeta1] = members[m].beta1;
      row[kSettingBeta2] = members[m].beta2;
      row[kSettingEps] = members[m].eps;
      row[kSettingWeightDecay] = members[m].weight_decay;
      row[kSettingClipNorm] = members[m].clip_norm;
      *store.data<int32_t>("diverged_at", member) = -1;
      for (const ParameterSpec& spec : specs) {
        const std::vector<double> values = initial_values(spec, shape.model, members[m].init_seed);
        std::copy(values.begin(), values.end(), store.data<float>(spec.name, member));
      }
    }
  }

  /// The training step of one bucket: draw, forward, loss, backward, clip, schedule, AdamW, metrics.
  void build(int seqlen) {
    if (seqlen == program_seqlen) return;
    program.reset();  // its arena, before the next one
    Graph g;
    const ValueId step = g.state("step", DType::kInt32, {1});
    const ValueId optimizer_step = g.state("optimizer_step", DType::kInt32, {1});
    const ValueId settings = g.state("settings", DType::kFloat64, {kSettings});
    const ValueId diverged_at = g.state("diverged_at", DType::kInt32, {1});
    const ValueId window = g.state("window", DType::kFloat64, {kWindows});
    const ForwardGraph f = build_forward(g, shape.model, step, shape.batch, seqlen);
    const std::vector<ValueId> grads = add_gradients(g, f.loss, f.parameters);
    const ValueId norm = g.apply1(Op::kGlobalNorm, {}, grads);
    const ValueId lr = g.apply1(Op::kSchedule, schedule_attrs(shape), {step, settings});
    g.apply(Op::kGuard, {}, {f.loss, norm, step, diverged_at});
    AdamWAttrs adamw;
    std::vector<ValueId> operands = {norm, lr, optimizer_step, settings, diverged_at};
    for (size_t i = 0; i < specs.size(); ++i) {
      adamw.decays.push_back(specs[i].decays);
      operands.push_back(f.parameters[i]);
      operands.push_back(g.state(specs[i].name + kExpAvg, DType::kReal, specs[i].shape));
      operands.push_back(g.state(specs[i].name + kExpAvgSq, DType::kReal, specs[i].shape));
      operands.push_back(grads[i]);
    }
    g.apply(Op::kAdamW, adamw, operands);
    g.apply(Op::kMetrics, {}, {f.loss, f.accuracy, norm, lr, diverged_at, window});
    g.apply(Op::kAdvance, {}, {step, optimizer_step});
    program = std::make_unique<CpuProgram<float>>(g, store, pool, std::vector<ValueId>{});
    program->set_draw(
        [this](int member, uint32_t at, uint32_t sample, std::span<int32_t> tokens,
               std::span<int32_t> targets) { data->draw(member, at, sample, tokens, targets); });
    program_seqlen = seqlen;
  }

  int64_t step() const { return *store.data<int32_t>("step", 0); }

  /// Stage that contains `at`, and the step it ends at.
  std::pair<size_t, int64_t> stage_at(int64_t at) const {
    int64_t end = 0;
    for (size_t i = 0; i < shape.stages.size(); ++i) {
      end += shape.stages[i].steps;
      if (at < end) return {i, end};
    }
    return {shape.stages.size() - 1, end};
  }

  int64_t optimizer_step_at(int64_t at) const {
    if (!shape.schedule.reset_optimizer) return at;
    const auto [stage, end] = stage_at(at);
    return at - (end - shape.stages[stage].steps);
  }

  void reset_optimizer() {
    for (int m = 0; m < store.members(); ++m) {
      *store.data<int32_t>("optimizer_step", m) = 0;
      for (const ParameterSpec& spec : specs) {
        for (const std::string& suffix : {kExpAvg, kExpAvgSq}) {
          float* p = store.data<float>(spec.name + suffix, m);
          std::fill(p, p + spec.shape.size(), 0.0f);
        }
      }
    }
  }

  void clear_window(int member) {
    std::fill_n(store.data<double>("window", member), static_cast<int>(kWindows), 0.0);
  }
};

TrainCohort::TrainCohort(const CohortShape& shape, std::span<const MemberSettings> members,
                         const DataSource& data, int threads)
    : impl_(std::make_unique<Impl>(shape, members, data, threads)) {}
TrainCohort::~TrainCohort() = default;
TrainCohort::TrainCohort(TrainCohort&&) noexcept = default;

int TrainCohort::members() const { return impl_->store.members(); }
int64_t TrainCohort::step() const { return impl_->step(); }
int64_t TrainCohort::total_steps() const { return impl_->total; }
int64_t TrainCohort::parameter_count() const {
  return statelab::parameter_count(impl_->shape.model);
}
int64_t TrainCohort::arena_bytes() const {
  return impl_->program->arena_bytes() + impl_->store.bytes();
}

void TrainCohort::restore(std::span<const MemberState> states) {
  auto fail = [](const std::string& what) { throw std::invalid_argument("restore: " + what); };
  if (states.size() != static_cast<size_t>(members())) fail("one state per member is needed");
  for (const MemberState& s : states) {
    if (s.step != states[0].step) fail("members are at different steps");
    if (s.step < 0 || s.step > total_steps())
      fail("step " + std::to_string(s.step) + " is outside this training");
    for (const auto* group : {&s.weights, &s.exp_avg, &s.exp_avg_sq}) {
      if (group->size() != impl_->specs.size())
        fail("the state has " + std::to_string(group->size()) + " arrays, the model " +
             std::to_string(impl_->specs.size()));
      for (size_t i = 0; i < group->size(); ++i) {
        const NamedTensor& t = (*group)[i];
        if (t.name != impl_->specs[i].name || Shape(t.shape) != impl_->specs[i].shape) {
          fail(t.name + " " + Shape(t.shape).text() + " does not match " + impl_->specs[i].name +
               " " + impl_->specs[i].shape.text());
        }
      }
    }
  }
  impl_->build(impl_->shape.stages[impl_->stage_at(states[0].step).first].seqlen);
  for (int m = 0; m < members(); ++m) {
    const MemberState& s = states[static_cast<size_t>(m)];
    *impl_->store.data<int32_t>("step", m) = static_cast<int32_t>(s.step);
    *impl_->store.data<int32_t>("optimizer_step", m) =
        static_cast<int32_t>(impl_->optimizer_step_at(s.step));
    *impl_->store.data<int32_t>("diverged_at", m) = static_cast<int32_t>(s.diverged_at);
    for (size_t i = 0; i < impl_->specs.size(); ++i) {
      const std::string& name = impl_->specs[i].name;
      std::copy(s.weights[i].data.begin(), s.weights[i].data.end(),
                impl_->store.data<float>(name, m));
      std::copy(s.exp_avg[i].data.begin(), s.exp_avg[i].data.end(),
                impl_->store.data<float>(name + kExpAvg, m));
      std::copy(s.exp_avg_sq[i].data.begin(), s.exp_avg_sq[i].data.end(),
                impl_->store.data<float>(name + kExpAvgSq, m));
    }
    impl_->clear_window(m);
  }
}

MemberState TrainCohort::snapshot(int member) const {
  MemberState s;
  s.step = step();
  s.diverged_at = *impl_->store.data<int32_t>("diverged_at", member);
  for (const ParameterSpec& spec : impl_->specs) {
    auto array = [&](const std::string& key) {
      const float* p = impl_->store.data<float>(key, member);
      return NamedTensor{spec.name, spec.shape.extents(),
                         std::vector<float>(p, p + spec.shape.size())};
    };
    s.weights.push_back(array(spec.name));
    s.exp_avg.push_back(array(spec.name + kExpAvg));
    s.exp_avg_sq.push_back(array(spec.name + kExpAvgSq));
  }
  return s;
}

void TrainCohort::run(int64_t steps) {
  const int64_t end = std::min(step() + steps, total_steps());
  while (step() < end) {
    const int64_t at = step();
    const auto [stage, stage_end] = impl_->stage_at(at);
    impl_->build(impl_->shape.stages[stage].seqlen);
    if (impl_->shape.schedule.reset_optimizer && at > 0 &&
        at == stage_end - impl_->shape.stages[stage].steps)
      impl_->reset_optimizer();
    for (int64_t i = at; i < std::min(end, stage_end); ++i) impl_->program->run();
  }
}

TrainMetrics TrainCohort::read_metrics(int member) {
  const double* w = impl_->store.data<double>("window", member);
  TrainMetrics out;
  out.step = step();
  out.diverged_at = *impl_->store.data<int32_t>("diverged_at", member);
  const double n = std::max(w[kWindowSteps], 1.0);
  out.loss = w[kWindowLoss] / n;
  out.accuracy = w[kWindowAccuracy] / n;
  out.grad_norm = w[kWindowNorm] / n;
  out.lr = w[kWindowLr];
  impl_->clear_window(member);
  return out;
}

}  // namespace statelab

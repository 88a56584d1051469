#include "models/cohort.h"

#include <algorithm>
#include <set>
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

/// The training step of one bucket: draw, forward, loss, backward, clip, schedule, AdamW, metrics.
Graph training_step(const CohortShape& shape, int seqlen, const ComputeDevice& device) {
  Graph g;
  const ValueId step = g.state("step", DType::kInt32, {1});
  const ValueId optimizer_step = g.state("optimizer_step", DType::kInt32, {1});
  const ValueId settings = g.state("settings", DType::kFloat64, {kSettings});
  const ValueId diverged_at = g.state("diverged_at", DType::kInt32, {1});
  const ValueId window = g.state("window", DType::kFloat64, {kWindows});
  Needed needed;
  if (device.is_cuda()) {
    needed.up_to_target = true;
    needed.one_position = shape.one_target;
    needed.takes = [](const CallShapes& shapes) { return cuda_limit(shapes).empty(); };
  }
  const ForwardGraph f = build_forward(g, computed_on(device, shape.model), step, shape.batch,
                                       seqlen, /*with_loss=*/true, needed);
  const std::vector<ValueId> grads = add_gradients(g, f.loss, f.parameters);
  const ValueId norm = g.apply1(Op::kGlobalNorm, {}, grads);
  const ValueId lr = g.apply1(Op::kSchedule, schedule_attrs(shape), {step, settings});
  g.apply(Op::kGuard, {}, {f.loss, norm, step, diverged_at});
  AdamWAttrs adamw;
  std::vector<ValueId> operands = {norm, lr, optimizer_step, settings, diverged_at};
  const std::vector<ParameterSpec> specs = parameter_specs(shape.model);
  for (size_t i = 0; i < specs.size(); ++i) {
    adamw.decays.push_back(specs[i].decays);
    operands.push_back(f.parameters[i]);
    operands.push_back(g.state(specs[i].name + kExpAvg, DType::kReal, specs[i].shape));
    operands.push_back(g.state(specs[i].name + kExpAvgSq, DType::kReal, specs[i].shape));
    operands.push_back(grads[i]);
  }
  g.apply(Op::kMetrics, {}, {f.loss, f.accuracy, norm, lr, diverged_at, window});
  g.apply(Op::kAdamW, adamw, operands);
  g.apply(Op::kAdvance, {}, {step, optimizer_step});
  return g;
}

TrainMetrics metrics_of(const std::vector<double>& window, int64_t step, int64_t diverged_at) {
  TrainMetrics out;
  out.step = step;
  out.diverged_at = diverged_at;
  const double n = std::max(window[kWindowSteps], 1.0);
  out.loss = window[kWindowLoss] / n;
  out.accuracy = window[kWindowAccuracy] / n;
  out.grad_norm = window[kWindowNorm] / n;
  out.lr = window[kWindowLr];
  return out;
}

}  // namespace

struct TrainCohort::Impl {
  CohortShape shape;
  std::vector<ParameterSpec> specs;
  const DataSource* data;
  Backend backend;
  MemberStore store;
  std::unique_ptr<Program> program;
  int program_seqlen = 0;
  int64_t total = 0;
  int64_t step = 0;  // the device's own counter is the members' state "step"

  Impl(const CohortShape& s, std::span<const MemberSettings> members, const DataSource& source,
       const ComputeDevice& device)
      : shape(s),
        data(&source),
        backend(device),
        store(static_cast<int>(members.size()), sizeof(float), backend.stream()) {
    check(shape, members.size());
    specs = parameter_specs(shape.model);
    for (const StageShape& stage : shape.stages) total += stage.steps;
    build(shape.stages[0].seqlen);
    for (size_t m = 0; m < members.size(); ++m) {
      const int member = static_cast<int>(m);
      std::vector<double> row(kSettings);
      row[kSettingLr] = members[m].lr;
      row[kSettingBeta1] = members[m].beta1;
      row[kSettingBeta2] = members[m].beta2;
      row[kSettingEps] = members[m].eps;
      row[kSettingWeightDecay] = members[m].weight_decay;
      row[kSettingClipNorm] = members[m].clip_norm;
      store.write<double>("settings", member, row);
      write_counter("diverged_at", member, -1);
      for (const ParameterSpec& spec : specs) {
        const std::vector<double> values = initial_values(spec, shape.model, members[m].init_seed);
        store.write<float>(spec.name, member, std::vector<float>(values.begin(), values.end()));
      }
    }
  }

  void write_counter(const char* name, int member, int64_t value) {
    const auto narrow = static_cast<int32_t>(value);
    store.write<int32_t>(name, member, {&narrow, 1});
  }

  void build(int seqlen) {
    if (seqlen == program_seqlen) return;
    program.reset();  // its arena, before the next one
    program_seqlen = 0;
    const ComputeDevice& device = backend.device();
    program = make_program<float>(training_step(shape, seqlen, device), store, backend, {});
    program->set_draw(
        [this](int member, uint32_t at, uint32_t sample, std::span<int32_t> tokens,
               std::span<int32_t> targets) { data->draw(member, at, sample, tokens, targets); },
        device.is_cuda() ? data->cuda_draw(device.index, std::nullopt) : nullptr);
    program_seqlen = seqlen;
  }

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
    store.clear("optimizer_step");
    for (const ParameterSpec& spec : specs) {
      store.clear(spec.name + kExpAvg);
      store.clear(spec.name + kExpAvgSq);
    }
  }
};

TrainCohort::TrainCohort(const CohortShape& shape, std::span<const MemberSettings> members,
                         const DataSource& data, const ComputeDevice& device)
    : impl_(std::make_unique<Impl>(shape, members, data, device)) {}
TrainCohort::~TrainCohort() = default;
TrainCohort::TrainCohort(TrainCohort&&) noexcept = default;

int TrainCohort::members() const { return impl_->store.members(); }
int64_t TrainCohort::step() const { return impl_->step; }
void TrainCohort::synchronize() { impl_->backend.synchronize(); }
int64_t TrainCohort::total_steps() const { return impl_->total; }
int64_t TrainCohort::parameter_count() const {
  return statelab::parameter_count(impl_->shape.model);
}
int64_t TrainCohort::arena_bytes() const {
  return impl_->program->arena_bytes() + impl_->store.bytes();
}

int TrainCohort::launches() const { return impl_->program->launches(); }

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
    impl_->write_counter("step", m, s.step);
    impl_->write_counter("optimizer_step", m, impl_->optimizer_step_at(s.step));
    impl_->write_counter("diverged_at", m, s.diverged_at);
    for (size_t i = 0; i < impl_->specs.size(); ++i) {
      const std::string& name = impl_->specs[i].name;
      impl_->store.write<float>(name, m, s.weights[i].data);
      impl_->store.write<float>(name + kExpAvg, m, s.exp_avg[i].data);
      impl_->store.write<float>(name + kExpAvgSq, m, s.exp_avg_sq[i].data);
    }
  }
  impl_->store.clear("window");
  impl_->step = states[0].step;
}

MemberState TrainCohort::snapshot(int member) const {
  MemberState s;
  s.step = step();
  s.diverged_at = impl_->store.read<int32_t>("diverged_at", member)[0];
  for (const ParameterSpec& spec : impl_->specs) {
    auto array = [&](const std::string& key) {
      return NamedTensor{spec.name, spec.shape.extents(), impl_->store.read<float>(key, member)};
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
    const int64_t count = std::min(end, stage_end) - at;
    impl_->program->run(count);
    impl_->step += count;
  }
}

TrainMetrics TrainCohort::read_metrics(int member) {
  MemberStore& store = impl_->store;
  const TrainMetrics out = metrics_of(store.read<double>("window", member), step(),
                                      store.read<int32_t>("diverged_at", member)[0]);
  store.clear("window", member);
  return out;
}

std::vector<TrainMetrics> TrainCohort::read_metrics() {
  MemberStore& store = impl_->store;
  const auto windows = store.read_members<double>("window");
  const auto diverged_at = store.read_members<int32_t>("diverged_at");
  store.clear("window");
  std::vector<TrainMetrics> out;
  for (size_t m = 0; m < windows.size(); ++m)
    out.push_back(metrics_of(windows[m], step(), diverged_at[m][0]));
  return out;
}

int64_t cohort_bytes(const CohortShape& shape, int members, const ComputeDevice& device) {
  check(shape, static_cast<size_t>(std::max(members, 0)));
  int64_t largest = 0, states = 0;
  std::set<int> lengths;
  for (const StageShape& stage : shape.stages) lengths.insert(stage.seqlen);
  for (const int seqlen : lengths) {
    const Graph graph = training_step(shape, seqlen, device);
    largest = std::max(largest, planned_arena_bytes(graph, {}, members, device));
    states = 0;  // the same in every stage
    for (const GraphValue& value : graph.values()) {
      if (value.role != Role::kTemporary)
        states += MemberStore::entry_bytes(value.type, members, sizeof(float));
    }
  }
  return largest + states;
}

}  // namespace statelab

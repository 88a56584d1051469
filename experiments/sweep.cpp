#include "experiments/sweep.h"

#include <algorithm>
#include <map>
#include <unordered_set>

#include "experiments/run_check.h"
#include "experiments/run_name.h"
#include "experiments/sweep_file.h"

namespace statelab {
namespace {

using Kind = Value::Kind;
using Sources =
    std::map<const Field*, const Value*>;  // which value of the files set a field, for messages

/// Turns a sweep file into runs.
class Expansion {
 public:
  Expansion(const SweepFile& sweep, Problems& problems)
      : sweep_(sweep),
        problems_(problems),
        broken_before_(!problems.empty()),
        start_(default_run()) {
    for (const Assignment& a : sweep.base) assign(a.field, a.value, start_, start_sources_);
    for (const auto& point : sweep.exclude) {
      excluded_.emplace_back();
      RunConfig run = default_run();
      for (const Assignment& a : point) {
        a.field->set(run, a.value);
        excluded_.back().emplace_back(a.field, a.field->get(run));
      }
    }
    exclude_hits_.assign(excluded_.size(), 0);
  }

  SweepConfig run() {
    if (!affordable()) return std::move(out_);
    if (sweep_.random) {
      for (int64_t draw = 0; draw < *sweep_.run_cap; ++draw) {
        std::vector<std::vector<Value>> rows;
        bool good = true;
        for (const Dimension& d : sweep_.dimensions) {
          rows.push_back(draw_row(d, sweep_.sweep_seed, static_cast<uint32_t>(draw)));
          if (d.drawn) good = acceptable(*d.fields[0], rows.back()[0], problems_) && good;
        }
        if (!good) break;  // the next draws would repeat the message
        std::vector<const std::vector<Value>*> point;
        for (const auto& row : rows) point.push_back(&row);
        add_point(point);
      }
    } else {
      grid();
    }
    for (const auto& extra : sweep_.include) {
      RunConfig config = start_;
      Sources sources = start_sources_;
      for (const Assignment& a : extra) assign(a.field, a.value, config, sources);
      add_seeds(config, sources);
    }
    finish();
    return std::move(out_);
  }

 private:
  static void assign(const Field* field, const Value& value, RunConfig& run, Sources& sources) {
    field->set(run, value);
    sources[field] = &value;
  }

  bool affordable() {
    for (const Dimension& d : sweep_.dimensions) {
      if (d.drawn && !sweep_.random) {
        problems_.add(d.place, d.name, "distribution " + d.drawn->name + " needs method: random");
        return false;
      }
      if (d.fields.size() == 1 && d.fields[0]->key == "seed" && sweep_.seeds_place.file) {
        problems_.add(d.place, "seed", "is swept and seeds: is given as well: keep one of the two");
        return false;
      }
    }
    double points = 1;
    if (sweep_.random) {
      if (!sweep_.run_cap) {
        problems_.add(sweep_.place, "run_cap", "method: random needs run_cap, the number of draws");
        return false;
      }
      points = static_cast<double>(*sweep_.run_cap);
    } else {
      for (const Dimension& d : sweep_.dimensions) points *= static_cast<double>(d.rows.size());
    }
    const double runs = (points + static_cast<double>(sweep_.include.size())) *
                        static_cast<double>(sweep_.seeds.size());
    if (runs > static_cast<double>(kMaxRuns)) {
      const Place& place = sweep_.dimensions.empty() ? sweep_.place : sweep_.dimensions[0].place;
      problems_.add(
          place, "parameters",
          "the sweep has " + shortest(runs) + " runs, at most " + std::to_string(kMaxRuns) +
              " are allowed: sweep fewer values, or draw with method: random and run_cap");
      return false;
    }
    return true;
  }

  void grid() {
    std::vector<size_t> index(sweep_.dimensions.size(), 0);
    for (;;) {
      std::vector<const std::vector<Value>*> point;
      for (size_t i = 0; i < index.size(); ++i)
        point.push_back(&sweep_.dimensions[i].rows[index[i]]);
      add_point(point);
      size_t i = index.size();
      while (i > 0 && ++index[i - 1] == sweep_.dimensions[i - 1].rows.size()) index[--i] = 0;
      if (i == 0) return;
    }
  }

  void add_point(const std::vector<const std::vector<Value>*>& point) {
    RunConfig config = start_;
    Sources sources = start_sources_;
    for (size_t i = 0; i < point.size(); ++i) {
      const Dimension& d = sweep_.dimensions[i];
      for (size_t j = 0; j < d.fields.size(); ++j)
        assign(d.fields[j], (*point[i])[j], config, sources);
    }
    for (const Assignment& a : sweep_.fixed) assign(a.field, a.value, config, sources);
    for (size_t e = 0; e < excluded_.size(); ++e) {
      const bool hit = std::all_of(excluded_[e].begin(), excluded_[e].end(), [&](const auto& rule) {
        return same_value(rule.first->get(config), rule.second);
      });
      if (hit) {
        ++exclude_hits_[e];
        return;
      }
    }
    add_seeds(config, sources);
  }

  void add_seeds(RunConfig config, Sources& sources) {
    for (const Assignment& a : sweep_.fixed) assign(a.field, a.value, config, sources);
    static const Field* seed = find_field("seed");
    apply_preset(config, sources);
    const auto problems =
        complete_and_check(config);  // before the seeds: none of the rules reads them
    for (const RunProblem& p : problems) report(p, sources);
    if (sources.count(seed) && !sweep_.seeds_place.file) {
      add_run(config);
      return;
    }
    for (const uint32_t s : sweep_.seeds) {
      config.seed = s;
      add_run(config);
    }
  }

  /// A task's preset is its name for several keys at once; keys that are written out win over it.
  static void apply_preset(RunConfig& run, const Sources& sources) {
    const auto preset = find_preset(run.task.name);
    if (!preset) return;
    run.task = *preset;
    for (const auto& [field, value] : sources) {
      if (field->section() == "task" && field->key != "task.name") field->set(run, *value);
    }
  }

  void add_run(const RunConfig& config) {
    if (!ids_.insert(run_id(config)).second) {
      ++duplicates_;
      return;
    }
    out_.runs.push_back(config);
  }

  void report(const RunProblem& problem, const Sources& sources) {
    std::string key = problem.key;
    const Field* field = nullptr;
    while (!(field = find_field(key)) && key.rfind('.') != std::string::npos)
      key.resize(key.rfind('.'));
    const auto source = field ? sources.find(field) : sources.end();
    if (source == sources.end()) {  // a default broke the rule: it is the rest that must change
      if (broken_before_) return;
      problems_.add(sweep_.place, problem.key,
                    problem.message + (field ? " (this is the default)" : ""));
      return;
    }
    const Value* at = source->second;
    if (problem.item >= 0 && static_cast<size_t>(problem.item) < at->items.size()) {
      at = &at->items[static_cast<size_t>(problem.item)];
      if (const Value* length = at->find("length")) at = length;
    }
    std::string rest = problem.key.size() > key.size() ? problem.key.substr(key.size() + 1) : "";
    while (!rest.empty()) {
      const size_t dot = rest.find('.');
      const Value* inner = at->find(rest.substr(0, dot));
      if (!inner) break;
      at = inner;
      rest = dot == std::string::npos ? "" : rest.substr(dot + 1);
    }
    problems_.add(at->place, problem.key, problem.message);
  }

  void finish() {
    out_.name = sweep_.name;
    if (out_.runs.empty() && problems_.empty()) {
      problems_.add(sweep_.exclude_places.empty() ? sweep_.place : sweep_.exclude_places[0],
                    "exclude", "leaves no run: the sweep is empty");
    }
    if (!problems_.empty()) return;
    if (duplicates_ > 0) {
      out_.warnings.push_back(sweep_.place.text() + ": " + std::to_string(duplicates_) +
                              " runs compute the same as others of the sweep and are left out");
    }
    for (size_t e = 0; e < excluded_.size(); ++e) {
      if (exclude_hits_[e] == 0)
        out_.warnings.push_back(sweep_.exclude_places[e].text() + ": exclude: matches no run");
    }
    warn_of_unread();
    out_.swept_keys = swept_keys(out_.runs);
    out_.run_names = run_names(out_.name, out_.runs, out_.swept_keys);
    out_.resolved = resolved_text(sweep_);
  }

  /// A key that no run reads was probably meant for another task or mixer.
  void warn_of_unread() {
    const auto warn = [&](const Field* field, const Place& place) {
      const auto read = [&](const RunConfig& run) {
        if (!field->mixers.empty()) return read_by_mixer(*field, run.model.mixer);
        RunConfig probe = run;  // applies() keeps explicit values: ask for the default
        field->set(probe, field->get(default_run()));
        return applies(*field, probe);
      };
      if (std::none_of(out_.runs.begin(), out_.runs.end(), read)) {
        out_.warnings.push_back(place.text() + ": " + field->key +
                                ": no run of this sweep reads it");
      }
    };
    for (const Assignment& a : sweep_.base) warn(a.field, a.value.key_place);
    for (const Dimension& d : sweep_.dimensions) {
      for (const Field* field : d.fields) warn(field, d.place);
    }
    std::set<std::string> told;
    for (const RunConfig& run : out_.runs) {
      for (const std::string& text : task_of(run)->warnings()) {
        if (told.insert(text).second)
          out_.warnings.push_back(sweep_.place.text() + ": task: " + text);
      }
      if (told.size() > 20) break;
    }
  }

  const SweepFile& sweep_;
  Problems& problems_;
  const bool broken_before_;
  RunConfig start_;
  Sources start_sources_;
  std::vector<std::vector<std::pair<const Field*, Value>>> excluded_;
  std::vector<int64_t> exclude_hits_;
  std::unordered_set<std::string> ids_;
  int64_t duplicates_ = 0;
  SweepConfig out_;
};

SweepConfig expand(SweepFile sweep, const std::vector<std::string>& overrides, Problems& problems) {
  for (const std::string& text : overrides) apply_override(sweep, text, problems);
  return Expansion(sweep, problems).run();
}

}  // namespace

SweepConfig load_sweep(const std::string& path, const std::vector<std::string>& overrides) {
  return std::move(load_sweeps({path}, overrides)[0]);
}

SweepConfig parse_sweep(const std::string& text, const std::string& name,
                        const std::vector<std::string>& overrides) {
  Problems problems;
  NodeBudget budget;
  SweepFile sweep = read_sweep_text(text, name, budget, problems);
  SweepConfig out = expand(std::move(sweep), overrides, problems);
  problems.raise();
  return out;
}

std::vector<SweepConfig> load_sweeps(const std::vector<std::string>& paths,
                                     const std::vector<std::string>& overrides) {
  std::vector<ConfigProblem> found;
  std::vector<SweepConfig> out;
  for (const std::string& path : paths) {
    Problems problems;
    NodeBudget budget;
    SweepFile sweep = read_sweep_file(path, budget, problems);
    out.push_back(expand(std::move(sweep), overrides, problems));
    try {
      problems.raise();
    } catch (const ConfigError& e) {
      found.insert(found.end(), e.problems().begin(), e.problems().end());
    }
  }
  if (!found.empty()) throw ConfigError(std::move(found));
  return out;
}

}  // namespace statelab

#include "experiments/sweep_file.h"

#include <algorithm>
#include <filesystem>

#include "experiments/suggestion.h"
#include "experiments/sweep.h"
#include "tasks/task.h"

namespace statelab {
namespace {

using Kind = Value::Kind;
namespace fs = std::filesystem;

class FileReader {
 public:
  FileReader(NodeBudget& budget, Problems& problems) : budget_(budget), problems_(problems) {}

  SweepFile read_path(const std::string& path, const Place* from) {
    std::error_code error;
    std::string file = path;
    if (file != "-" && fs::is_directory(file, error))
      file = (fs::path(file) / "sweep.yaml").string();
    const std::string id = file == "-" ? file : fs::weakly_canonical(file, error).string();
    if (std::find(open_.begin(), open_.end(), id) != open_.end()) {
      std::string chain;
      for (const auto& name : open_) chain += fs::path(name).filename().string() + " -> ";
      problems_.add(
          *from, "extends",
          "is cyclic: " + chain + fs::path(id).filename().string() + ": remove one of the links");
      return {};
    }
    if (from && !fs::exists(file, error)) {
      problems_.add(*from, "extends", "no such file: " + file);
      return {};
    }
    open_.push_back(id);
    const size_t before = problems_.size();
    const Value root = load_yaml(file, budget_, problems_);
    SweepFile sweep = read_root(root, file, problems_.size() == before);
    if (sweep.name.empty()) {
      const fs::path p(file);
      sweep.name = file == "-" ? "sweep"
                   : p.filename() == "sweep.yaml" && p.has_parent_path() &&
                           !p.parent_path().filename().empty()
                       ? p.parent_path().filename().string()
                       : p.stem().string();
    }
    open_.pop_back();
    return sweep;
  }

  SweepFile read_root(const Value& root, const std::string& file, bool readable) {
    SweepFile sweep;
    sweep.seeds = {0};
    sweep.place = root.place;
    if (!root.is(Kind::kMap)) {
      if (readable) {
        problems_.add(root.place, "",
                      root.is(Kind::kNull)
                          ? std::string("is empty: a sweep has at least base: or parameters:")
                          : "must be a map with base:, parameters:, ..., is " + root.shown());
      }
      return sweep;
    }
    if (const Value* parents = root.find("extends")) {
      const std::vector<Value> one = {*parents};
      for (const Value& parent : parents->is(Kind::kList) ? parents->items : one) {
        if (!parent.is(Kind::kText)) {
          problems_.add(parent.place, "extends",
                        "must be a file name or a list of file names, is " + parent.shown());
          continue;
        }
        const fs::path path = fs::path(file).parent_path() / parent.text;
        SweepFile below = read_path(path.string(), &parent.place);
        below.place = sweep.place;
        sweep = merged(std::move(sweep), std::move(below));
      }
    }
    if (const Value* method = root.find("method")) read_method(*method, sweep);
    SweepFile own;
    own.seeds_place = {};
    for (size_t i = 0; i < root.keys.size(); ++i)
      read_section(root.keys[i], root.items[i], sweep, own);
    const bool random = sweep.random;
    const auto cap = own.run_cap ? own.run_cap : sweep.run_cap;
    own.random = random;
    own.place = sweep.place;
    if (own.sweep_seed == 0) own.sweep_seed = sweep.sweep_seed;
    SweepFile result = merged(std::move(sweep), std::move(own));
    result.run_cap = cap;
    result.random = random;
    return result;
  }

 private:
  /// `above` wins: its base drops the other's parameter of the same key, and the other way round.
  static SweepFile merged(SweepFile below, SweepFile above) {
    SweepFile out = std::move(below);
    out.name = above.name;
    out.sweep_seed = above.sweep_seed;
    if (above.run_cap) out.run_cap = above.run_cap;
    out.random = above.random || out.random;
    out.place = above.place;
    for (Assignment& a : above.base) {
      std::erase_if(out.dimensions, [&](const Dimension& d) {
        return d.fields.size() == 1 && d.fields[0] == a.field;
      });
      const auto same = std::find_if(out.base.begin(), out.base.end(),
                                     [&](const Assignment& b) { return b.field == a.field; });
      if (same != out.base.end()) {
        *same = std::move(a);
      } else {
        out.base.push_back(std::move(a));
      }
    }
    for (Dimension& d : above.dimensions) {
      const auto shares = [&](const Dimension& other) {
        return std::any_of(other.fields.begin(), other.fields.end(), [&](const Field* f) {
          return std::find(d.fields.begin(), d.fields.end(), f) != d.fields.end();
        });
      };
      const auto same = std::find_if(out.dimensions.begin(), out.dimensions.end(), shares);
      if (same == out.dimensions.end()) {
        out.dimensions.push_back(std::move(d));
      } else {
        *same = std::move(d);
      }
    }
    if (!above.include.empty()) out.include = std::move(above.include);
    if (!above.exclude.empty()) {
      out.exclude = std::move(above.exclude);
      out.exclude_places = std::move(above.exclude_places);
    }
    if (above.seeds_place.file) {
      out.seeds = std::move(above.seeds);
      out.seeds_place = above.seeds_place;
    }
    return out;
  }

  void read_method(const Value& v, SweepFile& sweep) {
    if (!v.is(Kind::kText) || (v.text != "grid" && v.text != "random")) {
      problems_.add(v.place, "method", "must be grid or random, is " + v.shown());
      return;
    }
    sweep.random = v.text == "random";
  }

  void read_section(const std::string& key, const Value& v, const SweepFile& sweep,
                    SweepFile& own) {
    if (key == "extends" || key == "method") return;
    if (key == "description") {
      if (!v.is(Kind::kText)) problems_.add(v.place, key, "must be a text, is " + v.shown());
    } else if (key == "name") {
      const bool good = v.is(Kind::kText) && !v.text.empty() && v.text.size() <= 100 &&
                        v.text.find_first_not_of(
                            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") ==
                            std::string::npos;
      if (!good)
        problems_.add(v.place, key,
                      "must be at most 100 letters, digits, `-`, `_` and `.`, is " + v.shown());
      if (good) own.name = v.text;
    } else if (key == "base") {
      read_assignments(v, "", own.base, problems_);
    } else if (key == "parameters") {
      read_parameters(v, "", sweep.random, own);
    } else if (key == "zip") {
      if (!v.is(Kind::kMap)) {
        problems_.add(v.place, key, "must be a map name: { key: [values], ... }, is " + v.shown());
        return;
      }
      for (size_t i = 0; i < v.keys.size(); ++i) {
        if (auto d = read_zip(v.keys[i], v.items[i], problems_)) add_dimension(std::move(*d), own);
      }
    } else if (key == "include" || key == "exclude") {
      read_points(key, v, own);
    } else if (key == "seeds") {
      read_seeds(v, own, problems_);
    } else if (key == "run_cap") {
      if (v.is(Kind::kInteger) && v.integer >= 1 && v.integer <= kMaxRuns) {
        own.run_cap = v.integer;
      } else {
        problems_.add(
            v.place, key,
            "must be an integer in [1, " + std::to_string(kMaxRuns) + "], is " + v.shown());
      }
    } else if (key == "sweep_seed") {
      if (v.is(Kind::kInteger) && v.integer >= 0 && v.integer <= 4294967295) {
        own.sweep_seed = static_cast<uint32_t>(v.integer);
      } else {
        problems_.add(v.place, key, "must be an integer in [0, 4294967295], is " + v.shown());
      }
    } else {
      const bool belongs = is_section(key) || find_field(key) != nullptr;
      problems_.add(v.key_place, key,
                    belongs ? "unknown key at the top level, belongs under base:"
                            : "unknown key" + did_you_mean(key, sweep_keys()));
    }
  }

  void read_parameters(const Value& v, const std::string& prefix, bool random, SweepFile& own) {
    if (!v.is(Kind::kMap)) {
      problems_.add(v.place, prefix.empty() ? "parameters" : prefix,
                    "must be a map, is " + v.shown());
      return;
    }
    for (size_t i = 0; i < v.keys.size(); ++i) {
      if (v.keys[i] == "parameters" && !prefix.empty()) {  // W&B repeats the word at every level
        read_parameters(v.items[i], prefix, random, own);
        continue;
      }
      const std::string key = prefix.empty() ? v.keys[i] : prefix + '.' + v.keys[i];
      if (is_section(key)) {
        read_parameters(v.items[i], key, random, own);
      } else if (const Field* field = field_or_problem(key, v.items[i].key_place, problems_)) {
        if (auto d = read_parameter(*field, v.items[i], random, problems_))
          add_dimension(std::move(*d), own);
      }
    }
  }

  void add_dimension(Dimension d, SweepFile& own) {
    for (const Field* field : d.fields) {
      if (const Dimension* other = own.find_dimension(field)) {
        problems_.add(d.place, field->key,
                      "is swept twice, first at line " + std::to_string(other->place.line));
        return;
      }
    }
    own.dimensions.push_back(std::move(d));
  }

  void read_points(const std::string& key, const Value& v, SweepFile& own) {
    if (!v.is(Kind::kList)) {
      problems_.add(v.place, key, "must be a list of maps, is " + v.shown());
      return;
    }
    for (const Value& item : v.items) {
      std::vector<Assignment> point;
      const size_t before = problems_.size();
      read_assignments(item, "", point, problems_);
      if (problems_.size() != before) continue;
      if (point.empty()) {
        problems_.add(item.place, key, "must name at least one key");
      } else if (key == "include") {
        own.include.push_back(std::move(point));
      } else {
        own.exclude.push_back(std::move(point));
        own.exclude_places.push_back(item.place);
      }
    }
  }

 public:
  static void read_seeds(const Value& v, SweepFile& own, Problems& problems) {
    std::vector<uint32_t> seeds;
    const auto seed = [&](const Value& item) {
      if (!item.is(Kind::kInteger) || item.integer < 0 || item.integer > 4294967295) {
        problems.add(item.place, "seeds",
                     "a seed must be an integer in [0, 4294967295], is " + item.shown());
      } else if (std::find(seeds.begin(), seeds.end(), static_cast<uint32_t>(item.integer)) !=
                 seeds.end()) {
        problems.add(item.place, "seeds", "seed " + item.shown() + " occurs twice");
      } else {
        seeds.push_back(static_cast<uint32_t>(item.integer));
      }
    };
    if (v.is(Kind::kInteger) && v.integer >= 1 && v.integer <= kMaxRuns) {
      for (int64_t i = 0; i < v.integer; ++i) seeds.push_back(static_cast<uint32_t>(i));
    } else if (v.is(Kind::kList) && !v.items.empty() && v.items.size() <= 20000) {
      for (const Value& item : v.items) seed(item);
    } else {
      problems.add(v.place, "seeds",
                   "must be a number of seeds in [1, " + std::to_string(kMaxRuns) +
                       "] or a list of seeds, is " +
                       (v.is(Kind::kList) ? std::string("an empty or too long list") : v.shown()));
      return;
    }
    own.seeds = std::move(seeds);
    own.seeds_place = v.place;
  }

 private:
  NodeBudget& budget_;
  Problems& problems_;
  std::vector<std::string> open_;
};

}  // namespace

const std::vector<std::string>& sweep_keys() {
  static const std::vector<std::string> keys = {
      "name",    "description", "extends", "base",   "parameters", "zip",
      "include", "exclude",     "seeds",   "method", "run_cap",    "sweep_seed"};
  return keys;
}

const Assignment* SweepFile::find_base(const Field* field) const {
  const auto it =
      std::find_if(base.begin(), base.end(), [&](const Assignment& a) { return a.field == field; });
  return it == base.end() ? nullptr : &*it;
}

Dimension* SweepFile::find_dimension(const Field* field) {
  const auto it = std::find_if(dimensions.begin(), dimensions.end(), [&](const Dimension& d) {
    return std::find(d.fields.begin(), d.fields.end(), field) != d.fields.end();
  });
  return it == dimensions.end() ? nullptr : &*it;
}

SweepFile read_sweep_file(const std::string& path, NodeBudget& budget, Problems& problems) {
  return FileReader(budget, problems).read_path(path, nullptr);
}

SweepFile read_sweep_text(const std::string& text, const std::string& name, NodeBudget& budget,
                          Problems& problems) {
  const Value root = parse_yaml(text, name, budget, problems);
  SweepFile sweep = FileReader(budget, problems).read_root(root, name, problems.empty());
  if (sweep.name.empty()) sweep.name = "sweep";
  return sweep;
}

SweepFile read_sweep_value(const Value& root, const std::string& name, NodeBudget& budget,
                           Problems& problems) {
  return FileReader(budget, problems).read_root(root, name, true);
}

void read_seeds(const Value& seeds, SweepFile& sweep, Problems& problems) {
  FileReader::read_seeds(seeds, sweep, problems);
}

}  // namespace statelab

#include "experiments/yaml_tree.h"

#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <unordered_map>

namespace statelab {
namespace {

class Reader {
 public:
  Reader(std::shared_ptr<const std::string> file, NodeBudget& budget, Problems& problems)
      : file_(std::move(file)), budget_(budget), problems_(problems) {}

  Value read(const YAML::Node& node, int depth, const std::string& key) {
    const Place place = place_of(node);
    if (stopped_) return at(Value::null(), place);
    if (--budget_.left < 0) {
      stop(place, key,
           "more than " + std::to_string(NodeBudget::kNodes) +
               " values after aliases are followed: write the values out or use fewer aliases");
      return at(Value::null(), place);
    }
    if (depth > budget_.max_depth) {
      stop(place, key,
           "nested deeper than " + std::to_string(budget_.max_depth) +
               " levels: does an alias contain itself?");
      return at(Value::null(), place);
    }
    if (node.IsMap()) return at(read_map(node, depth, key), place);
    if (node.IsSequence()) {
      Value list = Value::list();
      for (const auto& item : node) list.items.push_back(read(item, depth + 1, key));
      return at(std::move(list), place);
    }
    if (!node.IsScalar()) return at(Value::null(), place);
    if (node.Tag() == "!") {
      Value text = Value::of(node.Scalar());
      text.quoted = true;
      return at(std::move(text), place);
    }
    if (node.Tag() != "?" && !node.Tag().empty()) {
      problems_.add(place, key, "the tag " + node.Tag() + " has no meaning here: remove it");
    }
    return at(plain_scalar(node.Scalar()), place);
  }

  bool stopped() const { return stopped_; }

 private:
  Value read_map(const YAML::Node& node, int depth, const std::string& key) {
    Value map = Value::map();
    std::unordered_map<std::string, Place> seen;
    for (const auto& item : node) {
      const Place place = place_of(item.first);
      if (!item.first.IsScalar()) {
        problems_.add(place, key, "a key must be a word, is a list or a map");
        continue;
      }
      const std::string& name = item.first.Scalar();
      const std::string path = key.empty() ? name : key + '.' + name;
      if (name == "<<") {
        problems_.add(place, path,
                      "merge keys are not supported: use extends, or an alias for the whole map");
        continue;
      }
      const auto [first, is_new] = seen.emplace(name, place);
      if (!is_new) {
        problems_.add(place, path,
                      "duplicate key, first at line " + std::to_string(first->second.line) +
                          ": remove one of the two");
        continue;
      }
      Value value = read(item.second, depth + 1, path);
      value.key_place = place;
      map.keys.push_back(name);
      map.items.push_back(std::move(value));
    }
    return map;
  }

  Place place_of(const YAML::Node& node) const {
    const YAML::Mark mark = node.Mark();
    return mark.is_null() ? Place{file_, 1, 1} : Place{file_, mark.line + 1, mark.column + 1};
  }

  static Value at(Value value, const Place& place) {
    value.place = place;
    value.key_place = place;
    return value;
  }

  void stop(const Place& place, const std::string& key, const std::string& message) {
    problems_.add(place, key.substr(0, 60), message);
    stopped_ = true;
  }

  std::shared_ptr<const std::string> file_;
  NodeBudget& budget_;
  Problems& problems_;
  bool stopped_ = false;
};

void set_places(Value& value, const Place& place) {
  value.place = place;
  value.key_place = place;
  for (Value& item : value.items) set_places(item, place);
}

}  // namespace

Value parse_yaml(const std::string& text, const std::string& name, NodeBudget& budget,
                 Problems& problems) {
  const auto file = std::make_shared<const std::string>(name);
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.empty()) {
      Value empty;
      empty.place = {file, 1, 1};
      return empty;
    }
    if (documents.size() > 1) {
      const YAML::Mark mark = documents[1].Mark();
      problems.add({file, mark.line + 1, mark.column + 1}, "",
                   "one document per file is read, here begins number 2: remove the line `---`");
    }
    Reader reader(file, budget, problems);
    Value root = reader.read(documents[0], 0, "");
    if (reader.stopped()) root = Value::null();  // half a tree would only raise more problems
    return root;
  } catch (const YAML::Exception& e) {
    const int line = e.mark.is_null() ? 1 : e.mark.line + 1,
              column = e.mark.is_null() ? 1 : e.mark.column + 1;
    problems.add({file, line, column}, "",
                 "not valid YAML: " + e.msg + " (check indentation, colons and brackets)");
    return Value::null();
  }
}

Value load_yaml(const std::string& path, NodeBudget& budget, Problems& problems) {
  if (path == "-") {
    return parse_yaml({std::istreambuf_iterator<char>(std::cin), {}}, "standard input", budget,
                      problems);
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file.is_open() || file.bad()) {
    const char* reason = errno ? std::strerror(errno) : "cannot be read";
    problems.add({std::make_shared<const std::string>(path), 0, 0}, "",
                 std::string("cannot read this file: ") + reason);
    return Value::null();
  }
  return parse_yaml(text, path, budget, problems);
}

Place command_line_place() {
  static const auto name = std::make_shared<const std::string>("command line");
  return {name, 0, 0};
}

Value parse_override(const std::string& text, Problems& problems) {
  NodeBudget budget;
  Problems inner;
  Value value = parse_yaml(text, "command line", budget, inner);
  if (!inner.empty())
    problems.add(command_line_place(), "",
                 "cannot read the value `" + text + "`: write it as in YAML");
  set_places(value, command_line_place());
  return value;
}

}  // namespace statelab

#include "models/checkpoint.h"

#include <map>
#include <stdexcept>

namespace statelab {
namespace {

constexpr const char* kFormat = "statelab-checkpoint-1";
const std::string kPrefix = "optimizer.", kAvg = ".exp_avg", kAvgSq = ".exp_avg_sq";

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error("checkpoint: " + what); }

}  // namespace

std::string to_safetensors(const MemberState& state, const Metadata& metadata) {
  Metadata meta = metadata;
  meta["format"] = kFormat;
  meta["step"] = std::to_string(state.step);
  meta["diverged_at"] = std::to_string(state.diverged_at);
  std::string order;
  for (const NamedTensor& t : state.weights) order += (order.empty() ? "" : ",") + t.name;
  meta["order"] = order;
  std::vector<NamedTensor> all = state.weights;
  for (const NamedTensor& t : state.exp_avg)
    all.push_back({kPrefix + t.name + kAvg, t.shape, t.data});
  for (const NamedTensor& t : state.exp_avg_sq)
    all.push_back({kPrefix + t.name + kAvgSq, t.shape, t.data});
  return write_safetensors(all, meta);
}

MemberState from_safetensors(std::string_view bytes, Metadata* metadata) {
  SafetensorsFile file;
  try {
    file = read_safetensors(bytes, Dtypes::kF32Only);
  } catch (const SafetensorsError& e) {
    fail(e.what());
  }
  MemberState state;
  Metadata& meta = file.metadata;
  std::map<std::string, NamedTensor> arrays;
  for (NamedTensor& t : file.tensors) arrays.emplace(t.name, std::move(t));
  if (meta["format"] != kFormat) fail("format is \"" + meta["format"] + "\", expected " + kFormat);
  try {
    state.step = std::stoll(meta.at("step"));
    state.diverged_at = std::stoll(meta.at("diverged_at"));
  } catch (const std::exception&) {
    fail("step or diverged_at is not a number");
  }
  std::string order = meta["order"];
  while (!order.empty()) {
    const size_t comma = order.find(',');
    const std::string name = order.substr(0, comma);
    order = comma == std::string::npos ? "" : order.substr(comma + 1);
    auto take = [&](const std::string& key, std::vector<NamedTensor>& to) {
      const auto it = arrays.find(key);
      if (it == arrays.end()) fail(key + " is missing");
      it->second.name = name;
      to.push_back(std::move(it->second));
      arrays.erase(it);
    };
    take(name, state.weights);
    if (arrays.count(kPrefix + name + kAvg)) take(kPrefix + name + kAvg, state.exp_avg);
    if (arrays.count(kPrefix + name + kAvgSq)) take(kPrefix + name + kAvgSq, state.exp_avg_sq);
  }
  if (!arrays.empty()) fail("unexpected array " + arrays.begin()->first);
  if (metadata != nullptr) *metadata = meta;
  return state;
}

}  // namespace statelab

#include "models/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace statelab {
namespace {

using Json = nlohmann::json;  // keys sorted: equal states give equal bytes

constexpr const char* kFormat = "statelab-checkpoint-1";
const std::string kPrefix = "optimizer.", kAvg = ".exp_avg", kAvgSq = ".exp_avg_sq";

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error("checkpoint: " + what); }

}  // namespace

std::string to_safetensors(const MemberState& state, const Metadata& metadata) {
  Json header = Json::object();
  Json meta = Json::object();
  for (const auto& [key, value] : metadata) meta[key] = value;
  meta["format"] = kFormat;
  meta["step"] = std::to_string(state.step);
  meta["diverged_at"] = std::to_string(state.diverged_at);
  std::string order;
  for (const NamedTensor& t : state.weights) order += (order.empty() ? "" : ",") + t.name;
  meta["order"] = order;
  header["__metadata__"] = meta;
  std::string data;
  auto add = [&](const std::string& name, const NamedTensor& t) {
    const size_t begin = data.size(), bytes = t.data.size() * sizeof(float);
    header[name] = {{"dtype", "F32"}, {"shape", t.shape}, {"data_offsets", {begin, begin + bytes}}};
    data.append(reinterpret_cast<const char*>(t.data.data()), bytes);
  };
  for (const NamedTensor& t : state.weights) add(t.name, t);
  for (const NamedTensor& t : state.exp_avg) add(kPrefix + t.name + kAvg, t);
  for (const NamedTensor& t : state.exp_avg_sq) add(kPrefix + t.name + kAvgSq, t);
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + text + data;
}

MemberState from_safetensors(std::string_view bytes, Metadata* metadata) {
  if (bytes.size() < 8) fail("shorter than its 8-byte header length");
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  if (length > 100'000'000 || length > bytes.size() - 8)
    fail("header length " + std::to_string(length) + " exceeds the file");
  Json header;
  try {
    header = Json::parse(bytes.substr(8, length));
  } catch (const Json::exception&) {
    fail("the header is not JSON");
  }
  if (!header.is_object()) fail("the header is not an object");
  const std::string_view data = bytes.substr(8 + length);
  MemberState state;
  Metadata meta;
  std::map<std::string, NamedTensor> arrays;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  try {
    if (!header.contains("__metadata__")) fail("no __metadata__");
    for (const auto& [key, value] : header["__metadata__"].items())
      meta[key] = value.get<std::string>();
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      if (entry.at("dtype") != "F32")
        fail(name + ": dtype must be F32, is " + entry.at("dtype").dump());
      NamedTensor t{name, entry.at("shape").get<std::vector<int>>(), {}};
      const auto offsets = entry.at("data_offsets").get<std::vector<uint64_t>>();
      uint64_t elements = 1;
      for (int e : t.shape) {
        if (e < 0) fail(name + ": negative extent");
        elements *= static_cast<uint64_t>(e);
      }
      if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data.size())
        fail(name + ": offsets lie outside the data");
      if (offsets[1] - offsets[0] != elements * sizeof(float))
        fail(name + ": offsets and shape disagree");
      t.data.resize(elements);
      if (elements > 0)
        std::memcpy(t.data.data(), data.data() + offsets[0], elements * sizeof(float));
      ranges.emplace_back(offsets[0], offsets[1]);
      arrays.emplace(name, std::move(t));
    }
  } catch (const Json::exception& e) {
    fail(std::string("malformed header: ") + e.what());
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != at) fail("data has a hole or an overlap at byte " + std::to_string(at));
    at = end;
  }
  if (at != data.size()) fail("data continues after the last array");
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

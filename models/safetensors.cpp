#include "models/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

namespace statelab {
namespace {

using Json = nlohmann::json;  // keys sorted: equal arrays give equal bytes

constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr int kMaxDepth = 4;
constexpr const char* kMetadata = "__metadata__";

[[noreturn]] void fail(const std::string& what) { throw SafetensorsError(what); }

float from_half(uint16_t h) {
  const double sign = h & 0x8000 ? -1 : 1;
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  if (exponent == 31) {
    return mantissa ? std::nanf("")
                    : static_cast<float>(sign) * std::numeric_limits<float>::infinity();
  }
  return static_cast<float>(sign * (exponent == 0 ? std::ldexp(mantissa, -24)
                                                  : std::ldexp(1024 + mantissa, exponent - 25)));
}

float from_bfloat16(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T element(const char* data, size_t i) {
  T value;
  std::memcpy(&value, data + i * sizeof(T), sizeof(T));
  return value;
}

struct DType {
  const char* name;
  uint64_t bytes;
};
constexpr DType kDTypes[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8}};

const DType& dtype_of(const std::string& array, const Json& text, Dtypes allowed) {
  const bool only = allowed == Dtypes::kF32Only;
  for (const DType& d : kDTypes) {
    if (text.is_string() && text.get<std::string>() == d.name && (!only || &d == kDTypes)) return d;
  }
  fail(array + ": dtype must be " + (only ? "F32" : "F32, F16, BF16 or F64") + ", is " +
       text.dump());
}

std::vector<float> converted(const std::string& array, const DType& dtype, const char* data,
                             uint64_t elements) {
  std::vector<float> out(elements);
  const std::string_view type = dtype.name;
  if (type == "F32") {
    if (elements > 0) std::memcpy(out.data(), data, elements * sizeof(float));
    return out;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    if (type == "F16") {
      out[i] = from_half(element<uint16_t>(data, i));
    } else if (type == "BF16") {
      out[i] = from_bfloat16(element<uint16_t>(data, i));
    } else {
      const double value = element<double>(data, i);
      out[i] = static_cast<float>(value);
      if (std::isfinite(value) && !std::isfinite(out[i])) {
        fail(array + ": element " + std::to_string(i) + " does not fit a float, is " +
             std::to_string(value));
      }
    }
  }
  return out;
}

uint64_t unsigned_of(const std::string& array, const char* key, const Json& value) {
  if (!value.is_number_unsigned())
    fail(array + ": " + key + " must hold integers of at least 0, holds " + value.dump());
  return value.get<uint64_t>();
}

/// The header's bytes as a JSON object without doubled names.
Json parsed_header(std::string_view text) {
  if (text.empty() || text[0] != '{') fail("the header does not begin with {");
  std::set<std::string> names;
  std::string doubled;
  bool deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth == 1 && event == Json::parse_event_t::key &&
        !names.insert(value.get<std::string>()).second) {
      doubled = value.get<std::string>();
    }
    deep = deep || depth > kMaxDepth;
    return depth <= kMaxDepth;
  };
  Json header;
  try {
    header = Json::parse(text, watch);
  } catch (const Json::exception&) {
    fail("the header is not JSON");
  }
  if (deep) fail("the header is nested more deeply than any array's description");
  if (!doubled.empty()) fail(doubled + " occurs twice in the header");
  return header;
}

struct Range {
  uint64_t begin, end;
  std::string name;
};

/// Whether the ranges tile [0, size).
void check_tiling(std::vector<Range> ranges, uint64_t size) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t at = 0;
  for (const Range& r : ranges) {
    if (r.begin < at)
      fail(r.name + ": data overlaps another array at byte " + std::to_string(r.begin));
    if (r.begin > at) fail("data has a hole before " + r.name + ", at byte " + std::to_string(at));
    at = r.end;
  }
  if (at != size) fail("data continues after the last array");
}

}  // namespace

std::string write_safetensors(const std::vector<NamedTensor>& tensors, const Metadata& metadata) {
  Json header = Json::object();
  Json meta = Json::object();
  for (const auto& [key, value] : metadata) meta[key] = value;
  header[kMetadata] = meta;
  std::string data;
  for (const NamedTensor& t : tensors) {
    const size_t begin = data.size(), bytes = t.data.size() * sizeof(float);
    header[t.name] = {
        {"dtype", "F32"}, {"shape", t.shape}, {"data_offsets", {begin, begin + bytes}}};
    data.append(reinterpret_cast<const char*>(t.data.data()), bytes);
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + text + data;
}

SafetensorsFile read_safetensors(std::string_view bytes, Dtypes dtypes) {
  if (bytes.size() < 8) fail("shorter than its 8-byte header length");
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeader || length > bytes.size() - 8)
    fail("header length " + std::to_string(length) + " exceeds the file");
  const Json header = parsed_header(bytes.substr(8, length));
  const std::string_view data = bytes.substr(8 + length);
  SafetensorsFile file;
  std::vector<Range> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (!entry.is_object()) fail(name + ": must be an object, is " + entry.dump());
    if (name == kMetadata) {
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string())
          fail("__metadata__: " + key + " must be a text, is " + value.dump());
        file.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    for (const char* key : {"dtype", "shape", "data_offsets"}) {
      if (!entry.contains(key)) fail(name + ": has no " + key);
    }
    const DType& dtype = dtype_of(name, entry["dtype"], dtypes);
    const Json &shape = entry["shape"], &offsets = entry["data_offsets"];
    if (!shape.is_array()) fail(name + ": shape must be a list, is " + shape.dump());
    if (!offsets.is_array() || offsets.size() != 2)
      fail(name + ": data_offsets must be two numbers, is " + offsets.dump());
    const uint64_t begin = unsigned_of(name, "data_offsets", offsets[0]),
                   end = unsigned_of(name, "data_offsets", offsets[1]);
    if (begin > end || end > data.size()) fail(name + ": offsets lie outside the data");
    NamedTensor t{name, {}, {}};
    uint64_t elements = 1;
    for (const Json& extent : shape) {
      const uint64_t e = unsigned_of(name, "shape", extent);
      if (e > INT32_MAX || (e > 0 && elements > UINT64_MAX / 16 / e))
        fail(name + ": shape " + shape.dump() + " is larger than any file");
      elements *= e;
      t.shape.push_back(static_cast<int>(e));
    }
    if (end - begin != elements * dtype.bytes) {
      fail(name + ": offsets and shape disagree: " + std::to_string(end - begin) +
           " bytes for shape " + shape.dump() + " of " + dtype.name);
    }
    ranges.push_back({begin, end, name});
    t.data = converted(name, dtype, data.data() + begin, elements);
    if (std::string_view(dtype.name) != "F32") file.dtypes[name] = dtype.name;
    file.tensors.push_back(std::move(t));
  }
  check_tiling(std::move(ranges), data.size());
  return file;
}

}  // namespace statelab

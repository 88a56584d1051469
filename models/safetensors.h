// The safetensors format: named arrays behind a JSON header.
//
//   file   = header_length (u64, little endian), header (JSON, padded with spaces to a multiple of 8), data
//   header = { "__metadata__": { key: text, ... }, name: { "dtype": d, "shape": [..], "data_offsets": [begin, end] }, ... }
//   data   = the arrays, row-major, little endian, without hole or overlap; offsets count from the end of the header
// Source: https://github.com/huggingface/safetensors, README, "Format".
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace statelab {

/// A named array, row-major.
struct NamedTensor {
  std::string name;
  std::vector<int> shape;
  std::vector<float> data;
};

using Metadata = std::map<std::string, std::string>;

struct SafetensorsFile {
  std::vector<NamedTensor> tensors;           ///< sorted by name
  std::map<std::string, std::string> dtypes;  ///< of the arrays that are not F32 in the file
  Metadata metadata;
};

/// A file that breaks the format. The message names the array and the rule.
class SafetensorsError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// F32 arrays, their data in the order given. Deterministic: equal arguments give equal bytes. Names are distinct.
std::string write_safetensors(const std::vector<NamedTensor>& tensors, const Metadata& metadata);

enum class Dtypes {
  kF32Only,
  kConverted,  ///< F16, BF16 (exact) and F64 (rounded) become float
};

/// Every length, offset, extent, dtype and name is checked: nothing is read outside `bytes`, nothing is allocated beyond a small
/// multiple of their size.
/// Errors: SafetensorsError, also for a number that float cannot hold.
SafetensorsFile read_safetensors(std::string_view bytes, Dtypes dtypes = Dtypes::kConverted);

}  // namespace statelab

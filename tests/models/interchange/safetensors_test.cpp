// The file format: what is read, and every way in which a file can be malformed.
#include "models/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

namespace statelab {
namespace {

std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

/// One array of the dtype that holds `data`.
std::string array_of(const std::string& dtype, const std::string& shape, const std::string& data) {
  return file_of(R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":[0,)" +
                     std::to_string(data.size()) + "]}}",
                 data);
}

template <class T>
std::string raw(std::initializer_list<T> values) {
  std::string out;
  for (const T v : values) out.append(reinterpret_cast<const char*>(&v), sizeof v);
  return out;
}

std::string reason(const std::string& bytes) {
  try {
    read_safetensors(bytes);
  } catch (const SafetensorsError& e) {
    return e.what();
  }
  return "";
}

TEST(Safetensors, WritingAndReadingKeepsNamesShapesBitsAndMetadata) {
  const std::vector<NamedTensor> tensors = {
      {"a", {2, 1}, {-0.f, std::numeric_limits<float>::denorm_min()}},
      {"b", {}, {3}},
      {"c", {0, 4}, {}}};
  const std::string bytes = write_safetensors(tensors, {{"key", "text \"quoted\""}});
  EXPECT_EQ(bytes, write_safetensors(tensors, {{"key", "text \"quoted\""}}));
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  const SafetensorsFile file = read_safetensors(bytes);
  EXPECT_EQ(file.metadata.at("key"), "text \"quoted\"");
  EXPECT_TRUE(file.dtypes.empty());
  ASSERT_EQ(file.tensors.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(file.tensors[i].name, tensors[i].name);
    EXPECT_EQ(file.tensors[i].shape, tensors[i].shape);
    ASSERT_EQ(file.tensors[i].data.size(), tensors[i].data.size());
    EXPECT_EQ(std::memcmp(file.tensors[i].data.data(), tensors[i].data.data(),
                          tensors[i].data.size() * sizeof(float)),
              0);
  }
}

TEST(Safetensors, HalfBfloat16AndDoubleBecomeFloat) {
  SafetensorsFile file = read_safetensors(
      array_of("F16", "[6]", raw<uint16_t>({0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0xfc00})));
  EXPECT_EQ(file.dtypes.at("w"), "F16");
  const std::vector<float> halves = {1, -2, std::ldexp(1.f, -24), 65504, -0.f, -INFINITY};
  EXPECT_EQ(file.tensors[0].data, halves);
  EXPECT_TRUE(std::signbit(file.tensors[0].data[4]));
  EXPECT_TRUE(std::isnan(
      read_safetensors(array_of("F16", "[1]", raw<uint16_t>({0x7e01}))).tensors[0].data[0]));
  EXPECT_EQ(
      read_safetensors(array_of("BF16", "[2]", raw<uint16_t>({0x3f80, 0xc049}))).tensors[0].data,
      (std::vector<float>{1, -3.140625f}));
  EXPECT_EQ(read_safetensors(array_of("F64", "[2]", raw<double>({0.1, -1e-300}))).tensors[0].data,
            (std::vector<float>{0.1f, -0.f}));
  EXPECT_EQ(reason(array_of("F64", "[1]", raw<double>({1e300})))
                .find("w: element 0 does not fit a float"),
            0u);
}

TEST(Safetensors, MalformedFilesAreRefusedWithTheReason) {
  const std::string one = raw<float>({1}), two = raw<float>({1, 2});
  const auto entry = [](const std::string& fields) { return "{\"w\":{" + fields + "}}"; };
  const std::string dtype = R"("dtype":"F32",)", shape = R"("shape":[1],)",
                    offsets = R"("data_offsets":[0,4])";
  ASSERT_EQ(reason(file_of(entry(dtype + shape + offsets), one)), "");
  struct Case {
    std::string bytes, expected;
  };
  const Case cases[] = {
      {"", "shorter than its 8-byte header length"},
      {"1234567", "shorter than its 8-byte header length"},
      {file_of("{}", "").substr(0, 9), "header length 2 exceeds the file"},
      {std::string(8, '\xff') + "{}", "header length 18446744073709551615 exceeds the file"},
      {file_of("", ""), "the header does not begin with {"},
      {file_of("[]", ""), "the header does not begin with {"},
      {file_of("{\"w\":", ""), "the header is not JSON"},
      {file_of("{\"w\":\xff}", ""), "the header is not JSON"},
      {file_of("{} {}", ""), "the header is not JSON"},
      {file_of(R"({"w":{"dtype":"F32","shape":)" + std::string(1000000, '[') +
                   std::string(1000000, ']') + "}}",
               ""),
       "the header is nested more deeply than any array's description"},
      {file_of(R"({"w":{},"w":{}})", ""), "w occurs twice in the header"},
      {file_of(R"({"w":3})", ""), "w: must be an object, is 3"},
      {file_of(R"({"__metadata__":[]})", ""), "__metadata__: must be an object, is []"},
      {file_of(R"({"__metadata__":{"k":1}})", ""), "__metadata__: k must be a text, is 1"},
      {file_of(entry(shape + offsets), one), "w: has no dtype"},
      {file_of(entry(dtype + offsets), one), "w: has no shape"},
      {file_of(entry(R"("dtype":"F32","shape":[1])"), one), "w: has no data_offsets"},
      {file_of(entry(R"("dtype":"I64",)" + shape + offsets), one),
       "w: dtype must be F32, F16, BF16 or F64, is \"I64\""},
      {file_of(entry(R"("dtype":7,)" + shape + offsets), one),
       "w: dtype must be F32, F16, BF16 or F64, is 7"},
      {file_of(entry(dtype + R"("shape":1,)" + offsets), one), "w: shape must be a list, is 1"},
      {file_of(entry(dtype + R"("shape":[-1],)" + offsets), one),
       "w: shape must hold integers of at least 0, holds -1"},
      {file_of(entry(dtype + R"("shape":[1.5],)" + offsets), one),
       "w: shape must hold integers of at least 0, holds 1.5"},
      {file_of(entry(dtype + R"("shape":[2147483647,2147483647,2147483647],)" + offsets), one),
       "w: shape [2147483647,2147483647,2147483647] is larger than any file"},
      {file_of(entry(dtype + R"("shape":[4294967297],)" + offsets), one),
       "w: shape [4294967297] is larger than any file"},
      {file_of(entry(dtype + shape + R"("data_offsets":[0])"), one),
       "w: data_offsets must be two numbers, is [0]"},
      {file_of(entry(dtype + shape + R"("data_offsets":[-4,0])"), one),
       "w: data_offsets must hold integers of at least 0, holds -4"},
      {file_of(entry(dtype + shape + R"("data_offsets":[4,0])"), one),
       "w: offsets lie outside the data"},
      {file_of(entry(dtype + shape + R"("data_offsets":[4,8])"), one),
       "w: offsets lie outside the data"},
      {file_of(entry(dtype + shape + R"("data_offsets":[0,18446744073709551615])"), one),
       "w: offsets lie outside the data"},
      {file_of(entry(dtype + R"("shape":[3],)" + offsets), one),
       "w: offsets and shape disagree: 4 bytes for shape [3] of F32"},
      {file_of(entry(R"("dtype":"F64",)" + shape + offsets), one),
       "w: offsets and shape disagree: 4 bytes for shape [1] of F64"},
      {file_of(entry(dtype + shape + offsets), two), "data continues after the last array"},
      {file_of(entry(dtype + shape + R"("data_offsets":[4,8])"), two),
       "data has a hole before w, at byte 0"},
      {file_of(R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{)" + dtype + shape +
                   R"("data_offsets":[4,8]}})",
               two),
       "w: data overlaps another array at byte 4"},
  };
  for (const Case& c : cases) EXPECT_EQ(reason(c.bytes), c.expected);
}

TEST(Safetensors, ATruncatedFileIsRefusedAtEveryLength) {
  const std::string good = write_safetensors({{"a", {2}, {1, 2}}, {"b", {1}, {3}}}, {{"k", "v"}});
  for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(reason(good.substr(0, n)), "") << n;
  EXPECT_EQ(reason(good), "");
}

}  // namespace
}  // namespace statelab

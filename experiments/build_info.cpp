#include "experiments/build_info.h"

#include <Eigen/src/Core/util/Macros.h>
#include <fmt/core.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sqlite3.h>

#include <CLI/Version.hpp>
#include <array>
#include <nlohmann/json.hpp>

#include "build_commit.h"  // written by build_commit.cmake at every build
#include "kernels/cuda/device.h"
#include "models/numerics.h"

namespace statelab {
namespace {

std::string short_digest(const std::string& text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr);
  std::string hex;
  for (size_t i = 0; i < 8; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

}  // namespace

const BuildInfo& build_info() {
  static const BuildInfo info = [] {
    BuildInfo b;
    b.version = STATELAB_VERSION;
    b.commit = STATELAB_COMMIT;
    b.dirty = STATELAB_DIRTY;
    b.compiler = STATELAB_COMPILER;
    b.build_type = STATELAB_BUILD_TYPE;
    b.flags = STATELAB_FLAGS;
    b.id = short_digest(fmt::format("{}|{}|{}|{}|{}|{}|{}", b.version, b.commit, b.dirty,
                                    b.compiler, b.build_type, b.flags, kNumericsVersion));
    return b;
  }();
  return info;
}

std::vector<std::pair<std::string, std::string>> library_versions() {
  const int f = FMT_VERSION;
  return {{"cli11", CLI11_VERSION},
          {"cuda", built_with_cuda() ? "built in" : "not built in"},
          {"eigen",
           fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION)},
          {"fmt", fmt::format("{}.{}.{}", f / 10000, f / 100 % 100, f % 100)},
          {"nlohmann_json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                        NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
          {"openssl", OpenSSL_version(OPENSSL_VERSION)},
          {"sqlite", sqlite3_libversion()},
          {"yaml-cpp", STATELAB_YAML_VERSION}};
}

std::string library_versions_json() {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [name, version] : library_versions()) json[name] = version;
  return json.dump();
}

}  // namespace statelab

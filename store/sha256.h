// SHA-256, the hash behind every identity and every checkpoint check.
#pragma once

#include <string>
#include <string_view>

namespace statelab {

/// 64 lower-case hex digits, as `sha256sum` prints them.
std::string sha256_hex(std::string_view bytes);

}  // namespace statelab

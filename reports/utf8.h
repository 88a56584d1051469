// UTF-8 text as characters.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace statelab {

/// Code points; each byte that is not part of a valid sequence becomes U+FFFD.
std::vector<char32_t> decode_utf8(std::string_view text);
void append_utf8(std::string& text, char32_t character);
/// Terminal columns of one character: 0 combining, 2 East Asian wide, else 1.
int character_width(char32_t character);

}  // namespace statelab

#include "store/failpoint.h"

#include <signal.h>

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string>

namespace statelab {
namespace {

struct Armed {
  size_t index = std::size(kFailpoints);  // none
  std::atomic<int> remaining{0};

  Armed() {
    const char* value = std::getenv("STATELAB_FAILPOINT");
    if (value == nullptr || *value == '\0') return;
    const std::string_view text = value;
    const size_t colon = text.find(':');
    const std::string_view name = text.substr(0, colon);
    int count = 1;
    if (colon != std::string_view::npos) {
      const auto [end, error] =
          std::from_chars(text.data() + colon + 1, text.data() + text.size(), count);
      if (error != std::errc() || end != text.data() + text.size() || count < 1) {
        throw std::invalid_argument(
            "STATELAB_FAILPOINT: the count must be a number from 1 on, is " + std::string(text));
      }
    }
    for (size_t i = 0; i < std::size(kFailpoints); ++i) {
      if (kFailpoints[i].name == name) index = i;
    }
    if (index == std::size(kFailpoints)) {
      throw std::invalid_argument("STATELAB_FAILPOINT: unknown fail point " + std::string(name));
    }
    remaining = count;
  }
};

}  // namespace

void failpoint(FailpointName name) {
  static Armed armed;
  if (name.index() != armed.index) return;
  if (--armed.remaining == 0) raise(SIGKILL);
}

}  // namespace statelab

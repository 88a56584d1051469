#include "kernels/fault.h"

#ifdef STATELAB_FAULTS
#include <string>

namespace statelab {
namespace {
std::string& armed() {
  static std::string name;
  return name;
}
}  // namespace
void arm_fault(const char* name) { armed() = name; }
bool fault_armed(const char* name) { return armed() == name; }
}  // namespace statelab
#endif

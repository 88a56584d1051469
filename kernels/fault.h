// Deliberate mistakes for the test build, to show that the checks of `statelab verify` can fail.
//
// STATELAB_FAULT(name) is true when the build defines STATELAB_FAULTS and the fault has been armed; in every other
// build it is the constant false and costs nothing. The names are listed in tests/faults.def.
#pragma once

#ifdef STATELAB_FAULTS
namespace statelab {
/// Arms one fault by name; "" disarms. Not thread safe: arm before work starts.
void arm_fault(const char* name);
bool fault_armed(const char* name);
}  // namespace statelab
#define STATELAB_FAULT(name) ::statelab::fault_armed(#name)
#else
#define STATELAB_FAULT(name) false
#endif

// Stands in for draw.cu in builds without nvcc.
#include <stdexcept>

#include "tasks/cuda/draw.h"

namespace statelab {

struct DeviceDraw::Impl {};

DeviceDraw::DeviceDraw(int, const DrawSpec&, const Plan&) {
  throw std::runtime_error("this build has no CUDA backend: it cannot draw on a device");
}
DeviceDraw::~DeviceDraw() = default;
DeviceDraw::DeviceDraw(DeviceDraw&&) noexcept = default;
DeviceDraw& DeviceDraw::operator=(DeviceDraw&&) noexcept = default;
void DeviceDraw::launch(const Call&, CUstream_st*) const {}

}  // namespace statelab

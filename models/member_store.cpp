#include "models/member_store.h"

#include "models/arena.h"

namespace statelab {

Operand MemberStore::bind(const std::string& name, const ValueType& type) {
  auto [it, fresh] = entries_.try_emplace(name);
  Entry& e = it->second;
  if (fresh) {
    e.type = type;
    const int64_t stride = member_stride_bytes(type.shape, type.dtype, real_bytes_);
    if (stream_ != nullptr) {
      e.buffer = CudaBuffer(stream_->device(), members_ * stride);
      stream_->fill(e.buffer.data(), 0, e.buffer.bytes());
      e.operand = {e.buffer.data(), stride, &e.type.shape};
    } else {
      e.memory.resize(static_cast<size_t>(members_ * stride + kAlignment));
      e.operand = {aligned(e.memory), stride, &e.type.shape};
    }
  } else if (!(e.type.shape == type.shape) || e.type.dtype != type.dtype) {
    throw std::logic_error(name + " exists as " + e.type.shape.text() + " and is asked for as " +
                           type.shape.text());
  }
  return e.operand;
}

int64_t MemberStore::entry_bytes(const ValueType& type, int members, int64_t real_bytes) {
  return members * member_stride_bytes(type.shape, type.dtype, real_bytes) + kAlignment;
}

int64_t MemberStore::bytes() const {
  int64_t total = 0;
  for (const auto& [name, e] : entries_) total += entry_bytes(e.type, members_, real_bytes_);
  return total;
}

void MemberStore::clear(const std::string& name) {
  const Entry& e = entries_.at(name);
  const int64_t bytes = members_ * e.operand.stride_bytes;
  if (stream_ != nullptr) {
    stream_->fill(e.operand.data, 0, bytes);
  } else {
    std::memset(e.operand.data, 0, static_cast<size_t>(bytes));
  }
}

void MemberStore::clear(const std::string& name, int member) {
  const Entry& e = entries_.at(name);
  std::byte* at = e.operand.data + member * e.operand.stride_bytes;
  if (stream_ != nullptr) {
    stream_->fill(at, 0, e.operand.stride_bytes);
  } else {
    std::memset(at, 0, static_cast<size_t>(e.operand.stride_bytes));
  }
}

void MemberStore::copy_out(const Entry& e, int64_t offset, void* to, size_t bytes) const {
  if (stream_ != nullptr) {
    stream_->to_host(to, e.operand.data + offset, static_cast<int64_t>(bytes));
  } else {
    std::memcpy(to, e.operand.data + offset, bytes);
  }
}

void MemberStore::copy_in(const Entry& e, int64_t offset, const void* from, size_t bytes) {
  if (stream_ != nullptr) {
    stream_->to_device(e.operand.data + offset, from, static_cast<int64_t>(bytes));
  } else {
    std::memcpy(e.operand.data + offset, from, bytes);
  }
}

}  // namespace statelab

// Parameters and states of all members, by name, in the memory of the backend that computes with them.
#pragma once

#include <cstddef>
#include <cstring>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/call.h"
#include "kernels/cuda/runtime.h"

namespace statelab {

/// Shared by the programs that train and read the members. Copies happen in the order of the programs' work.
class MemberStore {
 public:
  /// `stream`: of the device whose memory holds the entries, and outlives the store; null = this machine's memory.
  MemberStore(int members, int64_t real_bytes, CudaStream* stream = nullptr)
      : members_(members), real_bytes_(real_bytes), stream_(stream) {}

  /// Memory of a parameter or state, zero at first. Throws std::logic_error when the name exists with another type.
  Operand bind(const std::string& name, const ValueType& type);
  bool has(const std::string& name) const { return entries_.count(name) != 0; }
  int64_t elements(const std::string& name) const { return entries_.at(name).type.shape.size(); }
  int members() const { return members_; }
  int64_t bytes() const;
  /// What bind() takes of this type for all members.
  static int64_t entry_bytes(const ValueType& type, int members, int64_t real_bytes);

  /// T is the element type of the entry. read() waits for the device.
  template <class T>
  std::vector<T> read(const std::string& name, int member) const {
    std::vector<T> out(static_cast<size_t>(elements(name)));
    const Entry& e = entry<T>(name);
    copy_out(e, member * e.operand.stride_bytes, out.data(), sizeof(T) * out.size());
    return out;
  }
  /// Of all members, in one copy.
  template <class T>
  std::vector<std::vector<T>> read_members(const std::string& name) const {
    const Entry& e = entry<T>(name);
    const auto n = static_cast<size_t>(elements(name));
    const auto stride = static_cast<size_t>(e.operand.stride_bytes);
    std::vector<std::byte> bytes(static_cast<size_t>(members_) * stride);
    copy_out(e, 0, bytes.data(), bytes.size());
    std::vector<std::vector<T>> out(static_cast<size_t>(members_), std::vector<T>(n));
    for (size_t m = 0; m < out.size(); ++m)
      std::memcpy(out[m].data(), bytes.data() + m * stride, sizeof(T) * n);
    return out;
  }
  template <class T>
  void write(const std::string& name, int member, std::span<const T> values) {
    const Entry& e = entry<T>(name);
    if (values.size() != static_cast<size_t>(elements(name)))
      throw std::logic_error(name + " is written with another number of elements");
    copy_in(e, member * e.operand.stride_bytes, values.data(), values.size_bytes());
  }
  /// Zeros for all members.
  void clear(const std::string& name);
  /// Zeros for one member.
  void clear(const std::string& name, int member);

  /// Direct access; on the CPU only.
  template <class T>
  T* data(const std::string& name, int member) const {
    if (stream_ != nullptr) throw std::logic_error(name + " lies in the memory of a device");
    return entries_.at(name).operand.at<T>(member);
  }

 private:
  struct Entry {
    ValueType type;
    std::vector<std::byte> memory;  // on the CPU
    CudaBuffer buffer;              // on a device
    Operand operand;
  };
  template <class T>
  const Entry& entry(const std::string& name) const {
    const Entry& e = entries_.at(name);
    if (static_cast<int64_t>(sizeof(T)) != element_bytes(e.type.dtype, real_bytes_))
      throw std::logic_error(name + " has elements of another size");
    return e;
  }
  void copy_out(const Entry& e, int64_t offset, void* to, size_t bytes) const;
  void copy_in(const Entry& e, int64_t offset, const void* from, size_t bytes);

  int members_;
  int64_t real_bytes_;
  CudaStream* stream_;
  std::map<std::string, Entry> entries_;
};

}  // namespace statelab

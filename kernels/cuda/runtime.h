// Memory, streams and graphs of one CUDA device. No CUDA header is needed to include this file.
// Errors: CudaOutOfMemory when an allocation fails, CudaError for everything else, UnsupportedOp in a build without CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

struct CUstream_st;     // cudaStream_t
struct CUgraphExec_st;  // cudaGraphExec_t

namespace statelab {

class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class CudaOutOfMemory : public std::bad_alloc {
 public:
  explicit CudaOutOfMemory(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

/// Bytes of device memory, free and in all.
struct CudaMemoryInfo {
  int64_t free_bytes = 0, total_bytes = 0;
};
CudaMemoryInfo cuda_memory_info(int device);

/// A stream of one device. Its members make that device the calling thread's current one, as do those of the classes below.
class CudaStream {
 public:
  explicit CudaStream(int device);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  int device() const { return device_; }
  CUstream_st* handle() const { return stream_; }
  /// Waits for all work so far and reports its errors.
  void synchronize();
  /// Copies in stream order. to_host returns when the data is there; to_device when `from` may be reused.
  void to_device(void* to, const void* from, int64_t bytes);
  void to_host(void* to, const void* from, int64_t bytes);
  void fill(void* to, unsigned char byte, int64_t bytes);

 private:
  int device_;
  CUstream_st* stream_ = nullptr;
};

/// Device memory, aligned to 256 bytes at least.
class CudaBuffer {
 public:
  CudaBuffer() = default;
  CudaBuffer(int device, int64_t bytes);
  ~CudaBuffer();
  CudaBuffer(CudaBuffer&& other) noexcept;
  CudaBuffer& operator=(CudaBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  int device_ = 0;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// Work recorded once and launched often.
class CudaGraph {
 public:
  CudaGraph() = default;
  ~CudaGraph();
  CudaGraph(CudaGraph&& other) noexcept;
  CudaGraph& operator=(CudaGraph&& other) noexcept;

  /// Records what `record` enqueues on `stream`; nothing runs.
  template <class F>
  static CudaGraph capture(CudaStream& stream, F&& record) {
    begin(stream);
    try {
      record();
    } catch (...) {
      abandon(stream);
      throw;
    }
    return end(stream);
  }
  void launch(CudaStream& stream) const;
  int nodes() const { return nodes_; }  ///< kernels, copies and fills
  explicit operator bool() const { return exec_ != nullptr; }

 private:
  static void begin(CudaStream& stream);
  static void abandon(CudaStream& stream);
  static CudaGraph end(CudaStream& stream);
  int device_ = 0, nodes_ = 0;
  CUgraphExec_st* exec_ = nullptr;
};

}  // namespace statelab

// probe_cuda: what this machine's GPU and cuBLASLt give, as Markdown tables; nothing of statelab is linked.
//   1  Which cuBLASLt algorithms give one member the same bits at 1, 2 and 16 members, for the products of training?
//   2  What does a kernel in a CUDA graph cost, and a launch of the graph?
//   3  What do copies and large matrix products reach?
//
// Build    ninja -C build/cuda probe_cuda        (EXCLUDE_FROM_ALL; or: nvcc -std=c++20 -O2 -arch=sm_90 -o probe_cuda
//                                                 kernels/cuda/probe.cu -lcublasLt)
// Run      build/cuda/kernels/cuda/probe_cuda    [device], under 40 s, at most 6 GiB of device memory
//          LD_LIBRARY_PATH must name the folder of libcublasLt.so where that is not the one it was built with.
// Read     Times are medians of 5 graphs of 10 launches, events around each graph, caches warm. An algorithm *keeps* when, at
//          every member count, first and last member (same operands, other members in between differ) have the bits of the
//          run at 1 member; the run at 1 member is itself repeated.
//
// Row-major: the lab's matrices are row-major, cuBLASLt's column-major. A row-major (r, c) matrix is, in the same memory, the
// column-major (c, r) matrix, its transpose, with leading dimension c. So the transposed product is asked for, with the
// operands exchanged: C = A B becomes C^T = B^T A^T. No layout needs an order attribute, and every algorithm is a candidate.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int kMostAlgorithms = 8;
constexpr int kMemberCounts[] = {1, 2, 16};
constexpr int kCounts = 3;
constexpr int kMostMembers = 16;
constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;
constexpr int kLaunches = 10, kRepeats = 5;

void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "probe: %s: %s\n", call, cudaGetErrorString(code));
  std::exit(1);
}

void check(cublasStatus_t code, const char* call) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "probe: %s: %s\n", call, cublasLtGetStatusString(code));
  std::exit(1);
}

#define STATELAB_PROBE(call) check((call), #call)

// ---- memory, stream, time

class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(bytes) {
    STATELAB_PROBE(cudaMalloc(&data_, static_cast<size_t>(bytes)));
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* data() const { return static_cast<char*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// What `enqueue` puts on the stream, as a graph.
class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& enqueue) : stream_(stream) {
    cudaGraph_t graph = nullptr;
    STATELAB_PROBE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue();
    STATELAB_PROBE(cudaStreamEndCapture(stream, &graph));
    STATELAB_PROBE(cudaGraphInstantiate(&exec_, graph, 0));
    STATELAB_PROBE(cudaGraphDestroy(graph));
  }
  ~Graph() { cudaGraphExecDestroy(exec_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch() const { STATELAB_PROBE(cudaGraphLaunch(exec_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t exec_ = nullptr;
};

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    STATELAB_PROBE(cudaEventCreate(&begin_));
    STATELAB_PROBE(cudaEventCreate(&end_));
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  /// Microseconds that the stream needs for `work`: the median over `repeats`, after one round unmeasured.
  double us(int repeats, const std::function<void()>& work) const {
    std::vector<double> times;
    for (int i = 0; i <= repeats; ++i) {
      STATELAB_PROBE(cudaEventRecord(begin_, stream_));
      work();
      STATELAB_PROBE(cudaEventRecord(end_, stream_));
      STATELAB_PROBE(cudaEventSynchronize(end_));
      float ms = 0;
      STATELAB_PROBE(cudaEventElapsedTime(&ms, begin_, end_));
      if (i > 0) times.push_back(1e3 * ms);
    }
    return median(times);
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// ---- kernels

/// Numbers in (-1, 1) that depend on (seed, element of the member's matrix) and, for the members between the first and the
/// last, on the member. Shapes: out (members, size).
template <class T>
__global__ void fill_kernel(T* out, int64_t size, int members, uint32_t seed) {
  const int64_t all = size * members;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < all;
       i += stride) {
    const int64_t member = i / size;
    const bool same = member == 0 || member == members - 1;
    uint64_t h = static_cast<uint64_t>(i % size) + (same ? 0 : static_cast<uint64_t>(member) << 40);
    h = (h + (static_cast<uint64_t>(seed) << 56)) *
        0x9E3779B97F4A7C15ull;  // the finaliser of SplitMix64
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
    h ^= h >> 31;
    const float value = static_cast<float>(h >> 40) * (2.f / 16777216.f) - 1.f;
    if constexpr (sizeof(T) == 2) {
      out[i] = __float2bfloat16(value);
    } else {
      out[i] = value;
    }
  }
}

/// Counts words that differ. Integers, so the order of the additions does not matter.
__global__ void compare_kernel(const uint32_t* a, const uint32_t* b, int64_t size,
                               unsigned long long* differing) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  unsigned long long mine = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size;
       i += stride) {
    mine += a[i] != b[i] ? 1 : 0;
  }
  if (mine > 0) atomicAdd(differing, mine);
}

__global__ void tiny_kernel(int* counter) {
  if (threadIdx.x == 0) *counter += 1;
}

// ---- products

struct Arithmetic {
  const char* name;
  cublasComputeType_t compute;
  cudaDataType_t operand;  // of a and b; the result is float
  int operand_bytes;
};
constexpr Arithmetic kArithmetics[] = {
    {"fp32", CUBLAS_COMPUTE_32F, CUDA_R_32F, 4},
    {"tf32", CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, 4},
    {"bf16", CUBLAS_COMPUTE_32F, CUDA_R_16BF, 2},
};

/// Column-major c (m, n) = op(a) (m, k) op(b) (k, n); a is stored as (k, m) when transposed, b as (n, k).
struct Product {
  const char* name;
  int m, n, k;
  bool transpose_a, transpose_b;
  int64_t a_size() const { return int64_t{m} * k; }
  int64_t b_size() const { return int64_t{k} * n; }
  int64_t c_size() const { return int64_t{m} * n; }
};

/// The three products of a linear layer. Row-major x (rows, in), W (out, in), y (rows, out) and their gradients; the comment
/// gives the transposed product that is asked for.
std::vector<Product> linear_products(int rows, int in, int out) {
  return {
      {"y = x W^T", out, rows, in, true,
       false},  // y^T = W x^T; memory of W is (in, out), of x (in, rows)
      {"dx = dy W", in, rows, out, false,
       false},  // dx^T = W^T dy^T; memory of W is W^T, of dy is dy^T
      {"dW = dy^T x", in, out, rows, false,
       true},  // dW^T = x^T dy; memory of x is x^T, of dy (out, rows)
  };
}

/// Descriptors of one product for a number of members.
class Description {
 public:
  Description(const Product& p, const Arithmetic& arithmetic, int members) {
    STATELAB_PROBE(cublasLtMatmulDescCreate(&operation, arithmetic.compute, CUDA_R_32F));
    const cublasOperation_t op_a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    STATELAB_PROBE(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &op_a,
                                                  sizeof(op_a)));
    STATELAB_PROBE(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &op_b,
                                                  sizeof(op_b)));
    a = layout(arithmetic.operand, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, members);
    b = layout(arithmetic.operand, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, members);
    c = layout(CUDA_R_32F, p.m, p.n, members);
  }
  ~Description() {
    cublasLtMatrixLayoutDestroy(a);
    cublasLtMatrixLayoutDestroy(b);
    cublasLtMatrixLayoutDestroy(c);
    cublasLtMatmulDescDestroy(operation);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;

 private:
  static cublasLtMatrixLayout_t layout(cudaDataType_t type, int rows, int columns, int members) {
    cublasLtMatrixLayout_t made = nullptr;
    STATELAB_PROBE(cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows),
                                              static_cast<uint64_t>(columns), rows));
    const int32_t count = members;
    const int64_t stride = int64_t{rows} * columns;
    STATELAB_PROBE(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                    &count, sizeof(count)));
    STATELAB_PROBE(cublasLtMatrixLayoutSetAttribute(
        made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)));
    return made;
  }
};

/// A named type around cuBLASLt's, which has no name: nvcc 13.0 cannot compile a vector of that.
struct Algorithm {
  cublasLtMatmulAlgo_t value;
};

/// What an algorithm is, in numbers that can be compared and written down.
struct Configuration {
  int32_t id = 0;
  uint32_t tile = 0, stages = 0, reduction = 0, swizzling = 0, custom = 0;
  int32_t split_k = 0;
  uint16_t inner_shape = 0, cluster_shape = 0;
  bool operator==(const Configuration&) const = default;
};

Configuration configuration_of(const Algorithm& algorithm) {
  Configuration c;
  const auto get = [&](cublasLtMatmulAlgoConfigAttributes_t what, auto& value) {
    size_t written = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
        &algorithm.value, what, &value, sizeof(value), &written);
    // An algorithm may lack a setting, which then stays 0.
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) {
      check(status, "cublasLtMatmulAlgoConfigGetAttribute");
    }
  };
  get(CUBLASLT_ALGO_CONFIG_ID, c.id);
  get(CUBLASLT_ALGO_CONFIG_TILE_ID, c.tile);
  get(CUBLASLT_ALGO_CONFIG_STAGES_ID, c.stages);
  get(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, c.split_k);
  get(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, c.reduction);
  get(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, c.swizzling);
  get(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, c.custom);
  get(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, c.inner_shape);
  get(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, c.cluster_shape);
  return c;
}

std::string text(const Configuration& c) {
  return std::to_string(c.id) + "/" + std::to_string(c.tile) + "/" + std::to_string(c.stages) +
         "/" + std::to_string(c.split_k);
}

struct Bench {
  cublasLtHandle_t handle = nullptr;
  cudaStream_t stream = nullptr;
  const Memory &a, &b, &c, &reference, &workspace, &counter;
  const Stopwatch& stopwatch;

  std::vector<Algorithm> heuristic(const Description& d, int most) const {
    cublasLtMatmulPreference_t preference = nullptr;
    STATELAB_PROBE(cublasLtMatmulPreferenceCreate(&preference));
    const uint64_t bytes = kWorkspaceBytes;
    STATELAB_PROBE(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes)));
    cublasLtMatmulHeuristicResult_t results[kMostAlgorithms] = {};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, d.operation, d.a, d.b, d.c, d.c, preference, most, results, &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cublasLtMatmulAlgoGetHeuristic");
    STATELAB_PROBE(cublasLtMatmulPreferenceDestroy(preference));
    std::vector<Algorithm> algorithms;
    for (int i = 0; i < found; ++i) {
      if (results[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back({results[i].algo});
    }
    return algorithms;
  }

  cublasStatus_t try_enqueue(const Description& d, const Algorithm& algorithm) const {
    const float one = 1, zero = 0;
    return cublasLtMatmul(handle, d.operation, &one, a.data(), d.a, b.data(), d.b, &zero, c.data(),
                          d.c, c.data(), d.c, &algorithm.value, workspace.data(),
                          static_cast<size_t>(kWorkspaceBytes), stream);
  }

  void enqueue(const Description& d, const Algorithm& algorithm) const {
    check(try_enqueue(d, algorithm), "cublasLtMatmul");
  }

  /// Whether the algorithm serves this description within the workspace: by its own word, and then at a launch, so that a
  /// promise that is not kept costs a row of the table its algorithm and not the whole run.
  bool supports(const Description& d, const Algorithm& algorithm) const {
    cublasLtMatmulHeuristicResult_t result{};
    return cublasLtMatmulAlgoCheck(handle, d.operation, d.a, d.b, d.c, d.c, &algorithm.value,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= static_cast<size_t>(kWorkspaceBytes) &&
           try_enqueue(d, algorithm) == CUBLAS_STATUS_SUCCESS;
  }

  /// Runs once over results set to NaN.
  void run(const Description& d, const Algorithm& algorithm, int64_t c_floats) const {
    STATELAB_PROBE(cudaMemsetAsync(c.data(), 0xFF, static_cast<size_t>(c_floats) * 4, stream));
    enqueue(d, algorithm);
  }

  void keep_as_reference(int64_t size) const {
    STATELAB_PROBE(cudaMemcpyAsync(reference.data(), c.data(), static_cast<size_t>(size) * 4,
                                   cudaMemcpyDeviceToDevice, stream));
  }

  /// Words of `member`'s result that differ from the reference.
  int64_t differing(int64_t size, int member) const {
    STATELAB_PROBE(cudaMemsetAsync(counter.data(), 0, 8, stream));
    compare_kernel<<<512, 256, 0, stream>>>(
        reinterpret_cast<const uint32_t*>(c.data()) + member * size,
        reinterpret_cast<const uint32_t*>(reference.data()), size,
        reinterpret_cast<unsigned long long*>(counter.data()));
    STATELAB_PROBE(cudaGetLastError());
    unsigned long long count = 0;
    STATELAB_PROBE(cudaMemcpyAsync(&count, counter.data(), 8, cudaMemcpyDeviceToHost, stream));
    STATELAB_PROBE(cudaStreamSynchronize(stream));
    return static_cast<int64_t>(count);
  }

  double us(const Description& d, const Algorithm& algorithm) const {
    // A slow candidate is measured by one launch, so that the whole stays short.
    const double once = stopwatch.us(1, [&] { enqueue(d, algorithm); });
    if (once > 3000) return once;
    const Graph graph(stream, [&] {
      for (int i = 0; i < kLaunches; ++i) enqueue(d, algorithm);
    });
    return stopwatch.us(kRepeats, [&] { graph.launch(); }) / kLaunches;
  }

  template <class T>
  void fill_as(const Memory& to, int64_t size, int members, uint32_t seed) const {
    if (size * members * static_cast<int64_t>(sizeof(T)) > to.bytes()) {
      std::fprintf(stderr, "probe: an operand does not fit its memory\n");
      std::exit(1);
    }
    fill_kernel<<<1024, 256, 0, stream>>>(reinterpret_cast<T*>(to.data()), size, members, seed);
    STATELAB_PROBE(cudaGetLastError());
  }

  void fill(const Product& p, const Arithmetic& arithmetic, int members) const {
    if (p.c_size() * members * 4 > c.bytes() || p.c_size() * 4 > reference.bytes()) {
      std::fprintf(stderr, "probe: a result does not fit its memory\n");
      std::exit(1);
    }
    if (arithmetic.operand_bytes == 2) {
      fill_as<__nv_bfloat16>(a, p.a_size(), members, 1);
      fill_as<__nv_bfloat16>(b, p.b_size(), members, 2);
    } else {
      fill_as<float>(a, p.a_size(), members, 1);
      fill_as<float>(b, p.b_size(), members, 2);
    }
  }
};

/// One algorithm at all member counts; us < 0 = not supported there.
struct Trial {
  Configuration configuration;
  bool keeps = true;
  double us[kCounts] = {-1, -1, -1};
};

std::string times(const double (&us)[kCounts]) {
  std::string out;
  for (int i = 0; i < kCounts; ++i) {
    char buffer[32];
    std::snprintf(buffer, sizeof(buffer), "%s%.1f", i > 0 ? ", " : "", us[i]);
    out += us[i] < 0 ? (i > 0 ? ", -" : "-") : buffer;
  }
  return out;
}

void probe_product(const Bench& bench, const Product& p, const Arithmetic& arithmetic,
                   const std::string& shape) {
  const int64_t size = p.c_size();
  const Description one(p, arithmetic, 1), two(p, arithmetic, 2), all(p, arithmetic, kMostMembers);
  const Description* descriptions[kCounts] = {&one, &two, &all};
  std::vector<Trial> trials;
  const std::vector<Algorithm> algorithms = bench.heuristic(one, kMostAlgorithms);
  for (const Algorithm& algorithm : algorithms) {
    Trial trial{configuration_of(algorithm)};
    // The last member's operands move with the member count, so each count fills anew.
    for (int i = 0; i < kCounts; ++i) {
      const int members = kMemberCounts[i];
      const Description& d = *descriptions[i];
      if (!bench.supports(d, algorithm)) {
        trial.keeps = false;
        continue;
      }
      bench.fill(p, arithmetic, members);
      if (i == 0) {
        bench.run(d, algorithm, size);
        bench.keep_as_reference(size);
      }
      bench.run(d, algorithm, size * members);
      for (const int member : {0, members - 1}) {
        if (bench.differing(size, member) != 0) trial.keeps = false;
      }
      trial.us[i] = bench.us(d, algorithm);
    }
    trials.push_back(trial);
  }

  double fastest[kCounts] = {-1, -1, -1};
  const Trial* keeper = nullptr;  // the one that is fastest at most members
  int keeping = 0;
  for (const Trial& trial : trials) {
    for (int i = 0; i < kCounts; ++i) {
      if (trial.us[i] >= 0 && (fastest[i] < 0 || trial.us[i] < fastest[i]))
        fastest[i] = trial.us[i];
    }
    if (!trial.keeps) continue;
    ++keeping;
    if (keeper == nullptr || trial.us[kCounts - 1] < keeper->us[kCounts - 1]) keeper = &trial;
  }

  // The heuristic's own first choices, each at its own member count.
  std::string choice = "-";
  const std::vector<Algorithm> at_most = bench.heuristic(all, 1);
  if (!algorithms.empty() && !at_most.empty()) {
    const bool same = configuration_of(algorithms[0]) == configuration_of(at_most[0]);
    bench.fill(p, arithmetic, 1);
    bench.run(one, algorithms[0], size);
    bench.keep_as_reference(size);
    bench.fill(p, arithmetic, kMostMembers);
    bench.run(all, at_most[0], size * kMostMembers);
    const bool bits = bench.differing(size, 0) == 0;
    char buffer[96];
    std::snprintf(buffer, sizeof(buffer), "%s, %s, %.1f", same ? "same" : "other",
                  bits ? "same bits" : "OTHER BITS", bench.us(all, at_most[0]));
    choice = buffer;
  }
  const double none[kCounts] = {-1, -1, -1};
  std::printf("| %s | %s | %s | %zu | %d | %s | %s | %s | %s |\n", arithmetic.name, p.name,
              shape.c_str(), trials.size(), keeping, times(fastest).c_str(),
              times(keeper != nullptr ? keeper->us : none).c_str(),
              keeper != nullptr ? text(keeper->configuration).c_str() : "-", choice.c_str());
  std::fflush(stdout);
}

void probe_products(cublasLtHandle_t handle, cudaStream_t stream, const Stopwatch& stopwatch) {
  // The largest matrix: (40960, 406) of float for all members.
  const int64_t bytes = int64_t{40960} * 406 * 4 * kMostMembers;
  const Memory a(bytes), b(bytes), c(bytes), reference(bytes / kMostMembers),
      workspace(kWorkspaceBytes), counter(256);
  const Bench bench{handle, stream, a, b, c, reference, workspace, counter, stopwatch};
  std::printf(
      "\n## Products\n\nTimes in us at 1, 2, 16 members. keeper: the fastest keeping algorithm at "
      "16 members, "
      "as id/tile/stages/split-K.\nown choice: the heuristic's first algorithm for 16 members "
      "against that for "
      "1, its bits, its us.\n\n"
      "| arithmetic | product | rows, in, out | algorithms | keep | fastest | fastest keeping | "
      "keeper | own choice at 16 |\n|---|---|---|---|---|---|---|---|---|\n");
  for (const int rows : {10240, 40960}) {
    for (const auto& [in, out] : {std::pair(64, 406), std::pair(128, 64)}) {
      const std::string shape =
          std::to_string(rows) + ", " + std::to_string(in) + ", " + std::to_string(out);
      for (const Product& p : linear_products(rows, in, out)) {
        for (const Arithmetic& arithmetic : kArithmetics)
          probe_product(bench, p, arithmetic, shape);
      }
    }
  }
}

// ---- graphs

void probe_graphs(cudaStream_t stream, const Stopwatch& stopwatch) {
  const Memory counter(256);
  STATELAB_PROBE(cudaMemsetAsync(counter.data(), 0, 256, stream));
  // Loads the kernel, which the driver does at a first launch, before a graph records it.
  tiny_kernel<<<1, 32, 0, stream>>>(reinterpret_cast<int*>(counter.data()));
  STATELAB_PROBE(cudaGetLastError());
  std::printf(
      "\n## Graphs of dependent kernels of one warp\n\n"
      "| kernels | GPU us per graph | GPU us per kernel | host us per launch "
      "|\n|---|---|---|---|\n");
  constexpr int kGraphs = 20;
  for (const int kernels : {1, 10, 50, 200}) {
    const Graph graph(stream, [&] {
      for (int i = 0; i < kernels; ++i) {
        tiny_kernel<<<1, 32, 0, stream>>>(reinterpret_cast<int*>(counter.data()));
        STATELAB_PROBE(cudaGetLastError());
      }
    });
    const double us = stopwatch.us(kRepeats, [&] {
      for (int i = 0; i < kGraphs; ++i) graph.launch();
    }) / kGraphs;
    std::vector<double> host;
    for (int i = 0; i < 2 * kGraphs; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      graph.launch();
      const auto end = std::chrono::steady_clock::now();
      STATELAB_PROBE(cudaStreamSynchronize(stream));
      host.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
    }
    std::printf("| %d | %.2f | %.3f | %.2f |\n", kernels, us, us / kernels, median(host));
  }
}

// ---- rates

void probe_rates(cublasLtHandle_t handle, cudaStream_t stream, const Stopwatch& stopwatch) {
  std::printf("\n## Rates\n\n| what | rate |\n|---|---|\n");
  {
    constexpr int64_t kCopyBytes = int64_t{2} << 30;
    const Memory from(kCopyBytes), to(kCopyBytes);
    STATELAB_PROBE(cudaMemsetAsync(from.data(), 0x5A, kCopyBytes, stream));
    const double us = stopwatch.us(kRepeats, [&] {
      STATELAB_PROBE(
          cudaMemcpyAsync(to.data(), from.data(), kCopyBytes, cudaMemcpyDeviceToDevice, stream));
    });
    std::printf("| copy of 2 GiB on the device, bytes read and written | %.0f GB/s |\n",
                2.0 * kCopyBytes / us * 1e-3);
  }
  constexpr int kSide = 8192;
  const int64_t bytes = int64_t{kSide} * kSide * 4;
  const Memory a(bytes), b(bytes), c(bytes), reference(bytes), workspace(kWorkspaceBytes),
      counter(256);
  const Bench bench{handle, stream, a, b, c, reference, workspace, counter, stopwatch};
  const Product p{"", kSide, kSide, kSide, true, false};
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Description d(p, arithmetic, 1);
    const std::vector<Algorithm> algorithms = bench.heuristic(d, 1);
    if (algorithms.empty()) continue;
    bench.fill(p, arithmetic, 1);  // random: zeros would draw less power and run faster
    const double us = bench.us(d, algorithms[0]);
    std::printf("| %d^3 product, %s, float result | %.0f TFLOP/s |\n", kSide, arithmetic.name,
                2.0 * kSide * kSide * kSide / us * 1e-6);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int device = argc > 1 ? std::atoi(argv[1]) : 0;
  const auto begin = std::chrono::steady_clock::now();
  STATELAB_PROBE(cudaSetDevice(device));
  cudaDeviceProp properties{};
  int driver = 0, runtime = 0;
  STATELAB_PROBE(cudaGetDeviceProperties(&properties, device));
  STATELAB_PROBE(cudaDriverGetVersion(&driver));
  STATELAB_PROBE(cudaRuntimeGetVersion(&runtime));
  std::printf("# %s, %d multiprocessors; driver %d, runtime %d, cuBLASLt %zu\n", properties.name,
              properties.multiProcessorCount, driver, runtime, cublasLtGetVersion());

  cudaStream_t stream = nullptr;
  cublasLtHandle_t handle = nullptr;
  STATELAB_PROBE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  STATELAB_PROBE(cublasLtCreate(&handle));
  {
    const Stopwatch stopwatch(stream);
    probe_graphs(stream, stopwatch);
    probe_rates(handle, stream, stopwatch);
    probe_products(handle, stream, stopwatch);
  }
  STATELAB_PROBE(cublasLtDestroy(handle));
  STATELAB_PROBE(cudaStreamDestroy(stream));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf("\n%.1f s\n", seconds.count());
  return 0;
}

// DeviceDraw: one kernel fills the rows of all members.
// shapes    tokens, targets (batch, seqlen) int32 per member; step (1) int32 per member
// launch    grid y: member; x: rows. A warp takes a row where the kind allows (walks without blocks, flat expressions,
//           flip-flops), else a thread takes a row and the warp writes 32 of them out together
// order     none matters: every number is a function of its name (kernels/rng.h), and all arithmetic is on integers
// traffic   8 B written per position; a block of a walk reads the tables once
// limits    members <= 65535 (grid.y)
#include <cuda_runtime.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "tasks/cuda/expression.cuh"
#include "tasks/cuda/flip_flop.cuh"
#include "tasks/cuda/row.cuh"
#include "tasks/cuda/walk.cuh"

namespace statelab {
namespace {

using namespace device_draw;

constexpr int kWarps = 4;  // few per block: 256 rows of one member already reach 64 multiprocessors
constexpr int kThreads = kWarps * kLanes;
constexpr int kMaxMembers = 65535;
constexpr int64_t kPlainSharedBytes = 48 * 1024;  // what any kernel may have without asking

void check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  cudaGetLastError();
  if (code == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(code) + " (" +
                           cudaGetErrorName(code) + ")");
}

__device__ int row_of_warp() { return blockIdx.x * kWarps + threadIdx.x / kLanes; }

template <bool kTablesInShared>
__global__ __launch_bounds__(kThreads) void draw_walk_kernel(const __grid_constant__ DrawArgs p) {
  extern __shared__ uint4 shared_tables[];
  WalkParams walk = p.spec.walk;
  if constexpr (kTablesInShared) {
    for (int i = threadIdx.x; i < p.table_pieces; i += kThreads) shared_tables[i] = p.tables[i];
    __syncthreads();
    const char* tables = reinterpret_cast<const char*>(shared_tables);
    walk.label = reinterpret_cast<const int32_t*>(tables);
    walk.next = reinterpret_cast<const uint16_t*>(tables + p.next_offset);
    walk.draw_symbol = reinterpret_cast<const uint16_t*>(tables + p.draw_symbol_offset);
  }
  const int row = row_of_warp();
  if (row >= p.call.batch) return;  // whole warps, and no barrier follows
  draw_row(p, blockIdx.y, row, [&](const SampleName& name, const WarpRow& out) {
    return draw_walk_data(walk, p.spec.layout.tokens_per_item, name, out);
  });
}

__global__ __launch_bounds__(kThreads) void draw_expression_kernel(
    const __grid_constant__ DrawArgs p) {
  const int row = row_of_warp();
  if (row >= p.call.batch) return;
  draw_row(p, blockIdx.y, row, [&](const SampleName& name, const WarpRow& out) {
    return draw_flat_expression_data(p.spec.expression, name, out);
  });
}

__global__ __launch_bounds__(kThreads) void draw_flip_flop_kernel(
    const __grid_constant__ DrawArgs p) {
  const int row = row_of_warp();
  if (row >= p.call.batch) return;
  draw_row(p, blockIdx.y, row, [&](const SampleName& name, const WarpRow& out) {
    return draw_flip_flop_data(p.spec.flip_flop, name, out);
  });
}

/// Entries between two staged rows: odd, so that the lanes' equal positions lie in different banks.
__host__ __device__ int staged_pitch(int seqlen) { return seqlen | 1; }

int64_t staged_bytes(int seqlen) {
  return int64_t{2} * kLanes * staged_pitch(seqlen) * static_cast<int64_t>(sizeof(int32_t));
}

/// Any task: a block is one warp, a thread calls the host's draw_sample() for its row. kStaged: in shared memory
/// (2, 32, pitch), copied out by rows; else straight to the row, each thread in a cache line of its own.
template <bool kStaged>
__global__ __launch_bounds__(kLanes) void draw_any_kernel(const __grid_constant__ DrawArgs p) {
  extern __shared__ int32_t staged[];
  const int member = blockIdx.y, lane = threadIdx.x;
  const int first = blockIdx.x * kLanes;
  const int rows = min(kLanes, p.call.batch - first);
  const int seqlen = p.call.seqlen;
  const int64_t offset = static_cast<int64_t>(first) * seqlen;
  int32_t* tokens = member_rows(p.call.tokens, p.call.tokens_stride_bytes, member) + offset;
  int32_t* targets = member_rows(p.call.targets, p.call.targets_stride_bytes, member) + offset;
  const SampleName name = name_sample(p, member, first + lane);
  if (lane < rows) {
    int32_t *own_tokens, *own_targets;
    if constexpr (kStaged) {
      own_tokens = staged + lane * staged_pitch(seqlen);
      own_targets = staged + (kLanes + lane) * staged_pitch(seqlen);
    } else {
      own_tokens = tokens + static_cast<int64_t>(lane) * seqlen;
      own_targets = targets + static_cast<int64_t>(lane) * seqlen;
    }
    const Layout& layout = p.spec.layout;
    const int length = draw_length(layout, name.key, name.step, name.sample, name.lengths);
    if (row_tokens(layout, length) > seqlen) __trap();
    const SampleInfo info = draw_sample(p.spec, name.key, name.step, name.sample, name.lengths,
                                        own_tokens, own_targets);
    for (int t = info.tokens; t < seqlen; ++t) {
      own_tokens[t] = 0;
      own_targets[t] = -1;
    }
  }
  if constexpr (kStaged) {
    __syncwarp();
    for (int row = 0; row < rows; ++row) {
      const int32_t* row_tokens_staged = staged + row * staged_pitch(seqlen);
      const int32_t* row_targets_staged = staged + (kLanes + row) * staged_pitch(seqlen);
      for (int t = lane; t < seqlen; t += kLanes) {
        tokens[static_cast<int64_t>(row) * seqlen + t] = row_tokens_staged[t];
        targets[static_cast<int64_t>(row) * seqlen + t] = row_targets_staged[t];
      }
    }
  }
}

/// Bytes on their way to the device, every part aligned to 16.
class Parts {
 public:
  template <class T>
  int64_t add(const T* data, size_t count) {
    const size_t offset = bytes_.size();
    const auto* first = reinterpret_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), first, first + count * sizeof(T));
    bytes_.resize((bytes_.size() + 15) / 16 * 16);
    return static_cast<int64_t>(offset);
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace

struct DeviceDraw::Impl {
  explicit Impl(int index) : device(index) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (memory == nullptr) return;
    cudaSetDevice(device);
    cudaFree(memory);
  }
  int device;
  bool one_thread_per_row = false;
  int64_t shared_limit = kPlainSharedBytes;  // per block of draw_any_kernel<true>
  size_t keys = 0;
  std::byte* memory = nullptr;
  DrawArgs args;
};

DeviceDraw::DeviceDraw(int device, const DrawSpec& spec, const Plan& plan)
    : impl_(std::make_unique<Impl>(device)) {
  if (plan.keys.empty() || plan.stages.empty()) {
    throw std::invalid_argument("a draw on the device needs a key and a range of lengths");
  }
  DrawArgs& args = impl_->args;
  args.spec = spec;
  args.nstages = static_cast<int>(plan.stages.size());
  args.same_key = plan.same_key;
  args.counts_passes = plan.data_step.has_value();
  args.data_step = plan.data_step.value_or(0);
  impl_->one_thread_per_row = plan.one_thread_per_row;
  impl_->keys = plan.keys.size();

  Parts parts;
  const WalkParams& walk = spec.walk;  // its sizes are 0 in tasks that are no walks
  const auto nstates = static_cast<size_t>(walk.nstates);
  parts.add(walk.label, nstates);
  const int64_t next = parts.add(walk.next, nstates * static_cast<size_t>(walk.nsymbols));
  const int64_t symbols = parts.add(walk.draw_symbol, static_cast<size_t>(walk.draws));
  const size_t table_bytes = parts.bytes().size();
  const int64_t keys = parts.add(plan.keys.data(), plan.keys.size());
  const int64_t stages = parts.add(plan.stages.data(), plan.stages.size());

  check(cudaSetDevice(device), "cudaSetDevice");
  void* memory = nullptr;
  check(cudaMalloc(&memory, parts.bytes().size()), "cudaMalloc");
  impl_->memory = static_cast<std::byte*>(memory);
  // Waits for this copy alone: other threads' streams go on, and may be recording a graph.
  check(cudaMemcpyAsync(memory, parts.bytes().data(), parts.bytes().size(), cudaMemcpyHostToDevice,
                        cudaStreamPerThread),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");

  const std::byte* at = impl_->memory;
  args.tables = reinterpret_cast<const uint4*>(at);
  args.table_pieces = static_cast<int>(table_bytes / sizeof(uint4));
  args.next_offset = static_cast<int>(next);
  args.draw_symbol_offset = static_cast<int>(symbols);
  args.spec.walk.label = reinterpret_cast<const int32_t*>(at);
  args.spec.walk.next = reinterpret_cast<const uint16_t*>(at + next);
  args.spec.walk.draw_symbol = reinterpret_cast<const uint16_t*>(at + symbols);
  args.keys = reinterpret_cast<const RngKey*>(at + keys);
  args.stages = reinterpret_cast<const Stage*>(at + stages);

  // Loads the kernels now, rather than at a first launch that a graph may be recording; a build without code for the device
  // is found out here.
  for (const void* kernel : {reinterpret_cast<const void*>(draw_walk_kernel<true>),
                             reinterpret_cast<const void*>(draw_walk_kernel<false>),
                             reinterpret_cast<const void*>(draw_expression_kernel),
                             reinterpret_cast<const void*>(draw_flip_flop_kernel),
                             reinterpret_cast<const void*>(draw_any_kernel<true>),
                             reinterpret_cast<const void*>(draw_any_kernel<false>)}) {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  }
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  impl_->shared_limit = std::max<int64_t>(most, kPlainSharedBytes);
  check(cudaFuncSetAttribute(draw_any_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(impl_->shared_limit)),
        "cudaFuncSetAttribute");
}

DeviceDraw::~DeviceDraw() = default;
DeviceDraw::DeviceDraw(DeviceDraw&&) noexcept = default;
DeviceDraw& DeviceDraw::operator=(DeviceDraw&&) noexcept = default;

void DeviceDraw::launch(const Call& call, CUstream_st* stream) const {
  if (call.members < 1 || call.batch < 1 || call.seqlen < 1 || call.members > kMaxMembers ||
      (!impl_->args.same_key && static_cast<size_t>(call.members) > impl_->keys)) {
    throw std::invalid_argument(
        "[draw] needs 1..65535 members with a key each and at least one position: " +
        std::to_string(call.members) + " members, " + std::to_string(impl_->keys) +
        " keys, batch " + std::to_string(call.batch) + ", seqlen " + std::to_string(call.seqlen));
  }
  check(cudaSetDevice(impl_->device), "cudaSetDevice");
  DrawArgs args = impl_->args;
  args.call = call;
  const auto blocks = [&](int rows_per_block) {
    return dim3(static_cast<unsigned>((call.batch - 1) / rows_per_block + 1),
                static_cast<unsigned>(call.members));
  };
  const DrawKind kind = args.spec.kind;
  const bool by_thread = impl_->one_thread_per_row || kind == DrawKind::kBracketedExpression ||
                         (kind == DrawKind::kWalk && args.spec.walk.block > 0);
  if (by_thread) {
    const int64_t bytes = staged_bytes(call.seqlen);
    if (bytes <= impl_->shared_limit) {
      draw_any_kernel<true><<<blocks(kLanes), kLanes, static_cast<size_t>(bytes), stream>>>(args);
    } else {
      draw_any_kernel<false><<<blocks(kLanes), kLanes, 0, stream>>>(args);
    }
  } else if (kind == DrawKind::kFlatExpression) {
    draw_expression_kernel<<<blocks(kWarps), kThreads, 0, stream>>>(args);
  } else if (kind == DrawKind::kFlipFlop) {
    draw_flip_flop_kernel<<<blocks(kWarps), kThreads, 0, stream>>>(args);
  } else {
    const size_t bytes = static_cast<size_t>(args.table_pieces) * sizeof(uint4);
    if (static_cast<int64_t>(bytes) <= kPlainSharedBytes) {
      draw_walk_kernel<true><<<blocks(kWarps), kThreads, bytes, stream>>>(args);
    } else {
      draw_walk_kernel<false><<<blocks(kWarps), kThreads, 0, stream>>>(args);
    }
  }
  check(cudaGetLastError(), "draw kernel");
}

}  // namespace statelab

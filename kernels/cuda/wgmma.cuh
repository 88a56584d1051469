// Hopper's products of a warpgroup (wgmma): 64 x kN x 16 in bf16, both operands in shared memory, four warps at once and
// asynchronously; and the barriers by which warps hand tiles to one another. Compute capability 9.0 only (sm_90a).
//
// An operand is made of cores, 8 x 8 elements in 128 bytes: eight 16-byte units of eight elements. Where the units run along the
// inner extent the operand is stored "along k", else "along m" (or n). The same cores serve both ways: with rows of a matrix in
// the units' order and its columns in them, the matrix is an operand along k if its columns are the inner extent, along m if its
// rows are.
#pragma once

#include <cstdint>

#include "kernels/cuda/mma.cuh"

namespace statelab::cuda {

constexpr int kWarpgroup = 128, kCoreBytes = 128;

/// How an operand lies in shared memory. kCores: cores, strides being bytes from core to core along the inner extent and along the
/// other. Else units are in rows of 128 or 64 bytes, eight rows a block that begins at a multiple of 1024 or 512 bytes, and a row's
/// units are exchanged by its number (swizzled_unit), so that neither rows nor columns of units meet in a bank. Stored along k,
/// `outer` is from block to block of eight rows; stored along m, it is that along k, and `inner` from row to row of blocks along m.
enum class Pattern : uint32_t { kCores = 0, kRows128 = 1, kRows64 = 2 };

template <Pattern kPattern, int kInnerStride, int kOuterStride>
struct Operand {
  uint32_t low;  ///< of its descriptor

  /// A shared address, a multiple of 16. Computed anew wherever this stands: kept, the many addresses of a loop fill the registers.
  __device__ __forceinline__ explicit Operand(uint32_t address)
      : low(address >> 4 | static_cast<uint32_t>(kInnerStride >> 4) << 16) {
    asm volatile("" : "+r"(low));
  }
  /// The descriptor of what lies so many bytes on.
  __device__ __forceinline__ uint64_t at(int offset) const {
    constexpr uint32_t kHigh =
        static_cast<uint32_t>(kOuterStride >> 4) | static_cast<uint32_t>(kPattern) << 30;
    uint64_t descriptor;
    asm("mov.b64 %0, {%1, %2};"
        : "=l"(descriptor)
        : "r"(low + static_cast<uint32_t>(offset >> 4)), "r"(kHigh));
    return descriptor;
  }
};

/// The place of a row's 16-byte unit among its row's.
template <Pattern kPattern>
__device__ __forceinline__ int swizzled_unit(int row, int unit) {
  static_assert(kPattern != Pattern::kCores);
  return kPattern == Pattern::kRows128 ? unit ^ row % 8 : unit ^ row / 2 % 4;
}

/// Before the first product that reads or writes a warpgroup's registers after others have.
__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most kPending committed groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving accumulators across this point.
template <int kFloats>
__device__ __forceinline__ void hold(float (&c)[kFloats]) {
#pragma unroll
  for (int i = 0; i < kFloats; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

/// c (64 x 64) = [c +] a b. Of a thread of warp w of the group, c[4 j + 2 h + e] is row 16 w + lane / 4 + 8 h, column
/// 8 j + lane % 4 * 2 + e. kAlongM, kAlongN: how operands are stored.
template <bool kAlongM, bool kAlongN>
__device__ __forceinline__ void multiply_async(float (&c)[32], uint64_t a, uint64_t b, bool adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%"
      "25,"
      "%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, %35, %36;\n}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
        "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
        "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31])
      : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(kAlongM), "n"(kAlongN));
}
/// The same, 64 x 32.
template <bool kAlongM, bool kAlongN>
__device__ __forceinline__ void multiply_async(float (&c)[16], uint64_t a, uint64_t b, bool adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, p, 1, 1, %19, %20;\n}\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
        "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
        "+f"(c[14]), "+f"(c[15])
      : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(kAlongM), "n"(kAlongN));
}

/// A barrier in shared memory at which `arrivals` arrivals end a phase.
struct PhaseBarrier {
  uint64_t state;

  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)),
                 "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  /// Until the phase of this parity has ended; the one before the first has parity 1.
  __device__ __forceinline__ void wait(int parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra ended;\nbra again;\nended:\n}\n" ::"r"(shared_address(this)),
        "r"(parity)
        : "memory");
  }
};

/// Of each thread between its writes to shared memory and its arrival, where products read them.
__device__ __forceinline__ void fence_for_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Barrier of the warps of one role, `id` 1 to 15.
__device__ __forceinline__ void sync_threads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace statelab::cuda

// score: counts of an evaluation, see ScoreAttrs. Three kernels, each with its results in the workspace:
//   1. 4 to 32 lanes per position: unsupervised, wrong or right, and its loss in double
//   2. a block per sequence: first error, supervised and right positions, loss
//   3. sums over the sequences: 32 positions x 8 shares of the batch per block; the first block adds the totals
// All counts are integers below 2^53, exact in any order. A sequence's loss is summed in an order that its length decides, the
// sequences' in the order of the samples: no result depends on how many sequences a pass has.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/reduce.cuh"

namespace statelab::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

enum Mark : unsigned char { kUnsupervised, kWrong, kRight };

/// Columns of a sequence's summary, in double: exact for these integers, and one array for all.
enum Summary { kFirstError, kSupervised, kCorrect, kLoss, kSummaries };

struct ScoreArgs {
  Slices<const float> logits;
  Slices<const int32_t> targets, pass;
  Slices<double> counts,
      workspace;  // workspace: (batch, kSummaries), (batch, seqlen) losses, then bytes
  int64_t samples;
  int batch, seqlen, width, classes, legal_begin, legal_end;

  __device__ double* summary(unsigned member) const { return workspace.at(member); }
  __device__ double* losses(unsigned member) const {
    return summary(member) + static_cast<int64_t>(batch) * kSummaries;
  }
  __device__ unsigned char* marks(unsigned member) const {
    return reinterpret_cast<unsigned char*>(losses(member) + static_cast<int64_t>(batch) * seqlen);
  }
  /// Sequences of this pass that count: those before the last sample.
  __device__ int64_t sequences(unsigned member) const {
    const int64_t left = samples - static_cast<int64_t>(pass.at(member)[0]) * batch;
    return left < 0 ? 0 : left < batch ? left : batch;
  }
};

template <int kLanes>
__global__ void __launch_bounds__(kThreads) mark_positions(const ScoreArgs p) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes;
  const int64_t rows = p.sequences(blockIdx.y) * p.seqlen;  // rows past these are read by nobody
  const int target = row < rows ? __ldg(p.targets.at(blockIdx.y) + row) : -1;
  const bool supervised = target >= 0;
  unsigned char mark = kUnsupervised;
  double loss = 0;
  if (__any_sync(kAllLanes, supervised)) {
    const float* l = p.logits.at(blockIdx.y) + row * p.width;
    const Best answer =
        first_argmax<kLanes>(l, supervised ? p.legal_begin : 0, supervised ? p.legal_end : 0, lane);
    const int classes = supervised ? p.classes : 0;
    const double top = first_argmax<kLanes>(l, 0, classes, lane).value;
    const double lse = logsumexp<kLanes>(l, classes, top, lane);
    if (supervised) {
      mark = answer.at == target ? kRight : kWrong;
      loss = lse - static_cast<double>(__ldg(l + target));
    }
  }
  if (lane != 0 || row >= rows) return;
  p.marks(blockIdx.y)[row] = mark;
  p.losses(blockIdx.y)[row] = loss;
}

__global__ void __launch_bounds__(kThreads) summarize_sequences(const ScoreArgs p) {
  __shared__ double shared[3][kWarps];
  __shared__ int shared_error[kWarps];
  const int64_t b = blockIdx.x;
  if (b >= p.sequences(blockIdx.y)) return;  // the whole block
  const unsigned char* marks = p.marks(blockIdx.y) + b * p.seqlen;
  const double* losses = p.losses(blockIdx.y) + b * p.seqlen;
  int first_error = p.seqlen;
  double supervised = 0, correct = 0, loss = 0;
  for (int t = static_cast<int>(threadIdx.x); t < p.seqlen; t += kThreads) {
    const unsigned char mark = marks[t];
    if (mark == kWrong) first_error = min(first_error, t);
    supervised += mark != kUnsupervised;
    correct += mark == kRight;
    loss += losses[t];
  }
#pragma unroll
  for (int d = 16; d >= 1; d /= 2)
    first_error = min(first_error, __shfl_xor_sync(kAllLanes, first_error, d));
  if (threadIdx.x % 32 == 0) shared_error[threadIdx.x / 32] = first_error;
  supervised = block_sum<kThreads>(supervised, shared[0]);
  correct = block_sum<kThreads>(correct, shared[1]);
  loss = block_sum<kThreads>(loss, shared[2]);
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) first_error = min(first_error, shared_error[w]);
  double* to = p.summary(blockIdx.y) + b * kSummaries;
  to[kFirstError] = first_error, to[kSupervised] = supervised;
  to[kCorrect] = correct, to[kLoss] = loss;
}

__global__ void __launch_bounds__(kThreads) add_sequences(const ScoreArgs p) {
  constexpr int kShares = kThreads / 32;
  __shared__ int shares[3][kShares][32];
  __shared__ double shared[kScores][kWarps], losses[kThreads];
  const int64_t sequences = p.sequences(blockIdx.y);
  const double* summary = p.summary(blockIdx.y);
  double* counts = p.counts.at(blockIdx.y);
  if (blockIdx.x == 0) {
    double right = 0, tokens = 0, tokens_right = 0;
    for (int64_t b = threadIdx.x; b < sequences; b += kThreads) {
      const double* s = summary + b * kSummaries;
      right += s[kSupervised] > 0 && s[kCorrect] == s[kSupervised];
      tokens += s[kSupervised];
      tokens_right += s[kCorrect];
    }
    right = block_sum<kThreads>(right, shared[kScoreSequencesCorrect]);
    tokens = block_sum<kThreads>(tokens, shared[kScoreTokens]);
    tokens_right = block_sum<kThreads>(tokens_right, shared[kScoreTokensCorrect]);
    double loss = counts[kScoreLoss];  // thread 0's counts
    for (int64_t b = 0; b < sequences; b += kThreads) {
      const int64_t mine = b + threadIdx.x;
      losses[threadIdx.x] = mine < sequences ? summary[mine * kSummaries + kLoss] : 0;
      __syncthreads();
      const int here = static_cast<int>(min(int64_t{kThreads}, sequences - b));
      if (threadIdx.x == 0) {
#pragma unroll 8
        for (int i = 0; i < here; ++i) loss += losses[i];
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      counts[kScoreSequences] += static_cast<double>(sequences);
      counts[kScoreSequencesCorrect] += right;
      counts[kScoreTokens] += tokens;
      counts[kScoreTokensCorrect] += tokens_right;
      counts[kScoreLoss] = loss;
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % 32, share = static_cast<int>(threadIdx.x) / 32;
  const int t = static_cast<int>(blockIdx.x) * 32 + lane;
  int total = 0, correct = 0, prefix = 0;
  if (t < p.seqlen) {
    const unsigned char* marks = p.marks(blockIdx.y) + t;
#pragma unroll 4
    for (int64_t b = share; b < sequences; b += kShares) {
      const unsigned char mark = marks[b * p.seqlen];
      total += mark != kUnsupervised;
      correct += mark == kRight;
      prefix += mark != kUnsupervised && t < summary[b * kSummaries + kFirstError];
    }
  }
  shares[0][share][lane] = total, shares[1][share][lane] = correct;
  shares[2][share][lane] = prefix;
  __syncthreads();
  if (share >= 3 || t >= p.seqlen) return;
  int sum = 0;  // warp 0 the totals, 1 the right ones, 2 the prefixes
#pragma unroll
  for (int s = 0; s < kShares; ++s) sum += shares[share][s][lane];
  counts[kScores + static_cast<int64_t>(share) * p.seqlen + t] += sum;
}

int64_t workspace_bytes(const CallShapes& c) {
  const Shape& targets = c.in[1]->shape;
  return targets[0] * int64_t{kSummaries} * 8 + targets.size() * 9;
}

void launch(const CudaCall& call, CUstream_st* stream) {
  const auto& a = call.attrs<ScoreAttrs>();
  const Shape& logits = *call.in[0].shape;
  ScoreArgs p{};
  p.logits = slices<const float>(call.in[0]), p.targets = slices<const int32_t>(call.in[1]);
  p.pass = slices<const int32_t>(call.in[2]), p.counts = slices<double>(call.in[3]);
  p.workspace = slices<double>(call.workspace);
  p.samples = a.samples;
  p.batch = logits[0], p.seqlen = logits[1], p.width = logits[2];
  p.classes = a.classes, p.legal_begin = a.legal_begin, p.legal_end = a.legal_end;
  const int lanes = lanes_for(p.classes);
  const dim3 grid =
      member_grid(ceil_div(int64_t{p.batch} * p.seqlen, kThreads / lanes), call.members);
  switch (lanes) {
    case 4:
      mark_positions<4><<<grid, kThreads, 0, stream>>>(p);
      break;
    case 8:
      mark_positions<8><<<grid, kThreads, 0, stream>>>(p);
      break;
    case 16:
      mark_positions<16><<<grid, kThreads, 0, stream>>>(p);
      break;
    default:
      mark_positions<32><<<grid, kThreads, 0, stream>>>(p);
  }
  check_launch("score");
  summarize_sequences<<<member_grid(p.batch, call.members), kThreads, 0, stream>>>(p);
  check_launch("score");
  add_sequences<<<member_grid(ceil_div(p.seqlen, 32), call.members), kThreads, 0, stream>>>(p);
  check_launch("score");
}

}  // namespace

CudaKernel score_kernel() { return {workspace_bytes, launch, nullptr}; }

}  // namespace statelab::cuda

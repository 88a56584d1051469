// What the draw kernels share: their arguments, which sample a row is, and how a warp writes one. For .cu files only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tasks/cuda/draw.h"

namespace statelab::device_draw {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

struct DrawArgs {
  DrawSpec spec;  // pointers into `tables`
  // All pointers are device memory. tables: label (nstates) int32, next (nstates, nsymbols) uint16,
  // draw_symbol (draws) uint16 in this order, as 16-byte pieces.
  const uint4* tables = nullptr;
  int table_pieces = 0;
  int next_offset = 0, draw_symbol_offset = 0;  // bytes behind `tables`
  const RngKey* keys = nullptr;                 // (members), or (1) with same_key
  const DeviceDraw::Stage* stages = nullptr;    // (nstages)
  int nstages = 1;
  bool same_key = false, counts_passes = false;
  uint32_t data_step = 0;
  DeviceDraw::Call call;
};

__device__ inline int32_t* member_rows(std::byte* rows, int64_t stride_bytes, int member) {
  return reinterpret_cast<int32_t*>(rows + member * stride_bytes);
}

/// Lengths of the stage that contains `step`: as many ends as are not above it lie before. All lanes must call it; each
/// looks at one end, so that a curriculum of up to 33 stages costs a single access.
__device__ inline LengthRange lengths_at(const DrawArgs& p, uint32_t step) {
  const int lane = threadIdx.x % kLanes;
  int stage = 0;
  for (int first = 0; first < p.nstages - 1; first += kLanes) {
    const int s = first + lane;
    const bool passed = s < p.nstages - 1 && static_cast<int64_t>(step) >= p.stages[s].end;
    stage += __popc(__ballot_sync(kAllLanes, passed));
  }
  return p.stages[stage].lengths;
}

/// Names the sample of one row.
struct SampleName {
  RngKey key;
  uint32_t step, sample;
  LengthRange lengths;
};

/// All lanes must call it, with the same member.
__device__ inline SampleName name_sample(const DrawArgs& p, int member, int row) {
  const DeviceDraw::Call& call = p.call;
  const auto word = *reinterpret_cast<const uint32_t*>(call.step + member * call.step_stride_bytes);
  SampleName name;
  name.key = p.keys[p.same_key ? 0 : member];
  name.step = p.counts_passes ? p.data_step : word;
  name.sample = static_cast<uint32_t>(row);
  if (p.counts_passes) name.sample += word * static_cast<uint32_t>(call.batch);
  name.lengths = lengths_at(p, name.step);
  return name;
}

/// One row: [BOS] data [end] tail.
struct WarpRow {
  int32_t *tokens, *targets;  // (seqlen)
  int begin;                  // 1 after BOS
  int ndata, used;
  bool supervise_all;

  __device__ void write(int position, int token, int label) const {
    tokens[position] = token;
    targets[position] = supervise_all || position == used - 1 ? label : -1;
  }
  /// Data token t.
  __device__ void put(int t, int token, int label) const { write(begin + t, token, label); }
};

/// Draws one row with a whole warp. `draw_data(name, row)` puts tokens 0 .. row.ndata - 1 and returns the label of the last
/// one to every lane.
template <class DrawData>
__device__ inline void draw_row(const DrawArgs& p, int member, int row, DrawData&& draw_data) {
  const int lane = threadIdx.x % kLanes;
  const Layout& layout = p.spec.layout;
  const int seqlen = p.call.seqlen;
  const SampleName name = name_sample(p, member, row);
  const int length = draw_length(layout, name.key, name.step, name.sample, name.lengths);
  const int64_t offset = static_cast<int64_t>(row) * seqlen;
  WarpRow out;
  out.tokens = member_rows(p.call.tokens, p.call.tokens_stride_bytes, member) + offset;
  out.targets = member_rows(p.call.targets, p.call.targets_stride_bytes, member) + offset;
  out.begin = layout.bos_token >= 0 ? 1 : 0;
  out.ndata = data_tokens(layout, length);
  out.used = row_tokens(layout, length);
  out.supervise_all = layout.supervise_all != 0;
  if (out.used > seqlen) __trap();
  if (lane == 0 && out.begin == 1) out.write(0, layout.bos_token, layout.bos_target);
  const int last_label = draw_data(name, out);
  if (lane == 0 && layout.end_token >= 0) out.put(out.ndata, layout.end_token, last_label);
  for (int t = out.used + lane; t < seqlen; t += kLanes) {
    out.tokens[t] = 0;
    out.targets[t] = -1;
  }
}

}  // namespace statelab::device_draw

// One sample of any task, from one plain structure: what the host calls and what a kernel can call.
#pragma once

#include <cstdint>

#include "tasks/draw/expression.h"
#include "tasks/draw/flip_flop.h"
#include "tasks/draw/layout.h"
#include "tasks/draw/walk.h"

namespace statelab {

enum class DrawKind : int32_t { kWalk, kFlatExpression, kBracketedExpression, kFlipFlop };

/// Everything that a draw depends on. The tables behind `walk` belong to the task; a device copy
/// needs them copied and the three pointers replaced.
struct DrawSpec {
  DrawKind kind = DrawKind::kWalk;
  Layout layout;
  WalkParams walk;
  ExpressionParams expression;
  FlipFlopParams flip_flop;
};

/// Draws sample `sample` of `step`. Shapes: tokens, targets at least row_tokens(longest length).
/// Targets are -1 where nothing is supervised. Entries past the sample are left alone.
STATELAB_HOST_DEVICE inline SampleInfo draw_sample(const DrawSpec& spec, RngKey key, uint32_t step,
                                                   uint32_t sample, LengthRange lengths,
                                                   int32_t* tokens, int32_t* targets) {
  const Layout& layout = spec.layout;
  SampleInfo info;
  info.length = draw_length(layout, key, step, sample, lengths);
  info.tokens = row_tokens(layout, info.length);
  const int ndata = data_tokens(layout, info.length);
  const int begin = layout.bos_token >= 0 ? 1 : 0;
  if (begin == 1) {
    tokens[0] = layout.bos_token;
    targets[0] = layout.bos_target;
  }
  int32_t* data = tokens + begin;
  int32_t* labels = targets + begin;
  switch (spec.kind) {
    case DrawKind::kWalk:
      if (spec.walk.block > 0) {
        draw_blocked_walk(spec.walk, key, step, sample, ndata, data, labels);
      } else {
        draw_walk(spec.walk, layout.tokens_per_item, key, step, sample, ndata, data, labels);
      }
      break;
    case DrawKind::kFlatExpression:
      draw_flat_expression(spec.expression, key, step, sample, ndata, data, labels);
      break;
    case DrawKind::kBracketedExpression: {
      const int value = draw_bracketed_expression(spec.expression, key, step, sample, ndata, data);
      for (int t = 0; t < ndata; ++t) labels[t] = -1;
      labels[ndata - 1] = spec.expression.first_answer + value;
      break;
    }
    case DrawKind::kFlipFlop:
      draw_flip_flop(spec.flip_flop, key, step, sample, ndata, data, labels);
      break;
  }
  if (layout.end_token >= 0) {
    data[ndata] = layout.end_token;
    labels[ndata] = labels[ndata - 1];
    if (spec.kind == DrawKind::kBracketedExpression) labels[ndata - 1] = -1;
  }
  if (layout.supervise_all == 0) {
    for (int t = 0; t < info.tokens - 1; ++t) targets[t] = -1;
  }
  return info;
}

}  // namespace statelab

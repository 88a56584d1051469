// Runs a graph on a CUDA device: its nodes are recorded once and replayed with one launch a step.
#pragma once

#include <memory>
#include <vector>

#include "models/program.h"

namespace statelab {

/// Bytes of each node's workspace on a CUDA device, per member. Throws UnsupportedOp that names the first node which cannot
/// run there, and why.
std::vector<int64_t> cuda_workspaces(const CallTable& calls);

/// `graph` as a CUDA device computes it: fused(), with the nodes whose shapes cuda_limit() has nothing against;
/// linear_bwd from 2,048 rows on.
Graph fused_for_cuda(const Graph& graph, std::span<const ValueId> keep);

/// All members at once, in float, the graph fused_for_cuda(). What no node reads and nobody keeps is neither computed nor given memory.
class CudaProgram final : public Program {
 public:
  /// As make_program(). `stream` must outlive the program.
  CudaProgram(const Graph& graph, MemberStore& store, CudaStream& stream, Precision precision,
              std::vector<ValueId> keep);
  ~CudaProgram() override;
  CudaProgram(const CudaProgram&) = delete;

  void set_draw(DrawRow rows, std::unique_ptr<CudaDraw> device = nullptr) override;
  /// The first call records the graph. With a CudaDraw nothing here waits for the device; without one, each time does.
  void run(int64_t times = 1) override;
  int64_t arena_bytes() const override { return plan_.bytes; }
  const Graph& graph() const override { return graph_; }
  int launches() const override { return captured_ ? captured_.nodes() : 0; }

 private:
  void copy_out(ValueId id, int member, void* to, int64_t bytes) const override;
  void enqueue() const;
  void enqueue_draw(const CudaCall& call) const;
  void draw_on_host(const CudaCall& call);

  Graph graph_;
  MemoryPlan plan_;
  int members_;
  CudaStream& stream_;
  CudaBuffer arena_, constants_;                // constants are written once
  std::vector<Operand> operands_;               // per value; without data = not wanted
  std::vector<std::vector<Operand>> in_, out_;  // per node; CudaCall holds spans of these
  std::vector<CudaCall> calls_;
  DrawRow rows_;
  std::unique_ptr<CudaDraw> draw_;
  CudaGraph captured_;
};

}  // namespace statelab

// A program: a graph with memory and a backend. Running it computes every node for every member.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/executor.h"
#include "kernels/cuda/kernel.h"
#include "models/backend.h"
#include "models/graph.h"
#include "models/member_store.h"

namespace statelab {

class Program {
 public:
  virtual ~Program() = default;

  /// Where the graph's draw nodes get their rows: `rows` on the CPU, and on a CUDA device as long as there is no `device`.
  /// `device` draws for all members without this machine's help.
  virtual void set_draw(DrawRow rows, std::unique_ptr<CudaDraw> device = nullptr) = 0;
  /// All nodes, `times` times. On a CUDA device with a draw of its own this returns before the work is done.
  virtual void run(int64_t times = 1) = 0;
  /// Bytes of all temporaries and workspaces.
  virtual int64_t arena_bytes() const = 0;
  virtual const Graph& graph() const = 0;
  /// Kernels and copies that a run launches on a device; 0 on the CPU, and before the first run.
  virtual int launches() const { return 0; }

  /// A kept value of one member after run(); T is its element type. Waits for the device.
  template <class T>
  std::vector<T> read(ValueId id, int member) const {
    std::vector<T> out(static_cast<size_t>(graph().value(id).type.shape.size()));
    copy_out(id, member, out.data(), static_cast<int64_t>(sizeof(T) * out.size()));
    return out;
  }

 protected:
  virtual void copy_out(ValueId id, int member, void* to, int64_t bytes) const = 0;
};

/// `keep`: temporaries that read() may return after run(). The graph is copied; store and backend must outlive the program.
/// S = double is the reference and exists on the CPU only: std::invalid_argument elsewhere.
/// Errors: UnsupportedOp when the device has no kernel for a node's shapes; CudaOutOfMemory, CudaError.
template <class S>
std::unique_ptr<Program> make_program(const Graph& graph, MemberStore& store, Backend& backend,
                                      std::vector<ValueId> keep);

/// Bytes that the arena of such a program in float takes; nothing is allocated. Errors: UnsupportedOp.
int64_t planned_arena_bytes(const Graph& graph, std::span<const ValueId> keep, int members,
                            const ComputeDevice& device);

/// Shapes of every node's call. Refers to the graph.
struct CallTable {
  explicit CallTable(const Graph& graph);
  CallTable(const CallTable&) = delete;
  std::vector<CallShapes> shapes;

 private:
  std::vector<std::vector<const ValueType*>> in_;
  std::vector<std::vector<ValueType>> out_;
};

/// Runs a graph on the CPU in scalar S (float trains, double is the reference).
template <class S>
class CpuProgram final : public Program {
 public:
  /// As make_program(), with the threads of `pool`.
  CpuProgram(const Graph& graph, MemberStore& store, ThreadPool& pool, std::vector<ValueId> keep);
  CpuProgram(const CpuProgram&) = delete;

  void set_draw(DrawRow rows, std::unique_ptr<CudaDraw> device = nullptr) override;
  void run(int64_t times = 1) override;
  int64_t arena_bytes() const override { return plan_.bytes; }
  const Graph& graph() const override { return graph_; }

 private:
  void copy_out(ValueId id, int member, void* to, int64_t bytes) const override;

  Graph graph_;
  MemoryPlan plan_;
  int members_;
  std::vector<std::byte> arena_;
  std::vector<Operand> operands_;               // per value
  std::vector<std::vector<Operand>> in_, out_;  // per node; Call holds spans of these
  std::vector<PreparedCall<S>> calls_;
  Executor<S> executor_;
  DrawRow draw_;
};

}  // namespace statelab

// A program: a graph with memory and a backend. Running it computes every node for every member.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/executor.h"
#include "kernels/cpu/thread_pool.h"
#include "models/graph.h"

namespace statelab {

/// Parameters and states of all members, by name; shared by the programs that train and read them.
class MemberStore {
 public:
  MemberStore(int members, int64_t real_bytes) : members_(members), real_bytes_(real_bytes) {}

  /// Memory of a parameter or state, zero at first. Throws std::logic_error when the name exists with another type.
  Operand bind(const std::string& name, const ValueType& type);
  bool has(const std::string& name) const { return entries_.count(name) != 0; }
  template <class T>
  T* data(const std::string& name, int member) const {
    return entries_.at(name).operand.at<T>(member);
  }
  int64_t elements(const std::string& name) const { return entries_.at(name).type.shape.size(); }
  int members() const { return members_; }
  int64_t bytes() const;

 private:
  struct Entry {
    ValueType type;
    std::vector<std::byte> memory;
    Operand operand;
  };
  int members_;
  int64_t real_bytes_;
  std::map<std::string, Entry> entries_;
};

/// Runs a graph on the CPU in scalar S (float trains, double is the reference).
template <class S>
class CpuProgram {
 public:
  /// `keep`: temporaries that data() may read after run(). The graph is copied; store and pool must outlive the program.
  CpuProgram(const Graph& graph, MemberStore& store, ThreadPool& pool, std::vector<ValueId> keep);
  CpuProgram(const CpuProgram&) = delete;

  void set_draw(DrawRow draw);
  /// All nodes once. `active` (may be null): members to compute.
  void run(const std::vector<char>* active = nullptr);

  template <class T>
  T* data(ValueId id, int member) {
    return operands_[static_cast<size_t>(id)].template at<T>(member);
  }
  int64_t arena_bytes() const { return plan_.bytes; }
  const Graph& graph() const { return graph_; }

 private:
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

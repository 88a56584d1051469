// bench: how fast this machine trains.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "experiments/bench_train.h"
#include "experiments/commands.h"
#include "experiments/device.h"

namespace statelab {
namespace {

Table table_of(const BenchTrainReport& report) {
  Table table;
  table.key = "bench-train";
  table.title = fmt::format("{}, {} threads, {} {}, commit {}; matrix product {:.1f} GFLOP/s",
                            report.processor, report.threads, report.compiler, report.build_type,
                            report.commit.substr(0, 12), report.product_flop_per_s / 1e9);
  table.columns = {{"work", "work"},
                   {"batch", "batch", ColumnType::kInteger},
                   {"seqlen", "seqlen", ColumnType::kInteger},
                   {"members", "members", ColumnType::kInteger},
                   {"parameters", "parameters", ColumnType::kInteger},
                   {"step_ms", "step", ColumnType::kNumber, "ms"},
                   {"spread_pct", "spread", ColumnType::kNumber, "%", 1},
                   {"tokens_per_s", "tokens/s", ColumnType::kNumber, "", 0},
                   {"gflop_per_s", "rate", ColumnType::kNumber, "GFLOP/s", 1},
                   {"share_of_product_pct", "of product", ColumnType::kNumber, "%", 1}};
  for (const BenchTrainRow& row : report.rows) {
    table.rows.push_back({{row.work},
                          {static_cast<int64_t>(row.batch)},
                          {static_cast<int64_t>(row.seqlen)},
                          {static_cast<int64_t>(row.members)},
                          {row.parameters},
                          {row.step_ms},
                          {row.spread_pct},
                          {row.tokens_per_s},
                          {row.flop_per_s / 1e9},
                          {row.share_of_product_pct}});
  }
  return table;
}

Table table_of(const BenchCudaReport& report) {
  Table table;
  table.key = "bench-train";
  table.title = fmt::format("{}, {}, driver for CUDA {}, toolkit {}, {}, commit {}", report.device,
                            report.precision, report.driver, report.toolkit, report.build_type,
                            report.commit.substr(0, 12));
  table.columns = {{"work", "work"},
                   {"batch", "batch", ColumnType::kInteger},
                   {"seqlen", "seqlen", ColumnType::kInteger},
                   {"members", "members", ColumnType::kInteger},
                   {"parameters", "parameters", ColumnType::kInteger},
                   {"step_ms", "step", ColumnType::kNumber, "ms", 3},
                   {"member_ms", "per run", ColumnType::kNumber, "ms", 3},
                   {"spread_pct", "spread", ColumnType::kNumber, "%", 1},
                   {"tokens_per_s", "tokens/s", ColumnType::kNumber, "", 0},
                   {"gflop_per_s", "rate", ColumnType::kNumber, "GFLOP/s", 0}};
  for (const BenchCudaRow& row : report.rows) {
    table.rows.push_back({{row.work},
                          {static_cast<int64_t>(row.batch)},
                          {static_cast<int64_t>(row.seqlen)},
                          {static_cast<int64_t>(row.members)},
                          {row.parameters},
                          {row.step_ms},
                          {row.member_ms},
                          {row.spread_pct},
                          {row.tokens_per_s},
                          {row.flop_per_s / 1e9}});
  }
  return table;
}

Precision precision_of(const std::string& name) {
  for (const Precision p : {Precision::kFp32, Precision::kBf16}) {
    if (name == precision_name(p)) return p;
  }
  return Precision::kTf32;
}

int bench(const Arguments& arguments) {
  if (arguments.words[0] != "train") {
    throw UsageError("bench: must be train, is " + arguments.words[0]);
  }
  BenchTrainOptions options;
  options.threads = thread_count(arguments);
  options.seconds = static_cast<double>(
      arguments.integer("--seconds", static_cast<int64_t>(options.seconds), 1, 3600));
  ComputeDevice device = compute_devices(arguments.get("--device", "auto"), options.threads)[0];
  if (!device.is_cuda()) {
    if (arguments.get("--precision", "fp32") != "fp32")
      throw UsageError("--precision: the CPU computes fp32 only");
    print_tables({table_of(bench_train(options))}, arguments);
    return kExitOk;
  }
  device.precision = precision_of(arguments.get("--precision", "tf32"));
  print_tables({table_of(bench_train_cuda(options, device))}, arguments);
  return kExitOk;
}

}  // namespace

std::vector<Command> bench_commands() {
  return {{"bench",
           "measure training speed beside this machine's matrix products",
           "train",
           1,
           1,
           WordKind::kBench,
           {{"statelab bench train --device cpu", "tokens/s and FLOP/s of whole training steps"},
            {"statelab bench train --device cuda --precision fp32",
             "time of a step, alone and per run of a cohort of 16"}},
           {{"--device", "D", "auto (default), cpu, cuda or cuda:INDEX"},
            threads_option(),
            {"--precision",
             "",
             "of the products on a CUDA device, tf32 by default",
             {"fp32", "tf32", "bf16"}},
            {"--seconds", "N", "of measurement per row, 2 by default"},
            format_option(),
            json_option()},
           bench}};
}

}  // namespace statelab

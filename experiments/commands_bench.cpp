// bench: how fast this machine trains, and computes each op.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "experiments/bench_eval.h"
#include "experiments/bench_ops.h"
#include "experiments/bench_train.h"
#include "experiments/commands.h"
#include "experiments/device.h"
#include "experiments/execution.h"

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
                   {"launches", "launches", ColumnType::kInteger},
                   {"step_ms", "step", ColumnType::kNumber, "ms", 3},
                   {"member_ms", "per run", ColumnType::kNumber, "ms", 3},
                   {"spread_pct", "spread", ColumnType::kNumber, "%", 1},
                   {"tokens_per_s", "tokens/s", ColumnType::kNumber, "", 0},
                   {"gflop_per_s", "rate", ColumnType::kNumber, "GFLOP/s", 0}};
  table.notes = {
      {"",
       "parity: sequences of 3 symbols up to seqlen, label at the last one; full length: all as "
       "long as they can be; dense: these with a label at every position"},
      {"", "rates count every position of a batch, padding too"}};
  for (const BenchCudaRow& row : report.rows) {
    table.rows.push_back({{row.work},
                          {static_cast<int64_t>(row.batch)},
                          {static_cast<int64_t>(row.seqlen)},
                          {static_cast<int64_t>(row.members)},
                          {row.parameters},
                          {static_cast<int64_t>(row.launches)},
                          {row.step_ms},
                          {row.member_ms},
                          {row.spread_pct},
                          {row.tokens_per_s},
                          {row.flop_per_s / 1e9}});
  }
  return table;
}

Table table_of(const BenchOpsReport& report) {
  Table table;
  table.key = "bench-ops";
  table.title = fmt::format(
      "{}, {}, driver for CUDA {}, toolkit {}, {}, commit {}; copy {:.0f} GB/s, large product of "
      "our linear op {:.0f} GFLOP/s",
      report.device, report.precision, report.driver, report.toolkit, report.build_type,
      report.commit.substr(0, 12), report.copy_bytes_per_s / 1e9, report.product_flop_per_s / 1e9);
  table.columns = {{"op", "op"},
                   {"work", "work"},
                   {"precision", "precision"},
                   {"batch", "batch", ColumnType::kInteger},
                   {"seqlen", "seqlen", ColumnType::kInteger},
                   {"members", "members", ColumnType::kInteger},
                   {"cold_us", "cold", ColumnType::kNumber, "us", 1},
                   {"hot_us", "hot", ColumnType::kNumber, "us", 1},
                   {"member_us", "per member", ColumnType::kNumber, "us"},
                   {"spread_pct", "spread", ColumnType::kNumber, "%", 1},
                   {"gb_per_s", "bytes", ColumnType::kNumber, "GB/s", 0},
                   {"share_of_copy_pct", "of copy", ColumnType::kNumber, "%", 1},
                   {"gflop_per_s", "rate", ColumnType::kNumber, "GFLOP/s", 0},
                   {"share_of_product_pct", "of product", ColumnType::kNumber, "%", 1}};
  const auto unless_zero = [](auto value) -> Cell {
    if (value == 0) return {};
    return {value};
  };
  for (const BenchOpsRow& row : report.rows) {
    table.rows.push_back({{row.op},
                          {row.work},
                          {row.precision},
                          unless_zero(static_cast<int64_t>(row.batch)),
                          unless_zero(static_cast<int64_t>(row.seqlen)),
                          {static_cast<int64_t>(row.members)},
                          {row.cold_us},
                          {row.hot_us},
                          {row.member_us},
                          {row.spread_pct},
                          {row.bytes_per_s / 1e9},
                          {row.share_of_copy_pct},
                          unless_zero(row.flop_per_s / 1e9),
                          unless_zero(row.share_of_product_pct)});
  }
  table.notes = {
      {"",
       "cold is a single launch after the L2 cache was overwritten; hot, per member and all "
       "rates are of many launches in a row over the same memory, which may stay in the cache: "
       "more than 100 % of the copy is possible"},
      {"",
       "bytes counts each operand once and a state twice, whatever the kernel reads again; the "
       "copy is of 1 GiB, read and written"},
      {"",
       "rate counts products only, in a scan those over the lower triangles of its chunks; the "
       "product they are compared with is the first row, by the same linear op, not by a "
       "library"},
      {"",
       "spread is the distance of the 10th and 90th percentile of the hot times; each op was "
       "first compared with double precision on three sequences"}};
  return table;
}

Table table_of(const BenchEvalReport& report) {
  Table table;
  table.key = "bench-eval";
  table.title = fmt::format("mamba3, 1 layer, {}, {}, {}, commit {}", report.device,
                            report.precision, report.build_type, report.commit.substr(0, 12));
  table.columns = {{"length", "length", ColumnType::kInteger},
                   {"members", "members", ColumnType::kInteger},
                   {"samples", "samples", ColumnType::kInteger},
                   {"seconds", "time", ColumnType::kNumber, "s", 3},
                   {"spread_pct", "spread", ColumnType::kNumber, "%", 1},
                   {"tokens_per_s", "tokens/s", ColumnType::kNumber, "", 0},
                   {"ns_per_token", "per token and run", ColumnType::kNumber, "ns", 3}};
  for (const BenchEvalRow& row : report.rows) {
    table.rows.push_back({{static_cast<int64_t>(row.length)},
                          {static_cast<int64_t>(row.members)},
                          {row.samples},
                          {row.seconds},
                          {row.spread_pct},
                          {row.tokens_per_s},
                          {row.ns_per_token}});
  }
  table.notes = {{"",
                  "whole evaluations, from weights in this machine's memory to counts in it; every "
                  "sample has the full length. A CUDA device's evaluations were first compared "
                  "with the CPU's, length by length"}};
  return table;
}

Precision precision_of(const std::string& name) {
  for (const Precision p : {Precision::kFp32, Precision::kBf16}) {
    if (name == precision_name(p)) return p;
  }
  return Precision::kTf32;
}

int bench_ops_command(const Arguments& arguments) {
  if (arguments.has("--seconds"))
    throw UsageError(
        "--seconds: belongs to bench train and column; bench ops times fixed numbers of launches");
  BenchOpsOptions options;
  options.threads = thread_count(arguments);
  const std::string name = arguments.get("--device", "auto");
  ComputeDevice device = compute_devices(name, options.threads)[0];
  if (!device.is_cuda()) {
    std::string reason = "--device cpu is none";
    if (name != "cpu") machine_cuda_devices(&reason);
    throw MissingFeature("bench ops: needs a CUDA device" + (reason.empty() ? "" : ": " + reason) +
                         "; `statelab bench train --device cpu` times the CPU");
  }
  device.precision = precision_of(arguments.get("--precision", "tf32"));
  print_tables({table_of(bench_ops(options, device))}, arguments);
  return kExitOk;
}

int bench_eval_command(const Arguments& arguments) {
  if (arguments.has("--seconds"))
    throw UsageError(
        "--seconds: belongs to bench train and column; bench eval times whole evaluations");
  BenchEvalOptions options;
  options.threads = thread_count(arguments);
  ComputeDevice device = compute_devices(arguments.get("--device", "auto"), options.threads)[0];
  if (device.is_cuda()) {
    device.precision = precision_of(arguments.get("--precision", "tf32"));
  } else if (arguments.get("--precision", "fp32") != "fp32") {
    throw UsageError("--precision: the CPU computes fp32 only");
  }
  print_tables({table_of(bench_eval(options, device))}, arguments);
  return kExitOk;
}

int bench(const Arguments& arguments) {
  const std::string& what = arguments.words[0];
  if (what == "column") return bench_column_command(arguments);
  if (what != "train" && what != "eval" && what != "ops")
    throw UsageError("bench: must be train, eval, ops or column, is " + what);
  if (arguments.words.size() > 1)
    throw UsageError("bench " + what + ": takes no further words, has " + arguments.words[1]);
  if (arguments.has("--max-members"))
    throw UsageError("--max-members: belongs to bench column; bench " + what +
                     " has cohorts of its own");
  if (what == "eval") return bench_eval_command(arguments);
  if (what == "ops") return bench_ops_command(arguments);
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
           "measure training, evaluation, each op of it, or how long a whole sweep would take",
           "train|eval|ops|column [CONFIG... [key=value]...]",
           1,
           -1,
           WordKind::kBench,
           {{"statelab bench train --device cpu", "tokens/s and FLOP/s of whole training steps"},
            {"statelab bench train --device cuda --precision fp32",
             "time of a step, alone and per run of a cohort of 16"},
            {"statelab bench eval --device cuda",
             "time of evaluations over lengths of 160 to 65,536 and over 1 to 64 runs"},
            {"statelab bench ops --device cuda --precision bf16 --json",
             "time, bytes/s and FLOP/s of each op alone, once its result is checked"},
            {"statelab bench column experiments/configs/mamba3-table5b/parity.yaml",
             "time of the whole sweep per model, from the measured speed of its cohorts"}},
           {{"--device", "D", "auto (default), cpu, cuda or cuda:INDEX"},
            threads_option(),
            {"--precision",
             "",
             "of the products on a CUDA device, tf32 by default",
             {"fp32", "tf32", "bf16"}},
            {"--seconds", "N",
             "of measurement per row, 2 by default; per stage of bench column, 1 by default"},
            {"--max-members", "N", "of bench column: runs that train together at most"},
            format_option(),
            json_option()},
           bench}};
}

}  // namespace statelab

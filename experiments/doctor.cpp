#include "experiments/doctor.h"

#include <fmt/core.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "experiments/build_info.h"
#include "experiments/execution.h"
#include "kernels/cuda/device.h"
#include "store/database.h"

namespace statelab {
namespace {

namespace fs = std::filesystem;
using State = Finding::State;

/// "key : value" or "key: value kB" files of /proc.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const size_t colon = line.find(':');
    const size_t start =
        colon == std::string::npos ? std::string::npos : line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

double gib(double bytes) { return bytes / (1024.0 * 1024.0 * 1024.0); }

Finding processor() {
  const std::string features = ' ' + proc_value("/proc/cpuinfo", "flags") + ' ';
  Finding f{"processor", State::kOk,
            fmt::format("{}, {} threads", processor_name(), std::thread::hardware_concurrency()),
            ""};
  const bool wide =
      features.find(" avx2 ") != std::string::npos && features.find(" fma ") != std::string::npos;
  if (build_info().flags.find("x86-64-v3") != std::string::npos && features.size() > 2 && !wide) {
    f.state = State::kProblem;
    f.remedy = "this build needs AVX2 and FMA: configure with -DSTATELAB_MARCH=x86-64-v2";
  }
  return f;
}

Finding memory() {
  const double total = std::strtod(proc_value("/proc/meminfo", "MemTotal").c_str(), nullptr) * 1024;
  const auto available = static_cast<double>(available_memory_bytes());
  Finding f{"memory", State::kOk,
            fmt::format("{:.1f} GiB, {:.1f} GiB available", gib(total), gib(available)), ""};
  if (total > 0 && gib(available) < 1) {
    f.state = State::kNote;
    f.remedy = "under 1 GiB is free: close other programs, or choose a smaller train.batch";
  }
  return f;
}

Finding build() {
  const BuildInfo& b = build_info();
  Finding f{"build", State::kOk,
            fmt::format("statelab {}, commit {}{}, {} {} {}", b.version, b.commit.substr(0, 12),
                        b.dirty ? " with changes" : "", b.compiler, b.build_type, b.flags),
            ""};
  if (b.build_type == "Debug") {
    f.state = State::kNote;
    f.remedy = "Debug builds train many times slower: configure with -DCMAKE_BUILD_TYPE=Release";
  }
  if (b.dirty && f.remedy.empty()) {
    f.state = State::kNote;
    f.remedy =
        "executions of this build are recorded as changed: commit before results are to be quoted";
  }
  return f;
}

Finding libraries() {
  std::string text;
  for (const auto& [name, version] : library_versions())
    text += (text.empty() ? "" : ", ") + name + ' ' + version;
  return {"libraries", State::kOk, text, ""};
}

Finding network(const fs::path& database) {
  Finding f{"database", State::kOk, fmt::format("{} on a local file system", database.string()),
            ""};
  if (on_network_filesystem(database)) {
    f.state = State::kProblem;
    f.text =
        database.string() + " is on a network file system, where SQLite's locks cannot be trusted";
    f.remedy = "use a local disk (--db /local/path/statelab.db) and `statelab merge` afterwards";
  }
  return f;
}

Finding disk_space(const fs::path& folder) {
  std::error_code error;
  const fs::space_info info = fs::space(folder, error);
  if (error)
    return {"disk", State::kProblem, fmt::format("{}: {}", folder.string(), error.message()),
            "choose an existing folder with --db"};
  Finding f{"disk", State::kOk,
            fmt::format("{:.1f} GiB free in {}", gib(static_cast<double>(info.available)),
                        folder.string()),
            ""};
  if (gib(static_cast<double>(info.available)) < 1) {
    f.state = State::kNote;
    f.remedy = "checkpoints and metrics need space: free some, or choose another place with --db";
  }
  return f;
}

/// Opens a throw-away database in the folder, in WAL mode, and writes to it.
Finding write_ahead_log(const fs::path& folder) {
  const fs::path path = folder / fmt::format(".statelab-doctor-{}.db", getpid());
  sqlite3* db = nullptr;
  std::string mode, trouble;
  const auto keep_mode = [](void* out, int, char** values, char**) {
    *static_cast<std::string*>(out) = values[0] ? values[0] : "";
    return 0;
  };
  if (sqlite3_open(path.c_str(), &db) != SQLITE_OK ||
      sqlite3_exec(db, "PRAGMA journal_mode=WAL", keep_mode, &mode, nullptr) != SQLITE_OK ||
      sqlite3_exec(db, "CREATE TABLE t(x) STRICT", nullptr, nullptr, nullptr) ==
          SQLITE_OK ||  // STRICT needs a type: must fail
      sqlite3_exec(db, "CREATE TABLE t(x INTEGER) STRICT; INSERT INTO t VALUES(1)", nullptr,
                   nullptr, nullptr) != SQLITE_OK) {
    trouble = db ? sqlite3_errmsg(db) : "out of memory";
  }
  sqlite3_close(db);
  std::error_code ignored;
  for (const char* end : {"", "-wal", "-shm"}) fs::remove(path.string() + end, ignored);
  if (trouble.empty() && mode == "wal")
    return {"sqlite", State::kOk,
            fmt::format("{}: WAL mode and STRICT tables work in {}", sqlite3_libversion(),
                        folder.string()),
            ""};
  return {"sqlite", State::kProblem,
          fmt::format("{}: cannot use WAL mode in {}: {}", sqlite3_libversion(), folder.string(),
                      trouble.empty() ? "mode is " + mode : trouble),
          "choose a folder you may write to, on a local disk, with --db"};
}

std::vector<Finding> gpus() {
  std::vector<Finding> out;
  std::string reason;
  const auto& devices = machine_cuda_devices(&reason);
  if (!built_with_cuda()) {
    out.push_back({"cuda", State::kNote, "this build has no CUDA part",
                   "with a GPU and nvcc: configure with -DSTATELAB_CUDA=ON"});
  } else if (devices.empty()) {
    out.push_back({"cuda", State::kNote, "no GPU is used: " + reason,
                   "on a machine with a GPU, check the driver with nvidia-smi"});
  }
  std::string first;  // model of the device that auto takes first
  for (const CudaDevice& d : devices) {
    Finding f{
        "cuda:" + std::to_string(d.index), State::kOk,
        fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.0f} GiB, driver for CUDA "
                    "{}, runtime {}",
                    d.name, d.compute_major, d.compute_minor, d.multiprocessors,
                    gib(static_cast<double>(d.total_bytes)), cuda_version_text(d.driver_version),
                    cuda_version_text(d.runtime_version)),
        ""};
    if (!d.problem.empty()) {
      f.state = State::kProblem;
      f.text += ": " + d.problem;
      f.remedy = "configure with -DCMAKE_CUDA_ARCHITECTURES=" +
                 std::to_string(d.compute_major * 10 + d.compute_minor) + ", or update the driver";
    } else if (const std::string why = obstacle(d); !why.empty()) {
      f.state = State::kNote;
      f.text += "; runs do not train on it: " + why;
    } else if (first.empty() || d.name == first) {
      first = d.name;
      f.text += "; runs train on it unless --device says otherwise";
    } else {
      f.text += "; used when --device names it, for runs train on devices of one model together";
    }
    out.push_back(std::move(f));
  }
  std::string nvcc;
  const char* path = std::getenv("PATH");
  for (std::string rest = std::string(path ? path : "") + ":/usr/local/cuda/bin"; !rest.empty();) {
    const std::string folder = rest.substr(0, rest.find(':'));
    rest = rest.size() > folder.size() ? rest.substr(folder.size() + 1) : "";
    if (nvcc.empty() && access((folder + "/nvcc").c_str(), X_OK) == 0) nvcc = folder + "/nvcc";
  }
  out.push_back({"nvcc", State::kOk,
                 nvcc.empty() ? "not found; needed only to build the CUDA part" : nvcc, ""});
  return out;
}

}  // namespace

std::vector<Finding> examine(const std::string& database) {
  const fs::path path = database;
  fs::path folder = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  std::vector<Finding> out = {build(),
                              processor(),
                              memory(),
                              libraries(),
                              network(path),
                              disk_space(folder),
                              write_ahead_log(folder)};
  for (Finding& f : gpus()) out.push_back(std::move(f));
  return out;
}

}  // namespace statelab

// Killed anywhere and run again, a sweep ends as if nothing had happened.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "kernels/rng.h"
#include "store/database.h"
#include "store/failpoint.h"
#include "tests/experiments/runner/lab_sweep.h"

namespace statelab {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Removed when the program ends; a child that is killed or executes leaves them alone.
struct Folders {
  std::vector<fs::path> paths;
  ~Folders() {
    std::error_code ignored;
    for (const fs::path& path : paths) fs::remove_all(path, ignored);
  }
};

fs::path fresh_folder() {
  static Folders folders;
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  std::string name =
      std::string(info->test_suite_name()) + "_" + info->name() + "_" + std::to_string(getpid());
  for (char& c : name) {
    if (c == '/') c = '_';
  }
  static int count = 0;  // a test may ask more than once
  const fs::path folder =
      fs::path(testing::TempDir()) / ("statelab_" + name + "_" + std::to_string(count++));
  fs::remove_all(folder);
  fs::create_directories(folder);
  folders.paths.push_back(folder);
  return folder;
}

pid_t start_worker(
    const fs::path& database, const std::string& failpoint_name = "",
    const std::function<void()>& prepare = [] {}) {
  const std::string self = fs::read_symlink("/proc/self/exe");
  const pid_t child = fork();
  if (child != 0) return child;
  if (failpoint_name.empty()) {
    unsetenv("STATELAB_FAILPOINT");
  } else {
    setenv("STATELAB_FAILPOINT", failpoint_name.c_str(), 1);
  }
  prepare();
  execl(self.c_str(), self.c_str(), "--worker", database.c_str(), static_cast<char*>(nullptr));
  _exit(127);
}

int wait_for(pid_t worker) {
  int status = 0;
  waitpid(worker, &status, 0);
  return status;
}

void expect_complete(int status) {
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  ASSERT_EQ(WEXITSTATUS(status), 0);
}

struct Undisturbed {
  std::string fingerprint;
  double seconds = 0;
};

const Undisturbed& undisturbed() {
  static const Undisturbed result = [] {
    const fs::path folder = fresh_folder();
    const auto start = Clock::now();
    expect_complete(wait_for(start_worker(folder / "lab.db")));
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return Undisturbed{fingerprint(folder / "lab.db"), seconds};
  }();
  return result;
}

TEST(Interruption, TheTestSweepMeetsEveryEnding) {
  const std::string& text = undisturbed().fingerprint;
  EXPECT_THAT(text, testing::HasSubstr("best-1 diverged"));
  EXPECT_THAT(text, testing::ContainsRegex("best-0 finished 55 "));
  EXPECT_THAT(text,
              testing::ContainsRegex("stop-[1-4] finished (15|30|45) [0-9]+ 1 "));  // stopped early
  EXPECT_THAT(text, testing::HasSubstr(" test "));
  EXPECT_THAT(text, testing::HasSubstr(" best "));
}

TEST(Interruption, ThereAreAtLeastTwentyFailPoints) { EXPECT_GE(std::size(kFailpoints), 20u); }

class FailPoint : public testing::TestWithParam<FailpointInfo> {};

// Killed at the first and, where there is one, at the third passage.
TEST_P(FailPoint, KillThereLosesNothing) {
  const std::string name(GetParam().name);
  const fs::path folder = fresh_folder();
  const fs::path database = folder / "lab.db";
  int status = wait_for(start_worker(database, name));
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << name << " was not reached";
  status = wait_for(start_worker(database, name + ":3"));
  ASSERT_TRUE(WIFEXITED(status) || WTERMSIG(status) == SIGKILL);
  if (WIFSIGNALED(status)) status = wait_for(start_worker(database));
  expect_complete(status);
  EXPECT_EQ(fingerprint(database), undisturbed().fingerprint);
  fs::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(All, FailPoint, testing::ValuesIn(kFailpoints), [](const auto& point) {
  std::string name(point.param.name);
  for (char& c : name) {
    if (c == '.') c = '_';
  }
  return name;
});

TEST(Interruption, TwentyKillsAtRandomTimesLoseNothing) {
  for (uint32_t kill_number = 0; kill_number < 20; ++kill_number) {
    const fs::path folder = fresh_folder();
    const fs::path database = folder / "lab.db";
    const RngBlock random = philox({kill_number, Stream::kVerify}, {});
    const double delay = uniform01(random.v[0], random.v[1]) * undisturbed().seconds;
    const pid_t worker = start_worker(database);
    std::this_thread::sleep_for(std::chrono::duration<double>(delay));
    kill(worker, SIGKILL);
    wait_for(worker);
    expect_complete(wait_for(start_worker(database)));
    ASSERT_EQ(fingerprint(database), undisturbed().fingerprint)
        << "kill " << kill_number << " after " << delay << " s";
    fs::remove_all(folder);
  }
}

TEST(Interruption, OneRunKilledTwentyTimesEndsUndisturbed) {
  const fs::path folder = fresh_folder();
  int status = 0;
  for (uint32_t kill_number = 0; kill_number < 20; ++kill_number) {
    const RngBlock random = philox({kill_number + 100, Stream::kVerify}, {});
    const pid_t worker = start_worker(folder / "lab.db");
    std::this_thread::sleep_for(std::chrono::duration<double>(uniform01(random.v[0], random.v[1]) *
                                                              undisturbed().seconds / 4));
    kill(worker, SIGKILL);
    status = wait_for(worker);
  }
  if (WIFSIGNALED(status)) status = wait_for(start_worker(folder / "lab.db"));
  expect_complete(status);
  EXPECT_EQ(fingerprint(folder / "lab.db"), undisturbed().fingerprint);
}

TEST(Interruption, SignalsLeaveACheckpointAndTheirExitCode) {
  for (const auto& [signal_number, code] :
       {std::pair{SIGINT, 130}, {SIGTERM, 143}, {SIGUSR1, 143}}) {
    const fs::path folder = fresh_folder();
    const fs::path database = folder / "lab.db";
    int status = 0;
    bool interrupted = false;
    for (int attempt = 0; attempt < 50 && !interrupted; ++attempt) {
      fs::remove_all(folder);
      const pid_t worker = start_worker(database);
      const double share = 0.3 + 0.01 * attempt;
      std::this_thread::sleep_for(std::chrono::duration<double>(undisturbed().seconds * share));
      kill(worker, signal_number);
      status = wait_for(worker);
      interrupted = WIFEXITED(status) && WEXITSTATUS(status) == code;
      if (interrupted) {  // nothing is held: what is not final can be claimed at once
        Database db(database, Database::Access::kReadOnly);
        Statement held(db, "SELECT count(*) FROM runs WHERE lease_owner IS NOT NULL");
        held.step();
        EXPECT_EQ(held.integer(0), 0);
      }
    }
    ASSERT_TRUE(interrupted) << "signal " << signal_number;
    expect_complete(wait_for(start_worker(database)));
    EXPECT_EQ(fingerprint(database), undisturbed().fingerprint);
  }
}

TEST(Interruption, TwoWorkersOneKilledLoseAndDoubleNothing) {
  for (uint32_t round = 0; round < 4; ++round) {
    const fs::path folder = fresh_folder();
    const fs::path database = folder / "lab.db";
    const pid_t a = start_worker(database), b = start_worker(database);
    const RngBlock random = philox({round + 200, Stream::kVerify}, {});
    std::this_thread::sleep_for(std::chrono::duration<double>(
        (0.1 + 0.8 * uniform01(random.v[0], random.v[1])) * undisturbed().seconds));
    kill(a, SIGKILL);
    wait_for(a);
    expect_complete(wait_for(b));  // finds the dead worker's runs and finishes them
    EXPECT_EQ(fingerprint(database), undisturbed().fingerprint);
    Database db(database, Database::Access::kReadOnly);
    Statement overlaps(
        db,  // no step of a run counts for two executions
        "SELECT count(*) FROM run_executions a JOIN run_executions b ON a.run = b.run "
        "AND a.from_step < b.from_step AND b.from_step < a.to_step");
    overlaps.step();
    EXPECT_EQ(overlaps.integer(0), 0);
  }
}

TEST(Interruption, FullDiskStopsWithAReasonAndGoesOnWhenThereIsRoom) {
  const fs::path folder = fresh_folder();
  const fs::path database = folder / "lab.db";
  const fs::path messages = folder / "stderr";
  // A file size limit acts as a full disk; each larger one lets the worker get further.
  int refused = 0;
  for (const rlim_t kib : {200, 260, 320, 400}) {
    const int status = wait_for(start_worker(database, "", [&] {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{kib << 10, kib << 10};
      setrlimit(RLIMIT_FSIZE, &limit);
      if (std::freopen(messages.c_str(), "a", stderr) == nullptr) _exit(126);
    }));
    ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    refused += WEXITSTATUS(status) == 1;
  }
  EXPECT_GE(refused, 1);
  std::FILE* file = std::fopen(messages.c_str(), "r");
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  EXPECT_THAT(text, testing::HasSubstr("make room and run the same command again"));
  expect_complete(wait_for(start_worker(database)));
  EXPECT_EQ(fingerprint(database), undisturbed().fingerprint);
}

// The same on a file system that is really full; mounting one takes root.
TEST(Interruption, FullFileSystemStopsWithAReasonAndGoesOnWhenThereIsRoom) {
  const fs::path folder = fresh_folder();
  if (mount("none", folder.c_str(), "tmpfs", 0, "size=400k") != 0) {
    GTEST_SKIP() << "no permission to mount; FullDiskStops... covers the case with a size limit";
  }
  const fs::path database = folder / "lab.db";
  const int status = wait_for(start_worker(database));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  ASSERT_EQ(mount("none", folder.c_str(), "tmpfs", MS_REMOUNT, "size=64m"), 0);
  expect_complete(wait_for(start_worker(database)));
  EXPECT_EQ(fingerprint(database), undisturbed().fingerprint);
  umount2(folder.c_str(), MNT_DETACH);
}

}  // namespace
}  // namespace statelab

#include "store/lease.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <random>
#include <sstream>
#include <thread>

#include "store/sha256.h"

namespace statelab {
namespace {

std::string machine() {
  static const std::string name = [] {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    std::string boot;
    std::getline(std::ifstream("/proc/sys/kernel/random/boot_id") >> std::ws, boot);
    std::error_code ignored;
    const std::string pids = std::filesystem::read_symlink("/proc/self/ns/pid", ignored).string();
    return std::string(host) + "/" + sha256_hex(boot + pids).substr(0, 8);
  }();
  return name;
}

// Field 22 of /proc/<pid>/stat; "" when there is no such process, "0" where there is no /proc.
std::string start_time(int64_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line))
    return kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM ? "0" : "";
  std::istringstream fields(
      line.substr(line.rfind(')') + 1));  // the command before it may hold spaces
  std::string field;
  fields >> field;
  if (field == "Z" || field == "X") return "";  // killed, only not yet collected by its parent
  for (int i = 4; i <= 22; ++i) fields >> field;
  return field;
}

}  // namespace

std::string new_lease_owner() {
  std::random_device random;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string token;
  for (int i = 0; i < 8; ++i) token += kDigits[random() & 15];
  return machine() + ":" + std::to_string(getpid()) + ":" + start_time(getpid()) + ":" + token;
}

std::string token_of(const std::string& owner) { return owner.substr(owner.rfind(':') + 1); }

bool is_dead_on_this_machine(const std::string& owner) {
  const std::string prefix = machine() + ":";
  if (owner.compare(0, prefix.size(), prefix) != 0) return false;
  const size_t colon = owner.find(':', prefix.size());
  if (colon == std::string::npos) return false;
  int64_t pid = 0;
  std::from_chars(owner.data() + prefix.size(), owner.data() + colon, pid);
  const std::string started = owner.substr(colon + 1, owner.rfind(':') - colon - 1);
  return pid > 0 &&
         start_time(pid) != started;  // another start time: the pid was given to a new process
}

struct LeaseKeeper::Impl {
  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;
  std::thread thread;
};

LeaseKeeper::LeaseKeeper(const std::filesystem::path& database, std::string owner,
                         double lease_seconds)
    : impl_(std::make_unique<Impl>()) {
  impl_->thread = std::thread([impl = impl_.get(), database, owner = std::move(owner),
                               lease_seconds] {
    const auto pause = std::chrono::duration<double>(lease_seconds / 3);
    std::unique_lock lock(impl->mutex);
    while (!impl->wake.wait_for(lock, pause, [&] { return impl->stop; })) {
      try {
        Database connection(database, Database::Access::kReadWrite);
        Statement(connection,
                  "UPDATE runs SET lease_until = ?1 WHERE status = 'running' AND lease_owner = ?2")
            .bind(1, unix_now() + lease_seconds)
            .bind(2, owner)
            .run();
      } catch (const StoreError&) {
        // The next try, or the next commit, will tell.
      }
    }
  });
}

LeaseKeeper::~LeaseKeeper() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  impl_->thread.join();
}

}  // namespace statelab

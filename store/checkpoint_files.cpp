#include "store/checkpoint_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "store/error.h"
#include "store/failpoint.h"
#include "store/sha256.h"

namespace statelab {
namespace {

namespace fs = std::filesystem;
constexpr size_t kRunIdDigits = 64;

[[noreturn]] void raise(const std::string& action, const fs::path& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  throw StoreError(
      "[" + path.string() + "] cannot " + action + ": " + std::strerror(error) +
          (full ? "; what was recorded before is safe: make room and run the same command again"
                : ""),
      full ? StoreError::kFull : StoreError::kIoError, error, action + " " + path.string());
}

class FileDescriptor {
 public:
  FileDescriptor(const fs::path& path, int flags, const std::string& action)
      : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (descriptor_ < 0) raise(action, path, errno);
  }
  ~FileDescriptor() { ::close(descriptor_); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

void write_all(int descriptor, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) raise("write", path, errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void sync_folder(const fs::path& folder) {
  const FileDescriptor descriptor(folder, O_RDONLY | O_DIRECTORY, "open folder");
  if (::fsync(descriptor.get()) != 0) raise("synchronise folder", folder, errno);
}

// Each new folder is made durable in its parent.
void make_folders(const fs::path& folder) {
  if (fs::is_directory(folder)) return;
  if (folder.has_parent_path()) make_folders(folder.parent_path());
  std::error_code error;
  fs::create_directory(folder, error);
  if (error) raise("create folder", folder, error.value());
  if (folder.has_parent_path()) sync_folder(folder.parent_path());
}

}  // namespace

StoredFile write_checkpoint_file(const fs::path& folder, const std::string& run_id, int64_t step,
                                 const std::string& token, std::string_view bytes) {
  failpoint("checkpoint.before_write");
  const std::string hash = sha256_hex(bytes);
  const std::string path = "checkpoints/" + run_id.substr(0, 2) + "/" + run_id + "-" +
                           std::to_string(step) + "-" + hash.substr(0, 8) + "-" + token +
                           ".safetensors";
  const fs::path final_path = folder / path;
  fs::path temporary = final_path;
  temporary += ".tmp";
  make_folders(final_path.parent_path());
  try {
    const FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC, "create");
    write_all(file.get(), bytes.substr(0, bytes.size() / 2), temporary);
    failpoint("checkpoint.half_written");
    write_all(file.get(), bytes.substr(bytes.size() / 2), temporary);
    if (::fsync(file.get()) != 0) raise("synchronise", temporary, errno);
    failpoint("checkpoint.before_rename");
    if (::rename(temporary.c_str(), final_path.c_str()) != 0) raise("rename", temporary, errno);
  } catch (const StoreError&) {
    ::unlink(temporary.c_str());
    throw;
  }
  failpoint("checkpoint.after_rename");
  sync_folder(final_path.parent_path());
  return {path, hash, static_cast<int64_t>(bytes.size())};
}

std::string read_checkpoint_file(const fs::path& folder, const StoredFile& expected) {
  const fs::path path = folder / expected.path;
  std::ifstream file(path, std::ios::binary);
  if (!file) raise("read", path, errno == 0 ? EIO : errno);
  std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) raise("read", path, EIO);
  const std::string hash = sha256_hex(bytes);
  if (hash != expected.sha256) {
    throw StoreError("[" + path.string() +
                         "] was changed after it was written: " + std::to_string(bytes.size()) +
                         " bytes with SHA-256 " + hash + ", recorded are " +
                         std::to_string(expected.bytes) + " bytes with " + expected.sha256,
                     StoreError::kMismatch, StoreError::kMismatch, "read " + path.string());
  }
  return bytes;
}

void delete_checkpoint_file(const fs::path& folder, const std::string& path) {
  std::error_code ignored;  // a file that cannot be deleted now is an orphan for a later sweep
  fs::remove(folder / path, ignored);
}

std::vector<std::string> list_checkpoint_files(const fs::path& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder / "checkpoints", error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_regular_file(error))
      paths.push_back(fs::relative(it->path(), folder, error).generic_string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string run_of_checkpoint_file(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  if (name.size() <= kRunIdDigits || name[kRunIdDigits] != '-') return "";
  return name.substr(0, kRunIdDigits);
}

}  // namespace statelab

// Durable files below <database>.d/. A file appears whole under its final name or not at all:
//   write <name>.tmp, fsync, rename to <name>, fsync the folder
//   checkpoints/<first two digits of run_id>/<run_id>-<step>-<8 digits of SHA-256>-<token>.safetensors
// The digits keep states of one step apart (the last one carries a partial row of metrics, the best one does not); the
// token belongs to the lease, so that a worker that lost its lease cannot overwrite or delete another's file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace statelab {

struct StoredFile {
  std::string path;  ///< relative to <database>.d/
  std::string sha256;
  int64_t bytes = 0;
};

/// Errors: StoreError kFull (no space, quota, size limit; the temporary file is removed) or kIoError, with the errno.
StoredFile write_checkpoint_file(const std::filesystem::path& folder, const std::string& run_id,
                                 int64_t step, const std::string& token, std::string_view bytes);

/// Errors: StoreError kIoError when missing or unreadable, kMismatch when size or SHA-256 differ from `expected`.
std::string read_checkpoint_file(const std::filesystem::path& folder, const StoredFile& expected);

/// Missing files are fine.
void delete_checkpoint_file(const std::filesystem::path& folder, const std::string& path);

/// Relative paths of all files below checkpoints/, sorted, temporary ones included.
std::vector<std::string> list_checkpoint_files(const std::filesystem::path& folder);

/// Which run a relative path belongs to; "" when the name has another form.
std::string run_of_checkpoint_file(const std::string& path);

}  // namespace statelab

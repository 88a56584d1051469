// The life of runs in a database: added, claimed under a lease, committed checkpoint by checkpoint, final.
//
//              claim                 commit(finished | diverged)
//   pending ----------> running ------------------------------------> finished, diverged
//      ^                 |  |   fail
//      +-----------------+  +--------> failed --- retry ---> pending
//        release, or the lease ends
//
// A store belongs to one thread. Every writing call is one transaction, durable when it returns. Errors: StoreError.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "store/database.h"
#include "store/records.h"

namespace statelab {

class RunStore {
 public:
  static constexpr double kLeaseSeconds = 60;

  explicit RunStore(const std::filesystem::path& database,
                    Database::Access access = Database::Access::kCreate);
  Database& database() { return database_; }

  // ---- runs and sweeps

  /// Adds the runs that are missing and refers to all from the sweep; running it twice changes nothing.
  /// Returns how many runs were new.
  int64_t add_runs(std::span<const NewRun> runs,
                   const std::optional<SweepRecord>& sweep = std::nullopt);

  /// In the order of `run_ids`; unknown ones are left out.
  std::vector<RunSummary> summaries(std::span<const std::string> run_ids);
  /// Full ids of the runs whose id starts with `prefix` or whose name is `prefix`.
  std::vector<std::string> find(const std::string& prefix);
  std::optional<std::string> config(const std::string& run_id);

  /// Failed runs go back to pending and keep their checkpoints. Returns how many.
  int64_t retry_failed(std::span<const std::string> run_ids);
  /// Forgets everything computed: metrics, evaluations, checkpoints. Runs under a live lease are left alone.
  /// Returns how many runs were reset.
  int64_t reset(std::span<const std::string> run_ids);
  /// Removes the runs, their rows and files. Throws StoreError (code 5, busy) when one is under a live lease.
  int64_t remove(std::span<const std::string> run_ids);

  // ---- work

  /// Begins an execution and returns its number.
  int64_t begin_execution(const ExecutionRecord& record);
  void end_execution(int64_t execution, const std::string& reason, int64_t peak_memory_bytes);

  /// Unfinished runs that have steps from another backend, device model or build: run_id -> where they were computed.
  std::map<std::string, Origin> computed_elsewhere(std::span<const std::string> run_ids,
                                                   const Origin& here);

  /// The order in which claim() looks for work.
  void select_work(std::span<const std::string> run_ids);
  /// Takes up to `max_members` runs of one shape at one checkpoint step, the first possible ones in select_work()'s
  /// order, in one transaction. Left out: runs computed elsewhere, and runs whose train.init_from is not final yet.
  /// Runs whose worker is gone count as pending. Empty = nothing to do now.
  std::vector<ClaimedRun> claim(const std::string& owner, const Origin& here, int max_members,
                                double lease_seconds = kLeaseSeconds);
  /// How many runs of select_work() have each status; statuses without runs are left out.
  std::map<std::string, int64_t> work_by_status();

  /// Files first, then one transaction for all members, then superseded files are deleted. Renews the lease; final runs
  /// give it back. Throws LeaseLost, with nothing changed, when a member is no longer held by `owner`.
  void commit(const std::string& owner, int64_t execution, std::span<const MemberCommit> members,
              double lease_seconds = kLeaseSeconds);
  /// Gives runs back as pending; those of other owners are left alone.
  void release(const std::string& owner, std::span<const std::string> run_ids);
  void fail(const std::string& owner, std::span<const std::string> run_ids,
            const std::string& error);

  /// Deletes files that no row refers to, unless they may belong to a worker that lives: only files of runs that nobody
  /// holds are touched, and none can be claimed meanwhile. Returns how many were deleted.
  int64_t sweep_orphans();

  // ---- results

  std::vector<EvaluationRecord> evaluations(const std::string& run_id,
                                            const std::string& split);  ///< no curves
  std::optional<CheckpointRecord> checkpoint(const std::string& run_id, const std::string& kind);
  /// Bytes of a checkpoint, checked against its SHA-256.
  std::string read_checkpoint(const CheckpointRecord& record);
  /// Scores asked for after a run had finished. The same evaluation again replaces its row.
  void add_evaluations(const std::string& run_id, std::span<const EvaluationRecord> evaluations);
  /// Replaces the rows of all sources that occur in `records`.
  void set_published(std::span<const PublishedRecord> records);
  void add_verifications(int64_t execution, std::span<const VerificationRecord> records);

 private:
  int64_t row_of(const std::string& run_id);
  int64_t free_dead_leases();  // inside a transaction
  std::vector<std::string> delete_results(int64_t run);
  void insert_evaluation(int64_t run, const EvaluationRecord& evaluation);
  void write_member(const std::string& owner, int64_t execution, const MemberCommit& member,
                    const std::optional<StoredFile>& last, const std::optional<StoredFile>& best,
                    double lease_seconds, std::vector<std::string>& superseded);
  void delete_unreferenced(const std::vector<std::string>& paths);

  Database database_;
};

}  // namespace statelab

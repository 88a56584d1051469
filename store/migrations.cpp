#include "store/migrations.h"

#include <string>

#include "store/failpoint.h"

namespace statelab {

std::span<const std::string_view> migration_steps() {
  static const std::string_view steps[] = {kSchemaSql};
  return steps;
}

int schema_version(Database& database) {
  Statement query(database, "PRAGMA user_version");
  query.step();
  return static_cast<int>(query.integer(0));
}

void migrate(Database& database, std::span<const std::string_view> steps, std::string_view views) {
  const int target = static_cast<int>(steps.size());
  if (schema_version(database) == target) return;
  Transaction transaction(database);
  const int version = schema_version(database);  // again, now that nobody else can change it
  if (version > target) {
    throw StoreError("[" + database.path().string() +
                         "] was written by a newer statelab: schema version " +
                         std::to_string(version) + ", this program knows versions up to " +
                         std::to_string(target),
                     StoreError::kMismatch, StoreError::kMismatch, "PRAGMA user_version");
  }
  if (version == target) return;
  for (int step = version; step < target; ++step)
    database.execute(steps[static_cast<size_t>(step)]);
  database.execute(views);
  database.execute("PRAGMA application_id = " + std::to_string(kApplicationId));
  database.execute("PRAGMA user_version = " + std::to_string(target));
  failpoint("database.before_migration_commit");
  transaction.commit();
  failpoint("database.migrated");
}

}  // namespace statelab

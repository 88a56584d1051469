// From any older schema to the current one. Step i of the list leads from user_version i to i + 1.
#pragma once

#include <span>
#include <string_view>

#include "store/database.h"

namespace statelab {

extern const std::string_view kSchemaSql;  ///< schema.sql, the first step
extern const std::string_view kViewsSql;   ///< views.sql, run again after every migration

/// All steps of this program. Append, never change one that was released.
std::span<const std::string_view> migration_steps();

int schema_version(Database& database);

/// Applies the missing steps and then `views`, in one transaction; of several processes that try at once one does it.
/// Errors: StoreError kMismatch when the database has more steps than the list.
void migrate(Database& database, std::span<const std::string_view> steps, std::string_view views);

}  // namespace statelab

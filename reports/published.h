// Results that others report, beside ours.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "reports/comparison.h"
#include "store/records.h"

namespace statelab {

class RunStore;

/// The rows of all files in published/, which travel inside the program.
const std::vector<PublishedRecord>& published_rows();

/// Rows of one CSV file in the format of published/README.md.
/// Errors: std::invalid_argument with `file` and line: a missing column, a row without source, a
/// value that is no number.
std::vector<PublishedRecord> parse_published(std::string_view csv, const std::string& file);

/// Puts published_rows() into the store, so that a comparison is a join there; rows of these
/// sources that are there are replaced.
/// Errors: StoreError.
void load_published(RunStore& store);

struct PublishedOptions {
  RunFilter filter = {};
  std::string source = {};    ///< part of the source's name; empty: all
  bool other_models = false;  ///< also rows of models that we have no run of
  double threshold = 0.95;    ///< of our metric, for the success rate
  /// Columns with one value in all rows, and marks of all rows, become notes and marks of the heading. For people;
  /// programs want all columns always.
  bool fold = false;
};

/// Our runs grouped by task and model, beside each published row of that task and model that the
/// store holds. Ours is the same statistic at the same lengths as theirs where we have it (best by
/// validation, best, median, mean); every choice in which the protocols differ, or that a paper
/// leaves open, is marked and named in a note. The better value of a row is marked only where
/// nothing differs.
Table compare_published(Database& database, const PublishedOptions& options);

}  // namespace statelab

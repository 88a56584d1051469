#include "reports/run_lookup.h"

#include <fmt/format.h>

#include <algorithm>

#include "reports/run_list.h"

namespace statelab {
namespace {

constexpr size_t kLeastDigits = 4;

bool is_hex(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::string listing(Database& database, const std::vector<std::string>& ids) {
  std::string text;
  for (const std::string& id : ids) {
    const std::vector<Row> rows =
        query(database, "SELECT name, status FROM runs WHERE run_id = ?1", {id});
    text += fmt::format("\n  {}  {}  {}", id.substr(0, kShownIdDigits + 4), text_of(rows.at(0)[0]),
                        text_of(rows.at(0)[1]));
  }
  return text;
}

}  // namespace

std::vector<std::string> run_ids_beginning_with(Database& database, const std::string& text,
                                                size_t limit) {
  std::vector<std::string> ids;
  if (!is_hex(text)) return ids;
  // "g" follows "f": the ids with this beginning are one range of the index.
  for (const Row& row : query(database,
                              "SELECT run_id FROM runs WHERE run_id >= ?1 AND run_id < ?1 || 'g' "
                              "ORDER BY run_id LIMIT ?2",
                              {text, static_cast<int64_t>(limit)})) {
    ids.push_back(text_of(row[0]));
  }
  return ids;
}

std::string find_run(Database& database, const std::string& text) {
  std::vector<std::string> ids;
  if (is_hex(text) && text.size() >= kLeastDigits)
    ids = run_ids_beginning_with(database, text, kListedCandidates + 1);
  if (ids.empty()) {
    for (const Row& row :
         query(database, "SELECT run_id FROM runs WHERE name = ?1 ORDER BY id LIMIT ?2",
               {text, static_cast<int64_t>(kListedCandidates + 1)})) {
      ids.push_back(text_of(row[0]));
    }
  }
  if (ids.size() == 1) return ids.front();
  if (ids.empty()) {
    const bool too_short = is_hex(text) && text.size() < kLeastDigits;
    throw RunLookupError(
        fmt::format(
            "run \"{}\": no run has this name or an id that begins so{}; `statelab ls` lists them",
            text, too_short ? fmt::format(" (an id needs at least {} digits)", kLeastDigits) : ""),
        {});
  }
  const bool more = ids.size() > kListedCandidates;
  if (more) ids.pop_back();
  throw RunLookupError(fmt::format("run \"{}\": {} runs fit, give more digits:{}{}", text,
                                   more ? "more than 10" : fmt::format("{}", ids.size()),
                                   listing(database, ids), more ? "\n  ..." : ""),
                       ids);
}

}  // namespace statelab

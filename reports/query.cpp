#include "reports/query.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "store/database.h"

namespace statelab {
namespace {

void bind_all(Statement& statement, const std::vector<CellValue>& parameters) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const int at = static_cast<int>(i) + 1;
    std::visit(
        [&](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::monostate>) {
            statement.bind_null(at);
          } else {
            statement.bind(at, value);
          }
        },
        parameters[i]);
  }
}

CellValue value_at(const Statement& statement, int column) {
  if (statement.is_null(column)) return {};
  if (statement.is_integer(column)) return statement.integer(column);
  if (statement.is_number(column)) return statement.real(column);
  return statement.text(column);
}

bool is_config_key(const std::string& key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.';
  });
}

}  // namespace

std::vector<Row> query(Database& database, const std::string& sql,
                       const std::vector<CellValue>& parameters) {
  Statement statement(database, sql);
  bind_all(statement, parameters);
  std::vector<Row> rows;
  while (statement.step()) {
    Row& row = rows.emplace_back(static_cast<size_t>(statement.columns()));
    for (int c = 0; c < statement.columns(); ++c)
      row[static_cast<size_t>(c)] = value_at(statement, c);
  }
  return rows;
}

bool is_null(const CellValue& value) { return std::holds_alternative<std::monostate>(value); }

int64_t integer_of(const CellValue& value) {
  const auto* integer = std::get_if<int64_t>(&value);
  return integer ? *integer : 0;
}

double number_of(const CellValue& value) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  return static_cast<double>(integer_of(value));
}

std::string text_of(const CellValue& value) {
  const auto* text = std::get_if<std::string>(&value);
  return text ? *text : std::string();
}

FilterSql filter_sql(const RunFilter& filter) {
  FilterSql sql;
  auto add = [&](const std::string& condition) {
    sql.condition += (sql.condition.empty() ? "" : " AND ") + condition;
  };
  auto parameter = [&](const std::string& text) {
    sql.parameters.emplace_back(text);
    return fmt::format("?{}", sql.parameters.size());
  };
  if (!filter.sweep.empty()) {
    add(
        fmt::format("r.id IN (SELECT sr.run FROM sweeps s JOIN sweep_runs sr ON sr.sweep = s.id "
                    "WHERE s.name = {})",
                    parameter(filter.sweep)));
  }
  if (!filter.task.empty()) add("r.task = " + parameter(filter.task));
  if (!filter.status.empty()) {
    static const std::vector<std::string> kKnown = {"pending", "running", "finished", "diverged",
                                                    "failed"};
    if (std::find(kKnown.begin(), kKnown.end(), filter.status) == kKnown.end()) {
      throw std::invalid_argument(fmt::format("status: must be one of {}, is \"{}\"",
                                              fmt::join(kKnown, ", "), filter.status));
    }
    add("r.status = " + parameter(filter.status));
  }
  for (const auto& [key, value] : filter.where) {
    if (!is_config_key(key)) {
      throw std::invalid_argument(
          fmt::format("where: the key must be letters, digits, \"_\" and \".\" as in "
                      "train.optimizer.lr, is \"{}\"",
                      key));
    }
    add(fmt::format("CAST(r.config ->> '$.{}' AS TEXT) = {}", key, parameter(value)));
  }
  if (!filter.run_ids.empty()) {
    std::string list;
    for (const std::string& id : filter.run_ids) list += (list.empty() ? "" : ", ") + parameter(id);
    add(fmt::format("r.run_id IN ({})", list));
  }
  if (sql.condition.empty()) sql.condition = "1";
  return sql;
}

std::string filter_text(const RunFilter& filter) {
  std::vector<std::string> parts;
  if (!filter.sweep.empty()) parts.push_back("sweep " + filter.sweep);
  if (!filter.task.empty()) parts.push_back("task = " + filter.task);
  if (!filter.status.empty()) parts.push_back("status = " + filter.status);
  for (const auto& [key, value] : filter.where) parts.push_back(key + " = " + value);
  if (!filter.run_ids.empty()) parts.push_back(fmt::format("{} named runs", filter.run_ids.size()));
  return parts.empty() ? "all runs" : fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace statelab

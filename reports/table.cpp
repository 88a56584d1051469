#include "reports/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

#include "reports/utf8.h"

namespace statelab {
namespace {

std::string number_text(double value, int digits) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{:.{}f}", value, digits);
  // "-0.00" says no more than "0.00".
  if (text.front() == '-' && text.find_first_not_of("-0.") == std::string::npos) text.erase(0, 1);
  return text;
}

bool fits(ColumnType type, const CellValue& value) {
  if (std::holds_alternative<std::monostate>(value)) return true;
  switch (type) {
    case ColumnType::kText:
      return std::holds_alternative<std::string>(value);
    case ColumnType::kInteger:
      return std::holds_alternative<int64_t>(value);
    default:
      return std::holds_alternative<double>(value);
  }
}

}  // namespace

std::vector<std::string> split_marks(const std::string& marks) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < marks.size();) {
    const size_t end = std::min(marks.find(',', begin), marks.size());
    parts.push_back(marks.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

void check(const Table& table) {
  auto fail = [&](const std::string& text) {
    throw std::logic_error(fmt::format("table {}: {}", table.key, text));
  };
  std::set<std::string> keys, marks;
  for (const Note& note : table.notes) marks.insert(note.mark);
  auto check_marks = [&](const std::string& text, const std::string& place) {
    for (const std::string& mark : split_marks(text)) {
      if (!marks.count(mark))
        fail(fmt::format("{} has the mark \"{}\", which no note explains", place, mark));
    }
  };
  for (const Column& column : table.columns) {
    if (!keys.insert(column.key).second)
      fail(fmt::format("column key {} occurs twice", column.key));
    check_marks(column.marks, "column " + column.key);
  }
  for (size_t r = 0; r < table.rows.size(); ++r) {
    if (table.rows[r].size() != table.columns.size()) {
      fail(fmt::format("row {} must have {} cells, has {}", r, table.columns.size(),
                       table.rows[r].size()));
    }
    for (size_t c = 0; c < table.columns.size(); ++c) {
      const std::string& key = table.columns[c].key;
      if (!fits(table.columns[c].type, table.rows[r][c].value)) {
        fail(fmt::format("row {}, column {}: the value's type is not the column's", r, key));
      }
      check_marks(table.rows[r][c].marks, fmt::format("row {}, column {}", r, key));
    }
  }
}

std::string note_mark(Table& table, const std::string& text) {
  int marked = 0;
  for (const Note& note : table.notes) {
    if (note.mark.empty()) continue;
    if (note.text == text) return note.mark;
    ++marked;
  }
  std::string mark;
  for (int n = marked; n >= 0; n = n / 26 - 1)
    mark.insert(mark.begin(), static_cast<char>('a' + n % 26));
  table.notes.push_back({mark, text});
  return mark;
}

void add_mark(std::string& marks, const std::string& mark) {
  std::vector<std::string> parts = split_marks(marks);
  if (std::find(parts.begin(), parts.end(), mark) != parts.end()) return;
  if (!marks.empty()) marks += ',';
  marks += mark;
}

std::string cell_text(const Column& column, const Cell& cell) {
  if (std::holds_alternative<std::monostate>(cell.value)) return "–";
  if (const auto* text = std::get_if<std::string>(&cell.value)) return without_controls(*text);
  if (const auto* integer = std::get_if<int64_t>(&cell.value)) return fmt::format("{}", *integer);
  const double factor = column.type == ColumnType::kPercent ? 100 : 1;
  auto shown = [&](double value) { return number_text(value * factor, column.digits); };
  std::string text = shown(std::get<double>(cell.value));
  if (column.extra == Extra::kPlusMinus && !std::isnan(cell.spread))
    text += " ± " + shown(cell.spread);
  if (column.extra == Extra::kInterval)
    text += fmt::format(" [{}, {}]", shown(cell.low), shown(cell.high));
  return text;
}

std::string heading(const Column& column) {
  const std::string unit = column.type == ColumnType::kPercent ? "%" : column.unit;
  return without_controls(unit.empty() ? column.title : fmt::format("{} [{}]", column.title, unit));
}

std::string without_controls(const std::string& text) {
  std::string clean;
  for (char32_t c : decode_utf8(text)) {
    const bool control = c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
                         (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
    append_utf8(clean, control ? char32_t{0xfffd} : c);
  }
  return clean;
}

int display_width(const std::string& text) {
  int width = 0;
  for (char32_t c : decode_utf8(text)) width += character_width(c);
  return width;
}

}  // namespace statelab

#include "reports/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

namespace statelab {
namespace {

bool right_aligned(const Column& column) {
  return column.align == Align::kRight ||
         (column.align == Align::kByType && column.type != ColumnType::kText);
}

bool has_blocks(const Table& table) {
  return std::any_of(table.columns.begin(), table.columns.end(),
                     [](const Column& c) { return !c.block.empty(); });
}

// Neighbouring columns of one block: [first, first + count).
struct Block {
  std::string name;
  size_t first = 0, count = 0;
};
std::vector<Block> blocks_of(const Table& table) {
  std::vector<Block> blocks;
  for (size_t c = 0; c < table.columns.size(); ++c) {
    if (blocks.empty() || blocks.back().name != table.columns[c].block) {
      blocks.push_back({table.columns[c].block, c, 0});
    }
    ++blocks.back().count;
  }
  return blocks;
}

std::string marked(const std::string& text, const std::string& marks) {
  return marks.empty() ? text : fmt::format("{} ({})", text, marks);
}

std::string padded(const std::string& text, int width, bool right) {
  const std::string space(static_cast<size_t>(std::max(0, width - display_width(text))), ' ');
  return right ? space + text : text + space;
}

void strip_trailing_spaces(std::string& line) { line.erase(line.find_last_not_of(' ') + 1); }

std::string shortest(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return {buffer, end};
}

std::string csv_value(const CellValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return escape_csv(*text);
  if (const auto* integer = std::get_if<int64_t>(&value)) return fmt::format("{}", *integer);
  if (const auto* number = std::get_if<double>(&value)) return shortest(*number);
  return "";
}

bool empty(const Cell& cell) { return std::holds_alternative<std::monostate>(cell.value); }

const char* type_name(ColumnType type) {
  switch (type) {
    case ColumnType::kText:
      return "text";
    case ColumnType::kInteger:
      return "integer";
    case ColumnType::kNumber:
      return "number";
    case ColumnType::kPercent:
      return "fraction";
  }
  return "";
}

}  // namespace

std::string render_text(const Table& table, bool colour) {
  check(table);
  const size_t n = table.columns.size();
  std::vector<int> widths(n);
  std::vector<std::string> headings(n);
  std::vector<std::vector<std::string>> texts;
  for (size_t c = 0; c < n; ++c) {
    headings[c] = marked(heading(table.columns[c]), table.columns[c].marks);
    widths[c] = display_width(headings[c]);
  }
  for (const auto& row : table.rows) {
    auto& line = texts.emplace_back();
    for (size_t c = 0; c < n; ++c) {
      std::string text = cell_text(table.columns[c], row[c]);
      if (row[c].best) text += '*';
      line.push_back(marked(text, row[c].marks));
      widths[c] = std::max(widths[c], display_width(line.back()));
    }
  }
  const std::vector<Block> blocks = blocks_of(table);
  for (const Block& block : blocks) {  // a block's name must fit over its columns
    int width = 2 * (static_cast<int>(block.count) - 1);
    for (size_t c = block.first; c < block.first + block.count; ++c) width += widths[c];
    widths[block.first + block.count - 1] += std::max(0, display_width(block.name) - width);
  }

  const char* bold = colour ? "\x1b[1m" : "";
  const char* dim = colour ? "\x1b[2m" : "";
  const char* plain = colour ? "\x1b[0m" : "";
  std::string out;
  if (!table.title.empty())
    out += fmt::format("{}{}{}\n", bold, without_controls(table.title), plain);
  if (has_blocks(table)) {
    std::string line;
    for (const Block& block : blocks) {
      int width = 2 * (static_cast<int>(block.count) - 1);
      for (size_t c = block.first; c < block.first + block.count; ++c) width += widths[c];
      line += padded(without_controls(block.name), width, false) + "  ";
    }
    strip_trailing_spaces(line);
    out += fmt::format("{}{}{}\n", dim, line, plain);
  }
  std::string line, rule;
  for (size_t c = 0; c < n; ++c) {
    line +=
        padded(headings[c], widths[c], right_aligned(table.columns[c])) + (c + 1 < n ? "  " : "");
    for (int i = 0; i < widths[c]; ++i) rule += "─";
    if (c + 1 < n) rule += "  ";
  }
  strip_trailing_spaces(line);
  out += fmt::format("{}{}{}\n{}{}{}\n", bold, line, plain, dim, rule, plain);
  for (size_t r = 0; r < texts.size(); ++r) {
    line.clear();
    for (size_t c = 0; c < n; ++c) {
      std::string text = padded(texts[r][c], widths[c], right_aligned(table.columns[c]));
      if (colour && table.rows[r][c].best) text = bold + text + plain;
      line += text + (c + 1 < n ? "  " : "");
    }
    strip_trailing_spaces(line);
    out += line + '\n';
  }
  if (table.rows.empty()) out += "(none)\n";
  for (const Note& note : table.notes) {
    const std::string text = without_controls(note.text);
    out += fmt::format("{}{}{}\n", dim,
                       note.mark.empty() ? text : fmt::format("({}) {}", note.mark, text), plain);
  }
  return out;
}

std::string escape_markdown(const std::string& text) {
  std::string out;
  for (char c : without_controls(text)) {
    if (std::string_view("\\|*_`<>[]~#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string render_markdown(const Table& table) {
  check(table);
  std::string out;
  if (!table.title.empty()) out += fmt::format("**{}**\n\n", escape_markdown(table.title));
  std::string rule;
  for (const Column& column : table.columns) {
    std::string title = heading(column);
    if (!column.block.empty()) title = fmt::format("{}: {}", column.block, title);
    out += fmt::format("| {} ", escape_markdown(marked(title, column.marks)));
    rule += right_aligned(column) ? "| ---: " : "| :--- ";
  }
  out += fmt::format("|\n{}|\n", rule);
  for (const auto& row : table.rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      std::string text = escape_markdown(cell_text(table.columns[c], row[c]));
      if (row[c].best) text = fmt::format("**{}**", text);
      out += fmt::format("| {} ", marked(text, row[c].marks));
    }
    out += "|\n";
  }
  if (!table.notes.empty()) out += '\n';
  for (const Note& note : table.notes) {
    const std::string text = escape_markdown(note.text);
    out += note.mark.empty() ? fmt::format("- {}\n", text)
                             : fmt::format("- ({}) {}\n", note.mark, text);
  }
  return out;
}

std::string escape_html(const std::string& text) {
  std::string out;
  for (char c : without_controls(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string render_html(const Table& table) {
  check(table);
  std::string out = fmt::format("<table id=\"{}\">\n<caption>{}</caption>\n<thead>\n",
                                escape_html(table.key), escape_html(table.title));
  if (has_blocks(table)) {
    out += "<tr>";
    for (const Block& block : blocks_of(table)) {
      out += fmt::format("<th colspan=\"{}\" scope=\"colgroup\">{}</th>", block.count,
                         escape_html(block.name));
    }
    out += "</tr>\n";
  }
  auto sup = [](const std::string& marks) {
    return marks.empty() ? "" : fmt::format("<sup>{}</sup>", escape_html(marks));
  };
  out += "<tr>";
  for (const Column& column : table.columns) {
    out += fmt::format("<th scope=\"col\"{}>{}{}</th>", right_aligned(column) ? " class=\"r\"" : "",
                       escape_html(heading(column)), sup(column.marks));
  }
  out += "</tr>\n</thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    out += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) {
      std::string text = escape_html(cell_text(table.columns[c], row[c]));
      if (row[c].best) text = fmt::format("<strong>{}</strong>", text);
      out += fmt::format("<td{}>{}{}</td>", right_aligned(table.columns[c]) ? " class=\"r\"" : "",
                         text, sup(row[c].marks));
    }
    out += "</tr>\n";
  }
  out += "</tbody>\n</table>\n";
  if (!table.notes.empty()) {
    out += "<ul class=\"notes\">\n";
    for (const Note& note : table.notes) {
      out += fmt::format("<li>{}{}</li>\n",
                         note.mark.empty() ? "" : fmt::format("<sup>{}</sup> ", note.mark),
                         escape_html(note.text));
    }
    out += "</ul>\n";
  }
  return out;
}

std::string escape_csv(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string render_csv(const Table& table) {
  check(table);
  bool any_marks = false;
  for (const auto& row : table.rows) {
    for (const Cell& cell : row) any_marks |= !cell.marks.empty();
  }
  std::string out;
  auto field = [&](const std::string& text) { out += text + ','; };
  auto end_line = [&] { out.back() = '\n'; };
  for (const Column& column : table.columns) {
    field(escape_csv(column.key));
    if (column.extra == Extra::kPlusMinus) field(escape_csv(column.key + "_sd"));
    if (column.extra == Extra::kInterval)
      field(escape_csv(column.key + "_low")), field(escape_csv(column.key + "_high"));
  }
  if (any_marks) field("marks");
  end_line();
  for (const auto& row : table.rows) {
    std::string marks;
    for (size_t c = 0; c < row.size(); ++c) {
      const Cell& cell = row[c];
      const Extra extra = table.columns[c].extra;
      field(csv_value(cell.value));
      if (extra == Extra::kPlusMinus)
        field(empty(cell) || std::isnan(cell.spread) ? "" : shortest(cell.spread));
      if (extra == Extra::kInterval) {
        field(empty(cell) ? "" : shortest(cell.low));
        field(empty(cell) ? "" : shortest(cell.high));
      }
      if (!cell.marks.empty())
        marks += fmt::format("{}{}:{}", marks.empty() ? "" : ";", table.columns[c].key, cell.marks);
    }
    if (any_marks) field(escape_csv(marks));
    end_line();
  }
  return out;
}

std::string render_json(const Table& table) {
  check(table);
  using Json = nlohmann::ordered_json;
  Json columns = Json::array(), rows = Json::array(), notes = Json::array();
  for (const Column& column : table.columns) {
    columns.push_back({{"key", column.key},
                       {"title", column.title},
                       {"unit", column.unit},
                       {"type", type_name(column.type)},
                       {"block", column.block}});
  }
  for (const auto& row : table.rows) {
    Json record = Json::object(), marks = Json::object(), best = Json::array();
    for (size_t c = 0; c < row.size(); ++c) {
      const Cell& cell = row[c];
      const std::string& key = table.columns[c].key;
      Json value = nullptr;
      if (const auto* text = std::get_if<std::string>(&cell.value)) value = *text;
      if (const auto* integer = std::get_if<int64_t>(&cell.value)) value = *integer;
      if (const auto* number = std::get_if<double>(&cell.value)) {
        if (std::isfinite(*number)) value = *number;
      }
      record[key] = std::move(value);
      auto extra = [&](const char* suffix, double number) {
        record[key + suffix] = empty(cell) || std::isnan(number) ? Json(nullptr) : Json(number);
      };
      if (table.columns[c].extra == Extra::kPlusMinus) extra("_sd", cell.spread);
      if (table.columns[c].extra == Extra::kInterval)
        extra("_low", cell.low), extra("_high", cell.high);
      if (!cell.marks.empty()) marks[key] = cell.marks;
      if (cell.best) best.push_back(key);
    }
    if (!marks.empty()) record["marks"] = std::move(marks);
    if (!best.empty()) record["best"] = std::move(best);
    rows.push_back(std::move(record));
  }
  for (const Note& note : table.notes) notes.push_back({{"mark", note.mark}, {"text", note.text}});
  const Json document = {{"key", table.key},
                         {"title", table.title},
                         {"columns", columns},
                         {"rows", rows},
                         {"notes", notes}};
  return document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace statelab

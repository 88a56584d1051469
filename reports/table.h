// One table for every output format. Queries fill a Table; render_*() prints it and knows nothing
// of runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace statelab {

enum class ColumnType {
  kText,     ///< left aligned
  kInteger,  ///< right aligned
  kNumber,   ///< right aligned, `digits` after the point
  /// A fraction: shown times 100 with `digits` after the point; CSV and JSON keep the fraction.
  kPercent,
};

enum class Align { kByType, kLeft, kRight };

/// What a cell says beside its value; also the extra columns it makes in CSV and JSON.
enum class Extra {
  kNone,
  kPlusMinus,  ///< "value ± spread"; extra key KEY_sd
  kInterval,   ///< "value [low, high]"; extra keys KEY_low, KEY_high
};

struct Column {
  std::string key = {};    ///< stable name for CSV and JSON, [a-z0-9_.]+, unique in the table
  std::string title = {};  ///< for people
  ColumnType type = ColumnType::kText;
  std::string unit = {};   ///< shown in the heading in brackets; kPercent shows "%" by itself
  int digits = 2;          ///< after the point, kNumber and kPercent
  std::string block = {};  ///< neighbouring columns of one block share a heading, e.g. "length 256"
  Extra extra = Extra::kNone;
  Align align = Align::kByType;
  std::string marks = {};  ///< marks of notes that concern the whole column, e.g. "a,c"
};

/// monostate = not known or not applicable: "–" in text, empty in CSV, null in JSON.
using CellValue = std::variant<std::monostate, std::string, int64_t, double>;

struct Cell {
  CellValue value = {};
  double spread = 0;         ///< Extra::kPlusMinus, same unit as the value; NaN = not known
  double low = 0, high = 0;  ///< Extra::kInterval
  bool best = false;         ///< best of its column, among cells that compare
  std::string marks = {};    ///< marks of notes, e.g. "a,b"
};

struct Note {
  std::string mark = {};  ///< "a"; empty: a note on the whole table
  std::string text = {};
};

struct Table {
  std::string key = {};  ///< stable name, also of files: [a-z0-9_-]+
  std::string title = {};
  std::vector<Column> columns = {};
  std::vector<std::vector<Cell>> rows = {};  ///< (rows, columns)
  std::vector<Note> notes = {};
};

/// Broken rules of the model: a row of the wrong width, a doubled key, a value whose type is not
/// the column's, a mark without note. Renderers call it. Throws std::logic_error that names table,
/// row and column.
void check(const Table& table);

/// Adds the note unless one with this text is there; returns its mark ("a", "b", ..., "z", "aa",
/// ...).
std::string note_mark(Table& table, const std::string& text);
/// "a,b" = {"a", "b"}.
std::vector<std::string> split_marks(const std::string& marks);
/// "a" + "b" = "a,b"; a mark is listed once.
void add_mark(std::string& marks, const std::string& mark);

/// One cell as people read it, without marks; "–" for nothing. Control characters are shown as
/// U+FFFD.
std::string cell_text(const Column& column, const Cell& cell);
/// Title with unit, e.g. "median [%]".
std::string heading(const Column& column);

/// Text without characters that steer a terminal or break a line.
std::string without_controls(const std::string& text);
/// Columns that UTF-8 text takes on a terminal: 0 for combining marks, 2 for East Asian wide
/// characters.
int display_width(const std::string& text);

}  // namespace statelab

// A Table as text for people, papers and programs. All functions are pure and check() the table
// first.
#pragma once

#include <string>

#include "reports/table.h"

namespace statelab {

/// For a terminal: aligned by display width, best values followed by "*" (bold as well where
/// `colour` is set).
std::string render_text(const Table& table, bool colour = false);

/// GitHub's tables: best values bold, block names put before the column titles.
std::string render_markdown(const Table& table);

/// A `table` float with booktabs rules, scaled down where it is wider than the line.
/// Needs \usepackage{booktabs,graphicx}; latex_document() has them. Text is escaped; characters
/// outside Latin script without a TeX equivalent are written as [U+XXXX], since pdfTeX has no
/// glyph for them.
std::string render_latex(const Table& table);

/// RFC 4180 with a header line of column keys; fractions stay fractions, numbers have their
/// shortest exact form, marks are in a last column "marks" ("key:a;key:b,c") where any cell has
/// one. Notes are not part of it.
std::string render_csv(const Table& table);

/// {"key", "title", "columns": [{"key", "title", "unit", "type", "block"}], "rows": [{KEY: value,
/// ...}],
///  "notes": [{"mark", "text"}]}; a row's marks and best cells are in "marks": {KEY: "a"} and
///  "best": [KEY].
/// Percent columns hold fractions. One line.
std::string render_json(const Table& table);

/// <table> with a caption and its notes, for the page of html_page.h.
std::string render_html(const Table& table);

std::string escape_markdown(const std::string& text);
std::string escape_latex(const std::string& text);
std::string escape_html(const std::string& text);
/// One field, quoted where it has to be. Text that a spreadsheet would run as a formula is not
/// changed.
std::string escape_csv(const std::string& text);

/// A whole LaTeX document around tables and figures, with every package that they use.
std::string latex_document(const std::string& body);

}  // namespace statelab

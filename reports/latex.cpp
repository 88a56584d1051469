// The LaTeX side of render.h: escaping, booktabs tables and the document around them.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "reports/render.h"
#include "reports/utf8.h"

namespace statelab {
namespace {

// Characters that TeX reserves, and those of our own reports that pdfTeX has no plain glyph for.
const std::map<char32_t, const char*>& tex_characters() {
  static const std::map<char32_t, const char*> table = {
      {U'\\', "\\textbackslash{}"},
      {U'&', "\\&"},
      {U'%', "\\%"},
      {U'$', "\\$"},
      {U'#', "\\#"},
      {U'_', "\\_"},
      {U'{', "\\{"},
      {U'}', "\\}"},
      {U'~', "\\textasciitilde{}"},
      {U'^', "\\textasciicircum{}"},
      {U'<', "\\textless{}"},
      {U'>', "\\textgreater{}"},
      {U'|', "\\textbar{}"},
      {U'"', "\\textquotedbl{}"},
      {U'[', "{[}"},
      {U']', "{]}"},  // else read as an option after a line end
      {0x2013, "--"},
      {0x2014, "---"},
      {0x2212, "$-$"},
      {0xb1, "$\\pm$"},
      {0xd7, "$\\times$"},
      {0xb7, "$\\cdot$"},
      {0x2264, "$\\le$"},
      {0x2265, "$\\ge$"},
      {0x2260, "$\\neq$"},
      {0x2192, "$\\to$"},
      {0x2026, "\\dots{}"},
      {0x2248, "$\\approx$"},
      {0xfffd, "?"},
      {0xa0, "~"}};
  return table;
}

std::string latex_marks(const std::string& marks) {
  return marks.empty() ? "" : fmt::format("\\textsuperscript{{{}}}", escape_latex(marks));
}

}  // namespace

std::string escape_latex(const std::string& text) {
  std::string out;
  for (char32_t c : decode_utf8(without_controls(text))) {
    const auto known = tex_characters().find(c);
    if (known != tex_characters().end()) {
      out += known->second;
    } else if (c < 0x180) {
      append_utf8(out, c);
    } else {
      out += fmt::format("{{[}}U+{:04X}{{]}}", static_cast<uint32_t>(c));
    }
  }
  return out;
}

std::string render_latex(const Table& table) {
  check(table);
  std::string columns, blocks, rules, headings;
  size_t first = 0;
  for (size_t c = 0; c < table.columns.size(); ++c) {
    const Column& column = table.columns[c];
    const bool right = column.align == Align::kRight ||
                       (column.align == Align::kByType && column.type != ColumnType::kText);
    columns += right ? 'r' : 'l';
    headings += fmt::format("{}{}{}", c ? " & " : "", escape_latex(heading(column)),
                            latex_marks(column.marks));
    if (c + 1 == table.columns.size() || table.columns[c + 1].block != column.block) {
      blocks += fmt::format("{}\\multicolumn{{{}}}{{c}}{{{}}}", first ? " & " : "", c + 1 - first,
                            escape_latex(column.block));
      if (!column.block.empty()) rules += fmt::format("\\cmidrule(lr){{{}-{}}}", first + 1, c + 1);
      first = c + 1;
    }
  }
  std::string out = fmt::format("\\begin{{table}}[htbp]\n\\centering\n\\caption{{{}}}\n",
                                escape_latex(table.title));
  out += "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n";
  out += fmt::format("\\begin{{tabular}}{{{}}}\n\\toprule\n", columns);
  if (!rules.empty()) out += fmt::format("{} \\\\\n{}\n", blocks, rules);
  out += fmt::format("{} \\\\\n\\midrule\n", headings);
  for (const auto& row : table.rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      std::string text = escape_latex(cell_text(table.columns[c], row[c]));
      if (row[c].best) text = fmt::format("\\textbf{{{}}}", text);
      out += (c ? " & " : "") + text + latex_marks(row[c].marks);
    }
    out += " \\\\\n";
  }
  out += "\\bottomrule\n\\end{tabular}}\n";
  if (!table.notes.empty())
    out += "\n\\smallskip\n\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright\n";
  for (const Note& note : table.notes) {
    if (!note.mark.empty()) out += latex_marks(note.mark) + ' ';
    out += escape_latex(note.text) + "\\par\n";
  }
  if (!table.notes.empty()) out += "\\end{minipage}\n";
  return out + "\\end{table}\n";
}

std::string latex_document(const std::string& body) {
  return "\\documentclass[10pt]{article}\n"
         "\\usepackage[T1]{fontenc}\n"
         "\\usepackage[utf8]{inputenc}\n"
         "\\usepackage[a4paper,landscape,margin=15mm]{geometry}\n"
         "\\usepackage{booktabs,graphicx,pgfplots}\n"
         "\\pgfplotsset{compat=1.14}\n"
         "\\usepgfplotslibrary{fillbetween}\n"
         "\\begin{document}\n" +
         body + "\\end{document}\n";
}

}  // namespace statelab

#include "reports/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "reports/render.h"

namespace statelab {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

// Every type of column and every kind of cell.
Table sample() {
  Table t{.key = "sample",
          .title = "50 % of A & B",
          .columns = {{.key = "name", .title = "name"},
                      {.key = "n", .title = "n", .type = ColumnType::kInteger},
                      {.key = "mean",
                       .title = "mean ± sd",
                       .type = ColumnType::kPercent,
                       .digits = 1,
                       .block = "length 80",
                       .extra = Extra::kPlusMinus},
                      {.key = "rate",
                       .title = "rate",
                       .type = ColumnType::kPercent,
                       .digits = 0,
                       .block = "length 80",
                       .extra = Extra::kInterval},
                      {.key = "wall", .title = "wall", .type = ColumnType::kNumber, .unit = "s"}},
          .rows = {},
          .notes = {}};
  const std::string mark = note_mark(t, "only 1 run");
  t.rows.push_back({{.value = std::string("naïve_|x|")},
                    {.value = int64_t{3}, .marks = mark},
                    {.value = 0.975, .spread = 0.0125, .best = true},
                    {.value = 1.0, .low = 0.4385, .high = 1.0},
                    {.value = 12.345}});
  t.rows.push_back({{.value = std::string("b")}, {.value = int64_t{1}}, {}, {}, {.value = -0.001}});
  return t;
}

TEST(TerminalTable, AlignsByDisplayWidthAndMarksTheBest) {
  EXPECT_EQ(render_text(sample()),
            "50 % of A & B\n"
            "                  length 80\n"
            "name           n  mean ± sd [%]       rate [%]  wall [s]\n"
            "─────────  ─────  ─────────────  ─────────────  ────────\n"
            "naïve_|x|  3 (a)    97.5 ± 1.2*  100 [44, 100]     12.35\n"
            "b              1              –              –      0.00\n"
            "(a) only 1 run\n");
}

TEST(TerminalTable, ColoursOnlyWhenAsked) {
  EXPECT_THAT(render_text(sample()), Not(HasSubstr("\x1b")));
  EXPECT_THAT(render_text(sample(), true), HasSubstr("\x1b[1m"));
}

TEST(TerminalTable, NeutralisesControlCharactersFromNames) {
  Table t = sample();
  t.rows[0][0].value = std::string("evil\x1b[2Jname\n");
  EXPECT_THAT(render_text(t), Not(HasSubstr("\x1b")));
  EXPECT_THAT(render_text(t), HasSubstr("evil\uFFFD[2Jname\uFFFD"));
}

TEST(DisplayWidth, CountsCombiningAndWideCharacters) {
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("± 1.2"), 5);
  EXPECT_EQ(display_width("e\u0301"), 1);
  EXPECT_EQ(display_width("状態"), 4);
  EXPECT_EQ(display_width("\xff"), 1);  // an invalid byte is shown as one character
}

TEST(MarkdownTable, EscapesAndKeepsBlockNames) {
  const std::string md = render_markdown(sample());
  EXPECT_THAT(
      md, HasSubstr("| naïve\\_\\|x\\| | 3 (a) | **97.5 ± 1.2** | 100 \\[44, 100\\] | 12.35 |"));
  EXPECT_THAT(md, HasSubstr("| length 80: mean ± sd \\[%\\] "));
  EXPECT_THAT(md, HasSubstr("- (a) only 1 run"));
}

TEST(LatexTable, EscapesEverythingThatTexReserves) {
  EXPECT_EQ(escape_latex("a_b & 50 % #1 $x$ {y} ~ ^ \\ < > |"),
            "a\\_b \\& 50 \\% \\#1 \\$x\\$ \\{y\\} \\textasciitilde{} \\textasciicircum{} "
            "\\textbackslash{} \\textless{} "
            "\\textgreater{} \\textbar{}");
  EXPECT_EQ(escape_latex("1 ± 2 – é 状"), "1 $\\pm$ 2 -- é {[}U+72B6{]}");
}

TEST(LatexTable, UsesBooktabsWithOneHeadingPerBlock) {
  const std::string tex = render_latex(sample());
  for (const char* part :
       {"\\toprule", "\\midrule", "\\bottomrule", "\\multicolumn{2}{c}{length 80}",
        "\\cmidrule(lr){3-4}", "\\textbf{97.5 $\\pm$ 1.2}", "3\\textsuperscript{a}",
        "\\begin{tabular}{lrrrr}"}) {
    EXPECT_THAT(tex, HasSubstr(part));
  }
}

TEST(CsvTable, KeepsFractionsAndSplitsSpreads) {
  EXPECT_EQ(render_csv(sample()),
            "name,n,mean,mean_sd,rate,rate_low,rate_high,wall,marks\n"
            "naïve_|x|,3,0.975,0.0125,1,0.4385,1,12.345,n:a\n"
            "b,1,,,,,,-0.001,\n");
}

TEST(CsvTable, QuotesCommasQuotesAndLineEnds) {
  EXPECT_EQ(escape_csv("a,b"), "\"a,b\"");
  EXPECT_EQ(escape_csv("say \"x\"\n"), "\"say \"\"x\"\"\n\"");
  EXPECT_EQ(escape_csv("[0,1]"), "\"[0,1]\"");
}

TEST(JsonTable, IsOneDocumentWithStableKeys) {
  const auto json = nlohmann::json::parse(render_json(sample()));
  EXPECT_EQ(json["columns"][2]["type"], "fraction");
  EXPECT_EQ(json["rows"][0]["mean"], 0.975);
  EXPECT_EQ(json["rows"][0]["mean_sd"], 0.0125);
  EXPECT_EQ(json["rows"][0]["rate_low"], 0.4385);
  EXPECT_EQ(json["rows"][0]["marks"]["n"], "a");
  EXPECT_EQ(json["rows"][0]["best"][0], "mean");
  EXPECT_TRUE(json["rows"][1]["mean"].is_null());
  EXPECT_EQ(json["notes"][0]["text"], "only 1 run");
}

TEST(HtmlTable, EscapesText) {
  Table t = sample();
  t.rows[0][0].value = std::string("<script>alert('x')</script>");
  EXPECT_THAT(render_html(t), HasSubstr("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
  EXPECT_THAT(render_html(t), Not(HasSubstr("<script")));
}

TEST(TableCheck, NamesTableRowAndColumnOfAMistake) {
  Table wide = sample();
  wide.rows[1].pop_back();
  EXPECT_THAT([&] { check(wide); }, ThrowsMessage<std::logic_error>(
                                        HasSubstr("table sample: row 1 must have 5 cells, has 4")));
  Table type = sample();
  type.rows[0][1].value = 0.5;
  EXPECT_THAT([&] { check(type); }, ThrowsMessage<std::logic_error>(HasSubstr("row 0, column n")));
  Table mark = sample();
  mark.rows[0][0].marks = "z";
  EXPECT_THAT([&] { render_csv(mark); },
              ThrowsMessage<std::logic_error>(HasSubstr("which no note explains")));
}

TEST(Notes, OneTextHasOneMarkAndMarksGoOnAfterZ) {
  Table t;
  EXPECT_EQ(note_mark(t, "x"), "a");
  EXPECT_EQ(note_mark(t, "y"), "b");
  EXPECT_EQ(note_mark(t, "x"), "a");
  for (int i = 0; i < 24; ++i) note_mark(t, "note " + std::to_string(i));
  EXPECT_EQ(note_mark(t, "the 27th"), "aa");
  std::string marks = "a";
  add_mark(marks, "b");
  add_mark(marks, "a");
  EXPECT_EQ(marks, "a,b");
}

}  // namespace
}  // namespace statelab

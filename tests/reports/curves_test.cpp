#include "reports/curves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "reports/statistics.h"
#include "tests/reports/sample_lab.h"

namespace statelab {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

std::vector<Figure> sample_figures(SampleLab& lab) {
  lab.add("s", {{.seed = 0, .test = {{40, 1000}, {80, 600}}},
                {.seed = 1, .test = {{40, 900}, {80, 700}}},
                {.seed = 2, .test = {{40, 950}, {80, 900}}},
                {.mixer = "mamba2", .test = {{40, 500}, {80, 510}}}});
  return curves(lab.database(), {});
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Curves, DrawTheMedianWithTheRangeOfTheRuns) {
  SampleLab lab;
  const std::vector<Figure> figures = sample_figures(lab);
  ASSERT_THAT(figures, SizeIs(1));
  ASSERT_THAT(figures[0].series, SizeIs(2));
  const FigurePoint& p = figures[0].series[0].points.at(1);
  EXPECT_EQ(p.x, 80);
  EXPECT_DOUBLE_EQ(p.y, 0.7);
  EXPECT_DOUBLE_EQ(p.low, 0.6);
  EXPECT_DOUBLE_EQ(p.high, 0.9);
  EXPECT_EQ(p.n, 3);
  EXPECT_EQ(figures[0].trained_to, 40.0);
}

TEST(Curves, DrawChanceAndTheBestUselessModel) {
  SampleLab lab;
  const Figure figure = sample_figures(lab).at(0);
  ASSERT_THAT(figure.references, SizeIs(2));
  EXPECT_DOUBLE_EQ(figure.references[0].y, 0.5);
  EXPECT_DOUBLE_EQ(figure.references[1].y, expected_best_of(3, 0.5, kSampleAnswers));
}

TEST(Curves, OneFigurePerTask) {
  SampleLab lab;
  lab.add("s", {{.test = {{40, 500}}}, {.test = {{40, 500}}, .task = "even_pairs"}});
  EXPECT_THAT(curves(lab.database(), {}), SizeIs(2));
  EXPECT_THAT(curves(lab.database(), {.group_by = {"model"}}), SizeIs(2));
}

TEST(Curves, SayWhenOnlyTheBestGroupsAreDrawn) {
  SampleLab lab;
  std::vector<SampleRun> runs;
  for (int i = 1; i <= 5; ++i) runs.push_back({.lr = i * 0.001, .test = {{40, 500 + i}}});
  lab.add("s", runs);
  const Figure figure = curves(lab.database(), {.most_series = 2}).at(0);
  ASSERT_THAT(figure.series, SizeIs(2));
  EXPECT_EQ(figure.series[0].label, "lr 0.005");
  EXPECT_THAT(figure.title, HasSubstr("(the 2 best of 5 groups at the longest length)"));
}

TEST(SvgFigure, HasOneLinePerSeriesBandsAndReferences) {
  SampleLab lab;
  const std::string svg = render_svg(sample_figures(lab).at(0));
  EXPECT_EQ(count(svg, "class=\"series\""), 2u);
  EXPECT_EQ(count(svg, "class=\"band\""), 2u);
  EXPECT_EQ(count(svg, "class=\"reference\""), 2u);
  EXPECT_EQ(count(svg, "class=\"trained\""), 1u);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("<script")));
}

TEST(SvgFigure, PlacesValuesOnItsAxes) {
  Figure figure;
  figure.series = {{"s", {{1, 0, 0, 0, 1}, {4, 1, 1, 1, 1}}}};
  const std::string svg = render_svg(figure);
  // 0 % at the bottom, 100 % at the top; the two lengths an equal margin inside the box of 60..560.
  EXPECT_THAT(svg, HasSubstr("points=\"85.0,348.0 535.0,34.0 \""));
}

TEST(SvgFigure, GrowsWiderWithItsLongestLabel) {
  const auto width = [](const std::string& label) {
    Figure figure;
    figure.series.emplace_back().label = label;
    const std::string svg = render_svg(figure);
    const size_t at = svg.find(" width=\"") + 8;
    return std::stod(svg.substr(at));
  };
  EXPECT_EQ(width("short"), 820);
  EXPECT_GE(width(std::string(60, 'm')), width(std::string(30, 'm')) + 30 * 6);
}

TEST(SvgFigure, EscapesLabels) {
  Figure figure;
  figure.series = {{"<b>&", {{2, 0.5, 0.5, 0.5, 1}}}};
  EXPECT_THAT(render_svg(figure), HasSubstr("&lt;b&gt;&amp;"));
}

TEST(VegaLiteFigure, HoldsTheDataAndNamesEverySeries) {
  SampleLab lab;
  const auto spec = nlohmann::json::parse(render_vega_lite(sample_figures(lab).at(0)));
  EXPECT_EQ(spec["data"]["values"].size(), 4u);
  EXPECT_EQ(spec["data"]["values"][1]["y"], 0.7);
  EXPECT_THAT(spec["$schema"].get<std::string>(), HasSubstr("vega-lite/v6"));
  for (const auto& layer : spec["layer"])
    EXPECT_TRUE(layer.contains("mark") && layer.contains("encoding"));
}

TEST(FigureCsv, HasOneLinePerPoint) {
  SampleLab lab;
  const std::string csv = render_figure_csv(sample_figures(lab).at(0));
  EXPECT_EQ(count(csv, "\n"), 5u);
  EXPECT_THAT(csv, HasSubstr(",80,0.7,0.6,0.9,3\n"));
}

TEST(Curves, RefuseKeysThatNoRunHas) {
  SampleLab lab;
  lab.add("s", {{.test = {{40, 1000}, {80, 500}}}});
  EXPECT_THROW(curves(lab.database(), {.group_by = {"nonsense"}}), std::invalid_argument);
}

}  // namespace
}  // namespace statelab

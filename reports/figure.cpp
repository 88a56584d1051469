#include "reports/figure.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "reports/render.h"

namespace statelab {
namespace {

// Okabe and Ito's colours that keep apart for all common kinds of colour vision; black and yellow
// left out, since they vanish on dark and on white pages.
constexpr const char* kColours[] = {"#0072B2", "#D55E00", "#009E73",
                                    "#CC79A7", "#E69F00", "#56B4E9"};
constexpr const char* kMarkers[] = {"circle",      "square",        "diamond",
                                    "triangle-up", "triangle-down", "cross"};
constexpr const char* kPgfMarkers[] = {
    "*", "square*", "diamond*", "triangle*", "triangle*,mark options={rotate=180}", "x"};

bool has_band(const Series& series) {
  return std::any_of(series.points.begin(), series.points.end(),
                     [](const FigurePoint& p) { return p.low < p.high; });
}

}  // namespace

const char* series_colour(size_t index) { return kColours[index % std::size(kColours)]; }
const char* series_marker(size_t index) {
  // Where colours repeat, the marker moves on, so that the pair stays its own for 36 series.
  return kMarkers[(index + index / std::size(kColours)) % std::size(kMarkers)];
}

std::string render_figure_csv(const Figure& figure) {
  std::string out = "series,x,y,low,high,n\n";
  for (const Series& series : figure.series) {
    for (const FigurePoint& p : series.points) {
      out += fmt::format("{},{},{},{},{},{}\n", escape_csv(series.label), p.x, p.y, p.low, p.high,
                         p.n);
    }
  }
  return out;
}

std::string render_vega_lite(const Figure& figure) {
  using Json = nlohmann::ordered_json;
  Json data = Json::array(), labels = Json::array(), colours = Json::array(),
       markers = Json::array();
  for (size_t s = 0; s < figure.series.size(); ++s) {
    const Series& series = figure.series[s];
    labels.push_back(series.label);
    colours.push_back(series_colour(s));
    markers.push_back(series_marker(s));
    for (const FigurePoint& p : series.points) {
      data.push_back({{"series", series.label},
                      {"x", p.x},
                      {"y", p.y},
                      {"low", p.low},
                      {"high", p.high},
                      {"n", p.n}});
    }
  }
  const Json x = {{"field", "x"},
                  {"type", "quantitative"},
                  {"title", figure.x_title},
                  {"scale", {{"type", "log"}, {"base", 2}, {"nice", false}}}};
  const Json y_axis = {{"format", ".0%"}};
  const Json colour = {{"field", "series"},
                       {"type", "nominal"},
                       {"title", nullptr},
                       {"scale", {{"domain", labels}, {"range", colours}}},
                       {"legend", {{"symbolOpacity", 1}}}};
  Json layers = Json::array();
  if (figure.trained_to) {
    double left = *figure.trained_to;
    for (const Series& series : figure.series) {
      for (const FigurePoint& p : series.points) left = std::min(left, p.x);
    }
    layers.push_back(
        {{"data", {{"values", {{{"from", left}, {"to", *figure.trained_to}}}}}},
         {"mark", {{"type", "rect"}, {"opacity", 0.08}, {"color", "gray"}}},
         {"encoding",
          {{"x", {{"field", "from"}, {"type", "quantitative"}}}, {"x2", {{"field", "to"}}}}}});
  }
  layers.push_back(
      {{"mark", {{"type", "area"}, {"opacity", 0.18}, {"clip", true}}},
       {"encoding",
        {{"x", x},
         {"y", {{"field", "low"}, {"type", "quantitative"}, {"title", figure.y_title}}},
         {"y2", {{"field", "high"}}},
         {"color", colour}}}});
  const Json tooltip = {{{"field", "series"}, {"type", "nominal"}},
                        {{"field", "x"}, {"type", "quantitative"}, {"title", figure.x_title}},
                        {{"field", "y"}, {"type", "quantitative"}, {"format", ".2%"}},
                        {{"field", "low"}, {"type", "quantitative"}, {"format", ".2%"}},
                        {{"field", "high"}, {"type", "quantitative"}, {"format", ".2%"}},
                        {{"field", "n"}, {"type", "quantitative"}}};
  const Json y = {
      {"field", "y"}, {"type", "quantitative"}, {"title", figure.y_title}, {"axis", y_axis}};
  layers.push_back({{"mark", {{"type", "line"}, {"clip", true}}},
                    {"encoding", {{"x", x}, {"y", y}, {"color", colour}}}});
  layers.push_back({{"mark", {{"type", "point"}, {"filled", true}, {"size", 50}, {"opacity", 1}}},
                    {"encoding",
                     {{"x", x},
                      {"y", y},
                      {"color", colour},
                      {"shape",
                       {{"field", "series"},
                        {"type", "nominal"},
                        {"title", nullptr},
                        {"scale", {{"domain", labels}, {"range", markers}}}}},
                      {"tooltip", tooltip}}}});
  if (!figure.references.empty()) {
    Json references = Json::array();
    for (const ReferenceLine& line : figure.references)
      references.push_back({{"label", line.label}, {"y", line.y}});
    const Json at = {{"field", "y"}, {"type", "quantitative"}};
    layers.push_back(
        {{"data", {{"values", references}}},
         {"mark", {{"type", "rule"}, {"strokeDash", {2, 3}}, {"color", "gray"}}},
         {"encoding", {{"y", at}, {"tooltip", {{"field", "label"}, {"type", "nominal"}}}}}});
    layers.push_back(
        {{"data", {{"values", references}}},
         {"mark",
          {{"type", "text"},
           {"align", "left"},
           {"baseline", "bottom"},
           {"x", 4},
           {"color", "gray"}}},
         {"encoding", {{"y", at}, {"text", {{"field", "label"}, {"type", "nominal"}}}}}});
  }
  const Json spec = {
      {"$schema", "https://vega.github.io/schema/vega-lite/v6.json"},
      {"title", figure.title},
      {"description",
       figure.band.empty() ? figure.title : fmt::format("{}; band: {}", figure.title, figure.band)},
      {"width", 620},
      {"height", 340},
      {"data", {{"values", data}}},
      {"layer", layers}};
  return spec.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string render_pgfplots(const Figure& figure) {
  std::string out = "\\begin{figure}[htbp]\n\\centering\n\\begin{tikzpicture}\n";
  for (size_t s = 0; s < std::min(figure.series.size(), std::size(kColours)); ++s) {
    out += fmt::format("\\definecolor{{statelab{}}}{{HTML}}{{{}}}\n", s, series_colour(s) + 1);
  }
  double left = 0, right = 0;
  std::vector<double> ticks;
  for (const Series& series : figure.series) {
    for (const FigurePoint& p : series.points) {
      left = ticks.empty() ? p.x : std::min(left, p.x);
      right = ticks.empty() ? p.x : std::max(right, p.x);
      if (std::find(ticks.begin(), ticks.end(), p.x) == ticks.end()) ticks.push_back(p.x);
    }
  }
  std::sort(ticks.begin(), ticks.end());
  out += fmt::format(
      "\\begin{{axis}}[width=16cm,height=8.5cm,xmode=log,log basis x=2,xlabel={{{}}},ylabel={{{} "
      "[\\%]}},"
      "title={{{}}},legend pos=outer north east,legend cell align=left,grid=major,",
      escape_latex(figure.x_title), escape_latex(figure.y_title), escape_latex(figure.title));
  if (!ticks.empty() && ticks.size() <= 12) {
    out += fmt::format("xtick={{{0}}},xticklabels={{{0}}},", fmt::join(ticks, ","));
  }
  out += "]\n";
  for (size_t s = 0; s < figure.series.size(); ++s) {
    const Series& series = figure.series[s];
    const size_t colour = s % std::size(kColours);
    auto coordinates = [&](auto value) {
      std::string text;
      for (const FigurePoint& p : series.points)
        text += fmt::format(" ({},{:.6g})", p.x, 100 * value(p));
      return text;
    };
    if (has_band(series)) {
      out += fmt::format("\\addplot[draw=none,forget plot,name path=low{}] coordinates {{{}}};\n",
                         s, coordinates([](const FigurePoint& p) { return p.low; }));
      out += fmt::format("\\addplot[draw=none,forget plot,name path=high{}] coordinates {{{}}};\n",
                         s, coordinates([](const FigurePoint& p) { return p.high; }));
      out += fmt::format(
          "\\addplot[forget plot,fill=statelab{},fill opacity=0.18] fill between[of=low{} and "
          "high{}];\n",
          colour, s, s);
    }
    const size_t marker = (s + s / std::size(kColours)) % std::size(kPgfMarkers);
    out += fmt::format(
        "\\addplot[statelab{},thick,mark={}] coordinates {{{}}};\n\\addlegendentry{{{}}}\n", colour,
        kPgfMarkers[marker], coordinates([](const FigurePoint& p) { return p.y; }),
        escape_latex(series.label));
  }
  for (const ReferenceLine& line : figure.references) {
    if (left == right) break;
    out += fmt::format(
        "\\addplot[gray,dotted,thick,domain={}:{},samples=2] {{{:.6g}}};\n\\addlegendentry{{{}}}\n",
        left, right, 100 * line.y, escape_latex(line.label));
  }
  if (figure.trained_to && *figure.trained_to > left) {
    out += fmt::format(
        "\\draw[gray,dashed] ({0},\\pgfkeysvalueof{{/pgfplots/ymin}}) -- "
        "({0},\\pgfkeysvalueof{{/pgfplots/ymax}});\n",
        *figure.trained_to);
  }
  out += "\\end{axis}\n\\end{tikzpicture}\n";
  std::string caption = escape_latex(figure.title);
  if (!figure.band.empty()) caption += "; band: " + escape_latex(figure.band);
  if (figure.trained_to) caption += fmt::format("; trained up to {}", *figure.trained_to);
  return out + fmt::format("\\caption{{{}}}\n\\end{{figure}}\n", caption);
}

}  // namespace statelab

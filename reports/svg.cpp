// The static picture of figure.h. One fixed canvas; the legend stands on the right.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "reports/figure.h"
#include "reports/render.h"

namespace statelab {
namespace {

constexpr double kWidth = 820, kHeight = 400;
constexpr double kLeft = 60, kRight = 560, kTop = 34, kBottom = 348;  // the axis box

struct Scale {
  double x_low = 1, x_high = 2, y_low = 0, y_high = 1;
  double x(double value) const {
    const double span = std::log2(x_high) - std::log2(x_low);
    return kLeft + (kRight - kLeft) * (std::log2(value) - std::log2(x_low)) / span;
  }
  double y(double value) const {
    return kBottom - (kBottom - kTop) * (value - y_low) / (y_high - y_low);
  }
};

Scale scale_of(const Figure& figure) {
  Scale scale;
  double low = 0, high = 0;
  auto take_y = [&](double y) {
    scale.y_low = std::min(scale.y_low, std::floor(y * 10) / 10);
    scale.y_high = std::max(scale.y_high, std::ceil(y * 10) / 10);
  };
  for (const Series& series : figure.series) {
    for (const FigurePoint& p : series.points) {
      low = low == 0 ? p.x : std::min(low, p.x);
      high = std::max(high, p.x);
      take_y(p.y), take_y(p.low), take_y(p.high);
    }
  }
  for (const ReferenceLine& line : figure.references) take_y(line.y);
  if (low > 0) scale.x_low = low / 1.08, scale.x_high = high * 1.08;
  return scale;
}

std::string marker(const std::string& shape, double x, double y, const char* colour) {
  auto polygon = [&](std::initializer_list<std::pair<double, double>> corners) {
    std::string points;
    for (const auto& [dx, dy] : corners) points += fmt::format("{:.1f},{:.1f} ", x + dx, y + dy);
    points.pop_back();
    return fmt::format("<polygon points=\"{}\" fill=\"{}\"/>\n", points, colour);
  };
  if (shape == "circle")
    return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.6\" fill=\"{}\"/>\n", x, y,
                       colour);
  if (shape == "square") return polygon({{-3.3, -3.3}, {3.3, -3.3}, {3.3, 3.3}, {-3.3, 3.3}});
  if (shape == "diamond") return polygon({{0, -4.6}, {4.6, 0}, {0, 4.6}, {-4.6, 0}});
  if (shape == "triangle-up") return polygon({{0, -4.4}, {4.2, 3.3}, {-4.2, 3.3}});
  if (shape == "triangle-down") return polygon({{0, 4.4}, {4.2, -3.3}, {-4.2, -3.3}});
  return polygon({{-1.4, -4.2},
                  {1.4, -4.2},
                  {1.4, -1.4},
                  {4.2, -1.4},
                  {4.2, 1.4},
                  {1.4, 1.4},
                  {1.4, 4.2},
                  {-1.4, 4.2},
                  {-1.4, 1.4},
                  {-4.2, 1.4},
                  {-4.2, -1.4},
                  {-1.4, -1.4}});
}

std::string text(double x, double y, const char* anchor, const std::string& content,
                 double opacity = 1) {
  return fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" opacity=\"{}\">{}</text>\n", x, y, anchor,
      opacity, escape_html(content));
}

// Labels that would overlap their left neighbour are left out; the ticks stay.
std::string x_axis(const Figure& figure, const Scale& scale) {
  std::set<double> ticks;
  for (const Series& series : figure.series) {
    for (const FigurePoint& p : series.points) ticks.insert(p.x);
  }
  std::string out;
  double last = -100;
  for (double tick : ticks) {
    const double x = scale.x(tick);
    const bool labelled = x - last >= 28;
    out += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"currentColor\"/>\n", x,
        kBottom, kBottom + (labelled ? 5 : 3));
    if (!labelled) continue;
    out += text(x, kBottom + 18, "middle", fmt::format("{}", tick));
    last = x;
  }
  return out + text((kLeft + kRight) / 2, kHeight - 12, "middle", figure.x_title);
}

std::string y_axis(const Figure& figure, const Scale& scale) {
  std::string out;
  const int first = static_cast<int>(std::lround(scale.y_low * 10)),
            last = static_cast<int>(std::lround(scale.y_high * 10));
  for (int tenth = first; tenth <= last; ++tenth) {
    if (tenth % 2) continue;
    const double y = scale.y(tenth / 10.0);
    out += fmt::format(
        "<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" stroke=\"currentColor\" "
        "opacity=\"0.15\"/>\n",
        kLeft, y, kRight);
    out += text(kLeft - 8, y + 4, "end", fmt::format("{}", tenth * 10));
  }
  return out + fmt::format(
                   "<text transform=\"translate(16,{}) rotate(-90)\" text-anchor=\"middle\">{} "
                   "[%]</text>\n",
                   (kTop + kBottom) / 2, escape_html(figure.y_title));
}

}  // namespace

std::string render_svg(const Figure& figure) {
  const Scale scale = scale_of(figure);
  const double entries = static_cast<double>(figure.series.size() + figure.references.size());
  const double height =
      std::max(kHeight, kTop + 22 * (entries + 3));  // a long legend makes the picture taller
  size_t longest = 0;                                // and long labels make it wider
  for (const Series& s : figure.series) longest = std::max(longest, s.label.size());
  const double width = std::max(kWidth, kRight + 60 + 7 * static_cast<double>(longest));
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1:.0f}\" width=\"{0}\" "
      "height=\"{1:.0f}\" role=\"img\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"currentColor\">\n<title>{2}</title>\n",
      width, height, escape_html(figure.title));
  out += text((kLeft + kRight) / 2, 18, "middle", figure.title);
  if (figure.trained_to && *figure.trained_to > scale.x_low) {
    const double end = std::min(scale.x(*figure.trained_to), kRight);
    out += fmt::format(
        "<rect class=\"trained\" x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" fill=\"gray\" "
        "opacity=\"0.1\"/>\n",
        kLeft, kTop, end - kLeft, kBottom - kTop);
  }
  out += y_axis(figure, scale) + x_axis(figure, scale);
  double legend = kTop + 8;
  auto legend_text = [&](const std::string& label) {
    out += text(kRight + 52, legend + 4, "start", label);
    legend += 22;
  };
  for (size_t s = 0; s < figure.series.size(); ++s) {
    const auto& points = figure.series[s].points;
    const char* colour = series_colour(s);
    std::string line, band;
    for (const FigurePoint& p : points) {
      line += fmt::format("{:.1f},{:.1f} ", scale.x(p.x), scale.y(p.y));
      band += fmt::format("{:.1f},{:.1f} ", scale.x(p.x), scale.y(p.high));
    }
    for (auto p = points.rbegin(); p != points.rend(); ++p)
      band += fmt::format("{:.1f},{:.1f} ", scale.x(p->x), scale.y(p->low));
    if (!figure.band.empty() && points.size() > 1) {
      out += fmt::format("<polygon class=\"band\" points=\"{}\" fill=\"{}\" opacity=\"0.18\"/>\n",
                         band, colour);
    }
    out += fmt::format(
        "<polyline class=\"series\" points=\"{}\" fill=\"none\" stroke=\"{}\" "
        "stroke-width=\"1.8\"/>\n",
        line, colour);
    for (const FigurePoint& p : points)
      out += marker(series_marker(s), scale.x(p.x), scale.y(p.y), colour);
    out += fmt::format(
        "<line x1=\"{0}\" y1=\"{1}\" x2=\"{2}\" y2=\"{1}\" stroke=\"{3}\" stroke-width=\"1.8\"/>\n",
        kRight + 16, legend, kRight + 44, colour);
    out += marker(series_marker(s), kRight + 30, legend, colour);
    legend_text(figure.series[s].label);
  }
  for (const ReferenceLine& line : figure.references) {
    out += fmt::format(
        "<line class=\"reference\" x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" "
        "stroke=\"currentColor\" "
        "stroke-dasharray=\"2 3\" opacity=\"0.7\"/>\n",
        kLeft, scale.y(line.y), kRight);
    out += fmt::format(
        "<line x1=\"{0}\" y1=\"{1}\" x2=\"{2}\" y2=\"{1}\" stroke=\"currentColor\" "
        "stroke-dasharray=\"2 3\"/>\n",
        kRight + 16, legend, kRight + 44);
    legend_text(line.label);
  }
  if (!figure.band.empty())
    out += text(kRight + 16, legend + 4, "start", "band: " + figure.band, 0.7), legend += 22;
  if (figure.trained_to)
    out += text(kRight + 16, legend + 4, "start",
                fmt::format("shaded: trained up to {}", *figure.trained_to), 0.7);
  out += fmt::format(
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" "
      "stroke=\"currentColor\"/>\n</svg>\n",
      kLeft, kTop, kRight - kLeft, kBottom - kTop);
  return out;
}

}  // namespace statelab

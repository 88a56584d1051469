// One figure for every output: lines with bands over a length axis, and the levels that luck alone
// reaches.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace statelab {

struct FigurePoint {
  double x = 0;
  double y = 0;
  double low = 0, high = 0;  ///< band; equal to y where there is none
  int64_t n = 0;             ///< runs behind the point
};

struct Series {
  std::string label = {};
  std::vector<FigurePoint> points = {};  ///< ascending x
};

/// A horizontal line, e.g. chance.
struct ReferenceLine {
  std::string label = {};
  double y = 0;
};

/// y is a fraction, drawn in percent from 0 (or below, where the data go) to 100.
struct Figure {
  std::string key = {};  ///< stable, names the files: [a-z0-9_-]+
  std::string title = {};
  std::string x_title = {}, y_title = {};
  std::vector<Series> series = {};
  std::vector<ReferenceLine> references = {};
  std::optional<double> trained_to = {};  ///< longest trained length: the range up to it is shaded
  std::string band = {};                  ///< what the band is, e.g. "least to greatest run"
};

/// A picture by itself: no script, no font file, no outside address; text in the current colour,
/// so that dark pages work.
std::string render_svg(const Figure& figure);
/// A Vega-Lite 6 specification with its data inside; opens in any Vega-Lite editor.
std::string render_vega_lite(const Figure& figure);
/// A `figure` float with a pgfplots axis; latex_document() has the packages.
std::string render_pgfplots(const Figure& figure);
/// series,x,y,low,high,n
std::string render_figure_csv(const Figure& figure);

/// The Okabe-Ito colour and the marker of the i-th series, equal in all formats: "#0072B2".
const char* series_colour(size_t index);
const char* series_marker(
    size_t index);  ///< Vega-Lite's name: circle, square, diamond, triangle-up, ...

}  // namespace statelab

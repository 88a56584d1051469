#include "reports/html_page.h"

#include <fmt/format.h>

#include "reports/render.h"

namespace statelab {
namespace {

constexpr const char* kStyle = R"css(
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
section, figure { margin: 2rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .2rem .6rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 1px solid; }
th[colspan] { text-align: center; font-weight: 500; }
tbody tr:nth-child(even) { background: color-mix(in srgb, currentColor 5%, transparent); }
.r { text-align: right; }
.notes { list-style: none; padding: 0; font-size: .85rem; opacity: .8; }
svg { max-width: 100%; height: auto; }
figcaption { font-size: .85rem; opacity: .8; }
)css";

}  // namespace

std::string html_page(const Report& report) {
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>{0}</title>\n<style>{1}</style>\n"
      "</head>\n<body>\n<h1>{0}</h1>\n",
      escape_html(report.title), kStyle);
  for (size_t t = 0; t < report.tables.size(); ++t) {
    out += fmt::format("<section>\n{}</section>\n", render_html(report.tables[t]));
    if (t > 0) continue;  // figures belong to the first table, the comparison
    for (const Figure& figure : report.figures) {
      out += fmt::format(
          "<figure id=\"{0}\">\n{1}<figcaption>figures/{0}: <a href=\"figures/{0}.csv\">data</a>, "
          "<a href=\"figures/{0}.svg\">SVG</a>, <a href=\"figures/{0}.vl.json\">Vega-Lite</a>, "
          "<a href=\"figures/{0}.tex\">pgfplots</a></figcaption>\n</figure>\n",
          escape_html(figure.key), render_svg(figure));
    }
  }
  return out + fmt::format("<p>{} runs; their ids are in manifest.json.</p>\n</body>\n</html>\n",
                           report.run_ids.size());
}

}  // namespace statelab

// A report as one HTML page.
#pragma once

#include <string>

#include "reports/report.h"

namespace statelab {

/// Tables and pictures in one file that loads nothing: no script, and a content policy that would
/// forbid one. Light and dark by the reader's setting. Links lead to the files that report_files()
/// writes beside it.
std::string html_page(const Report& report);

}  // namespace statelab

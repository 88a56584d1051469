// The field table as documents: JSON Schema for editors, and the reference page.
#pragma once

#include <string>

namespace statelab {

/// JSON Schema (draft 2020-12) of a sweep file, indented.
std::string sweep_schema();

/// Markdown reference of all keys; experiments/configuration.md holds its output.
std::string configuration_page();

}  // namespace statelab

// How a number was obtained: the choices that decide whether two scores may stand in one column.
#pragma once

#include <string>
#include <vector>

#include "reports/flat_config.h"
#include "store/records.h"

namespace statelab {

/// Each member is text for people; two protocols agree in a choice when the texts are equal. "not
/// stated" never agrees.
struct Protocol {
  std::string task = {};
  std::string length_convention =
      {};  ///< whose: xlstm | slice | chomsky | word | liu | fflm (what a length counts)
  std::string multiplication =
      {};  ///< inside the arithmetic task: on | off; "" where the task has none
  std::string supervision = {};  ///< last | all
  std::string bos = {};          ///< "with BOS" | "no BOS"
  std::string weights = {};      ///< which of a run's weights were tested: "last weights", ...
  std::string selection = {};    ///< how runs became one number; "" for a run by itself
  std::string precision = {};    ///< arithmetic that computed it
  /// "train 3..40", or "min 3, max 40->160 in stages of 10000 steps" and, where it is known, which: ": 40, 160"
  std::string curriculum = {};
};

inline constexpr const char* kNotStated = "not stated";

/// `computed_with`: precision of the executions, which may be another than the one asked for.
Protocol protocol_of_run(const FlatConfig& config, const std::string& computed_with);

/// What the row's texts say and, for the two harnesses whose code is public, what that code does.
Protocol protocol_of_published(const PublishedRecord& row);

struct ProtocolDifference {
  std::string name = {};  ///< "length convention", "multiplication", ...
  std::string ours = {}, theirs = {};
};
/// Choices that differ or are not stated on one side.
std::vector<ProtocolDifference> protocol_differences(const Protocol& ours, const Protocol& theirs);

/// Names of the choices in which not all protocols agree.
std::vector<std::string> differing_choices(const std::vector<Protocol>& protocols);

}  // namespace statelab

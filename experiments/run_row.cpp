#include "experiments/run_row.h"

#include "experiments/cohort_trainer.h"

namespace statelab {

NewRun run_row(const RunConfig& config, const std::string& name) {
  NewRun row;
  row.run_id = run_id(config);
  row.group_id = group_id(config);
  row.shape_key = shape_key(config);
  row.name = name;
  row.config = canonical_json(config);
  row.total_steps = total_steps(config);
  return row;
}

}  // namespace statelab

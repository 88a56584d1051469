#include "experiments/run_config.h"

#include <openssl/evp.h>

#include <stdexcept>

#include "experiments/field.h"
#include "experiments/value.h"
#include "models/numerics.h"

namespace statelab {
namespace {

constexpr const char* kVocabSize = "model.vocab_size";
constexpr const char* kVersion = "numerics_version";

std::string sha256(const std::string& text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("SHA-256 is not available in this OpenSSL");
  }
  static constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    hex += kHex[digest[i] >> 4];
    hex += kHex[digest[i] & 15];
  }
  return hex;
}

/// The tree behind the canonical text. What a run's mixer or task never reads is left out, so it cannot tell runs apart.
Value tree(const RunConfig& run) {
  Value root = Value::map();
  for (const Field& field : fields()) {
    if (applies(field, run)) root.put(field.key, field.get(run));
  }
  root.put(kVocabSize, Value::of(static_cast<int64_t>(run.model.vocab_size)));
  root.put(kVersion, Value::of(static_cast<int64_t>(kNumericsVersion)));
  if (run.train.curriculum.size() == 1) {  // with one stage these say nothing
    root.put("train.schedule.per_stage", Value::of(true));
    root.put("train.schedule.reset_optimizer", Value::of(false));
  }
  if (run.model.scan == "auto" && applies(*find_field("model.scan"), run))
    root.put("model.scan", Value::of(std::string("chunked")));
  if (run.model.mlp == "none") root.put("model.d_intermediate", Value::of(int64_t{0}));
  return root;
}

std::string id_without(const RunConfig& run, std::initializer_list<const char*> keys) {
  Value root = tree(run);
  for (const char* key : keys) root.put(key, Value::null());
  return sha256(to_canonical_json(root));
}

void read_into(RunConfig& run, const Value& map, const std::string& prefix) {
  if (!map.is(Value::Kind::kMap))
    throw std::invalid_argument(prefix + ": must be a map, is " + map.shown());
  for (size_t i = 0; i < map.keys.size(); ++i) {
    const std::string key = prefix.empty() ? map.keys[i] : prefix + '.' + map.keys[i];
    const Value& item = map.items[i];
    if (key == kVocabSize && item.is(Value::Kind::kInteger)) {
      run.model.vocab_size = static_cast<int>(item.integer);
    } else if (key == kVersion) {
      if (!item.is(Value::Kind::kInteger) || item.integer != kNumericsVersion) {
        throw std::invalid_argument("numerics_version: must be " +
                                    std::to_string(kNumericsVersion) + " for this build, is " +
                                    item.shown());
      }
    } else if (const Field* field = find_field(key)) {
      if (const auto problems = check(*field, item); !problems.empty()) {
        throw std::invalid_argument(problems[0].key + ": " + problems[0].message);
      }
      field->set(run, item);
    } else if (is_section(key)) {
      read_into(run, item, key);
    } else {
      throw std::invalid_argument(key + ": unknown key in a stored configuration");
    }
  }
}

}  // namespace

std::string canonical_json(const RunConfig& run) { return to_canonical_json(tree(run)); }

RunConfig run_config_from_json(const std::string& canonical) {
  RunConfig run;
  read_into(run, value_from_json(canonical), "");
  return run;
}

std::string run_id(const RunConfig& run) { return sha256(canonical_json(run)); }

std::string group_id(const RunConfig& run) { return id_without(run, {"seed"}); }

std::string shape_key(const RunConfig& run) {
  return id_without(run,
                    {"seed", "train.optimizer.lr", "train.optimizer.betas", "train.optimizer.eps",
                     "train.optimizer.weight_decay", "train.optimizer.clip_norm"});
}

}  // namespace statelab

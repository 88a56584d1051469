// Shorthand for rows of the field table: a row names its member once, reading and writing follow from it.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "experiments/field.h"

namespace statelab {

/// `member` is a stateless generic lambda: [](auto& run) -> auto& { return run.model.d_state; }
template <typename Member>
Field scalar_field(std::string key, Member member, std::string doc) {
  Field f;
  f.key = std::move(key);
  f.doc = std::move(doc);
  using T = std::remove_cvref_t<decltype(member(std::declval<RunConfig&>()))>;
  if constexpr (std::is_same_v<T, bool>) {
    f.type = FieldType::kBoolean;
    f.set = [member](RunConfig& run, const Value& v) { member(run) = v.boolean; };
    f.get = [member](const RunConfig& run) { return Value::of(member(run)); };
  } else if constexpr (std::is_same_v<T, std::string>) {
    f.type = FieldType::kText;
    f.set = [member](RunConfig& run, const Value& v) { member(run) = v.text; };
    f.get = [member](const RunConfig& run) { return Value::of(member(run)); };
  } else if constexpr (std::is_integral_v<T>) {
    f.type = FieldType::kInteger;
    f.min = 0;
    f.max = std::is_same_v<T, uint32_t> ? 4294967295.0 : 2147483647.0;
    f.set = [member](RunConfig& run, const Value& v) { member(run) = static_cast<T>(v.integer); };
    f.get = [member](const RunConfig& run) { return Value::of(static_cast<int64_t>(member(run))); };
  } else {
    static_assert(std::is_same_v<T, double>);
    f.type = FieldType::kNumber;
    f.set = [member](RunConfig& run, const Value& v) { member(run) = v.number; };
    f.get = [member](const RunConfig& run) { return Value::of(member(run)); };
  }
  return f;
}

/// An integer or number from min to max, both allowed.
template <typename Member>
Field ranged_field(std::string key, Member member, double min, double max, std::string doc) {
  Field f = scalar_field(std::move(key), member, std::move(doc));
  f.min = min;
  f.max = max;
  return f;
}

template <typename Member>
Field choice_field(std::string key, Member member, std::vector<std::string> choices,
                   std::string doc) {
  Field f = scalar_field(std::move(key), member, std::move(doc));
  f.type = FieldType::kChoice;
  f.choices = std::move(choices);
  return f;
}

/// [low, high] kept in two members.
template <typename Low, typename High>
Field pair_field(std::string key, Low low, High high, double min, double max, std::string doc) {
  Field f;
  f.key = std::move(key);
  f.type = FieldType::kNumberPair;
  f.doc = std::move(doc);
  f.min = min;
  f.max = max;
  f.get = [low, high](const RunConfig& run) {
    return Value::list({Value::of(low(run)), Value::of(high(run))});
  };
  f.set = [low, high](RunConfig& run, const Value& v) {
    low(run) = v.items[0].number;
    high(run) = v.items[1].number;
  };
  return f;
}

/// A field that only these mixers read.
inline Field for_mixers(std::vector<std::string> mixers, Field f) {
  f.mixers = std::move(mixers);
  return f;
}
inline Field for_mixer(std::string mixer, Field f) {
  return for_mixers({std::move(mixer)}, std::move(f));
}

}  // namespace statelab

/// Names a member of RunConfig for the shorthand above.
#define STATELAB_MEMBER(path) \
  [](auto& run) -> auto& { return run.path; }

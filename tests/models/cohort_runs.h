// Small cohorts for tests of training, on any device. Bits are compared through checkpoint bytes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/rng.h"
#include "models/cohort.h"

namespace statelab {

/// Parity of random bits, label at the last one; each member has a key of its own.
class Bits : public DataSource {
 public:
  explicit Bits(std::vector<uint32_t> seeds) : seeds_(std::move(seeds)) {}
  void draw(int member, uint32_t step, uint32_t sample, std::span<int32_t> tokens,
            std::span<int32_t> targets) const override {
    const RngKey key{seeds_[static_cast<size_t>(member)], Stream::kTrain};
    const int last = static_cast<int>(bounded(philox(key, {0xffffffffu, sample, step, 0}).v[0],
                                              static_cast<uint32_t>(tokens.size())));
    int parity = 0;
    for (int t = 0; t < static_cast<int>(tokens.size()); ++t) {
      const auto at = static_cast<size_t>(t);
      tokens[at] = 0;
      targets[at] = -1;
      if (t > last) continue;
      const int bit = static_cast<int>(
          bounded(philox(key, {static_cast<uint32_t>(t), sample, step, 0}).v[0], 2));
      parity ^= bit;
      tokens[at] = 1 + bit;
      if (t == last) targets[at] = 1 + parity;
    }
  }

 private:
  std::vector<uint32_t> seeds_;
};

/// What the members of a test differ in.
struct Recipe {
  uint32_t seed;
  double lr;
};

inline CohortShape shape_of(const std::string& mixer) {
  CohortShape s;
  s.model.mixer = mixer;
  s.model.vocab_size = 3;
  s.model.d_model = 12;  // off every packet size
  s.model.headdim = 8;
  s.model.d_state = 6;
  s.model.rope_fraction = 1;
  s.model.chunk_size = 8;
  s.model.n_layers = 2;
  if (mixer == "gated_delta_net" || mixer == "delta_net") s.model.eigenvalue_min = -1;
  s.model.conv = mixer == "gated_delta_net";
  s.batch = 37;
  s.one_target = true;
  s.stages = {{6, 7}, {8, 13}};
  s.schedule.reset_optimizer = true;
  return s;
}

inline MemberSettings settings(const Recipe& r) {
  MemberSettings m;
  m.init_seed = r.seed;
  m.lr = r.lr;
  m.clip_norm = r.seed % 2 ? 1.0 : 0.0;
  return m;
}

struct Built {
  std::unique_ptr<Bits> data;
  std::unique_ptr<TrainCohort> cohort;
};

inline Built build(const CohortShape& shape, const std::vector<Recipe>& runs,
                   const ComputeDevice& device) {
  std::vector<uint32_t> seeds;
  std::vector<MemberSettings> members;
  for (const Recipe& r : runs) {
    seeds.push_back(r.seed);
    members.push_back(settings(r));
  }
  Built b;
  b.data = std::make_unique<Bits>(seeds);
  b.cohort = std::make_unique<TrainCohort>(shape, members, *b.data, device);
  return b;
}

/// Checkpoint bytes of each run after so many steps.
inline std::vector<std::string> trained_bytes(const CohortShape& shape,
                                              const std::vector<Recipe>& runs,
                                              const ComputeDevice& device, int64_t steps = 14) {
  const Built b = build(shape, runs, device);
  b.cohort->run(steps);
  std::vector<std::string> out;
  for (int m = 0; m < b.cohort->members(); ++m)
    out.push_back(to_safetensors(b.cohort->snapshot(m), {}));
  return out;
}

inline const std::vector<Recipe> kRuns = {{0, 0.01}, {1, 0.02}, {2, 0.001}, {3, 0.05},
                                          {4, 0.01}, {5, 0.1},  {6, 0.003}, {7, 0.03}};

/// FNV-1a, 64 bits, as a decimal number.
inline std::string digest(const std::string& bytes) {
  uint64_t h = 1469598103934665603ull;
  for (char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return std::to_string(h);
}

}  // namespace statelab

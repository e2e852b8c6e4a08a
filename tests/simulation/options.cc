#include "tests/simulation/options.h"

#include <cmath>

namespace shardwright {
namespace simulation {
namespace {

// Absent in half of the runs, otherwise from `most` down to a hundredth of it.
double Rate(Random& random, double most) {
  if (random.Chance(0.5)) return 0;
  return most * std::pow(0.01, random.Fraction());
}

// Never in half of the runs, otherwise from `least` up to twenty times that.
absl::Duration Interval(Random& random, absl::Duration least) {
  if (random.Chance(0.5)) return kNever;
  return least * std::pow(20, random.Fraction());
}

}  // namespace

Options Options::Draw(Random& random) {
  Options options;
  options.job_count = 1 + random.Below(2);
  options.layout_count = 1 + random.Below(3);
  options.rank_count_max = 2 + random.Below(7);
  options.with_trainers = random.Chance(0.3);
  options.with_barriers = random.Chance(0.8);
  options.lease_ttl = absl::Seconds(2 + random.Below(9));
  options.form_timeout_max = absl::Seconds(2 + random.Below(40));
  options.barrier_timeout_max = absl::Seconds(1 + random.Below(40));
  constexpr int kGrainsMs[] = {0, 0, 0, 1, 10, 100};
  options.time_grain = absl::Milliseconds(kGrainsMs[random.Below(6)]);
  options.fault_time = absl::Seconds(20 + random.Below(100));

  options.delay_max = absl::Milliseconds(1 + random.Below(200));
  options.lose = Rate(random, 0.1);
  options.duplicate = Rate(random, 0.2);
  options.linger = Rate(random, 0.1);
  options.silent_every = Interval(random, absl::Seconds(2));
  options.replay = Rate(random, 0.1);
  options.forge = Rate(random, 1);

  options.cut_every = Interval(random, absl::Seconds(20));
  options.pause_every = Interval(random, absl::Seconds(20));
  options.crash_every = Interval(random, absl::Seconds(20));
  options.leave_every = Interval(random, absl::Seconds(30));
  options.double_launch_every = Interval(random, absl::Seconds(20));
  options.restart_beside_paused = random.Chance(0.5) ? 0.5 : 0;

  options.coordinator_crash_every = Interval(random, absl::Seconds(10));
  constexpr int64_t kRates[] = {4096, 4096, 8, 2};
  options.admission_rate = kRates[random.Below(4)];
  options.store_refuses = Rate(random, 0.3);
  options.crash_around_write = Rate(random, 0.05);
  options.apply_every = Interval(random, absl::Seconds(5));

  options.wrong_digest = Rate(random, 0.1);
  options.wrong_backend = Rate(random, 0.1);
  options.wrong_slot = Rate(random, 0.1);
  options.connect_failure = Rate(random, 0.2);
  options.old_generation = Rate(random, 0.1);
  options.break_every = Interval(random, absl::Seconds(20));
  return options;
}

}  // namespace simulation
}  // namespace shardwright

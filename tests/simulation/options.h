// What goes wrong in a run, and how often: probabilities and mean intervals.

#ifndef TESTS_SIMULATION_OPTIONS_H_
#define TESTS_SIMULATION_OPTIONS_H_

#include <vector>

#include "absl/time/time.h"
#include "tests/simulation/random.h"

namespace shardwright {
namespace simulation {

// Never, for what has a mean interval.
inline constexpr absl::Duration kNever = absl::InfiniteDuration();

// The defaults are a calm network and members that do all right.
struct Options {
  int job_count = 1;
  int layout_count = 1;    // Of each job; the operator goes through them.
  int rank_count_max = 4;  // Of each layout.
  bool with_trainers = false;
  bool with_barriers = false;
  absl::Duration lease_ttl = absl::Seconds(10);
  absl::Duration form_timeout_max = absl::Seconds(60);
  absl::Duration barrier_timeout_max = absl::Seconds(60);

  // Things happen at multiples of it, and so at once; 0: at any time.
  absl::Duration time_grain = absl::ZeroDuration();

  // How long faults go on.
  absl::Duration fault_time = absl::Seconds(60);

  // Network, for each message.
  absl::Duration delay_max = absl::Milliseconds(2);
  double lose = 0;       // Of unary calls; it breaks a stream.
  double duplicate = 0;  // Of unary calls: their requests.
  double linger = 0;     // Arrives as much as `linger_max` later.
  absl::Duration linger_max = absl::Seconds(30);
  absl::Duration silent_every = kNever;  // A session that says nothing.
  double replay = 0;  // A request of the past comes once more,
  double forge = 0;   // and has been changed.

  // Network and processes, for each process.
  absl::Duration cut_every = kNever;
  absl::Duration pause_every = kNever;
  absl::Duration crash_every = kNever;
  absl::Duration leave_every = kNever;
  absl::Duration double_launch_every = kNever;
  absl::Duration restart_delay_max = absl::Seconds(5);
  absl::Duration cut_max = absl::Seconds(20);
  absl::Duration pause_max = absl::Seconds(25);
  double restart_beside_paused = 0;

  // Coordinator.
  absl::Duration coordinator_crash_every = kNever;
  absl::Duration coordinator_down_max = absl::Seconds(15);
  int64_t admission_rate = 4096;
  double store_refuses = 0;       // For each write.
  double crash_around_write = 0;  // Half before it, half after it.
  absl::Duration apply_every = kNever;

  // Members that do wrong.
  double wrong_digest = 0;   // Of the layout, or at a barrier.
  double wrong_backend = 0;  // For each call.
  double wrong_slot = 0;     // Publishes other bytes, or another's slot.
  double connect_failure = 0;
  double old_generation = 0;            // Sends the generation before.
  absl::Duration break_every = kNever;  // A communicator ends by itself.

  // Draws all of it, so that calm and wild runs both occur.
  static Options Draw(Random& random);
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_OPTIONS_H_

// A client that watches layouts for as long as it lives: it resumes from the
// last revision that it got, whatever breaks.

#ifndef TESTS_SIMULATION_WATCHER_H_
#define TESTS_SIMULATION_WATCHER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "tests/simulation/network.h"
#include "tests/simulation/process.h"
#include "tests/simulation/step.h"

namespace shardwright {
namespace simulation {

class Watcher : public std::enable_shared_from_this<Watcher> {
 public:
  // `job`: the one to watch; empty means all.
  Watcher(World& world, Violations& violations, std::string job)
      : world_(world), violations_(violations), job_(std::move(job)) {}

  void Start();

  const std::string& job() const { return job_; }
  int64_t revision() const { return revision_; }

 private:
  World& world_;
  Violations& violations_;
  const std::string job_;
  const std::shared_ptr<Link> link_ = std::make_shared<Link>();
  int64_t revision_ = 0;
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_WATCHER_H_

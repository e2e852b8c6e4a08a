// Communicators between threads of one process, without a network: for cliques
// of one member, and for tests of what stands on top of Communicator. They
// behave as the real ones do, failures included.

#ifndef WORKER_COMM_LOOPBACK_COMMUNICATOR_H_
#define WORKER_COMM_LOOPBACK_COMMUNICATOR_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace shardwright {

// Where the members of one test meet. Each member may have a factory of its
// own, or all one. Thread-safe; communicators may outlive the factory.
class LoopbackFactory : public CommunicatorFactory {
 public:
  explicit LoopbackFactory(absl::Duration timeout = absl::Seconds(10));

  std::string backend() const override { return "loopback"; }
  absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> Begin(
      const CliqueAttempt& attempt) override;

  struct Hub;

 private:
  const absl::Duration timeout_;
  const std::shared_ptr<Hub> hub_;
};

}  // namespace shardwright

#endif  // WORKER_COMM_LOOPBACK_COMMUNICATOR_H_

#include "client/cli/interruption.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace shardwright {

Interruption::Interruption(int output_fd) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal_fd_ = signalfd(-1, &signals, SFD_CLOEXEC);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  if (signal_fd_ < 0 || stop_fd_ < 0) std::abort();  // No descriptors left.
  thread_ = std::thread([this, output_fd] { Run(output_fd); });
}

Interruption::~Interruption() {
  const uint64_t one = 1;
  if (write(stop_fd_, &one, sizeof(one)) != sizeof(one)) std::abort();
  thread_.join();
  close(signal_fd_);
  close(stop_fd_);
}

bool Interruption::occurred() const {
  const MutexLock lock(mutex_);
  return occurred_;
}

bool Interruption::SleepFor(absl::Duration duration) {
  MutexLock lock(mutex_);
  return !changed_.WaitFor(
      lock, duration,
      [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return occurred_; });
}

void Interruption::Run(int output_fd) {
  // No events asked for: errors and hang-ups are reported in any case.
  pollfd sources[] = {
      {stop_fd_, POLLIN, 0}, {signal_fd_, POLLIN, 0}, {output_fd, 0, 0}};
  for (;;) {
    if (poll(sources, 3, -1) < 0) continue;
    if (sources[0].revents != 0) return;
    if (sources[1].revents != 0) {
      signalfd_siginfo info;
      if (read(signal_fd_, &info, sizeof(info)) != sizeof(info)) continue;
      if (occurred()) _exit(128 + static_cast<int>(info.ssi_signo));
    }
    sources[2].fd = -1;  // It stays hung up, and once is enough.
    {
      const MutexLock lock(mutex_);
      occurred_ = true;
    }
    changed_.NotifyAll();
    canceller_.Cancel();
  }
}

}  // namespace shardwright

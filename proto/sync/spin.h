// Waiting that is too short for the kernel.

#ifndef PROTO_SYNC_SPIN_H_
#define PROTO_SYNC_SPIN_H_

#include <thread>

namespace shardwright {

// A few dozen cycles, in which the core's other thread has more of it.
inline void PauseCore() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#else
  std::this_thread::yield();
#endif
}

}  // namespace shardwright

#endif  // PROTO_SYNC_SPIN_H_

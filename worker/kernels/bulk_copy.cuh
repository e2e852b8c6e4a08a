// The bulk copy engine of sm_90 and later, in the words of the PTX manual:
// asynchronous copies between global and shared memory, of 16-byte multiples at
// 16-byte addresses. What comes in is counted by a barrier in shared memory;
// what goes out is followed by the thread that sent it, in groups.

#ifndef WORKER_KERNELS_BULK_COPY_CUH_
#define WORKER_KERNELS_BULK_COPY_CUH_

#include <cstdint>

namespace shardwright {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void InitBarrier(uint64_t* barrier) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(SharedAddress(barrier))
      : "memory");
}

// After the last InitBarrier() of a thread: the engine sees them.
__device__ inline void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The one arrival of a phase, which ends when `bytes` have come as well.
__device__ inline void ExpectBytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}

__device__ inline void WaitForPhase(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

__device__ inline void BulkLoad(void* shared, const void* global,
                                uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1], %2, [%3];" ::"r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}

__device__ inline void BulkStore(void* global, const void* shared,
                                 uint32_t bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
          global),
      "r"(SharedAddress(shared)), "r"(bytes)
      : "memory");
}

__device__ inline void CommitStores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until all but the newest kGroups groups of this thread have left shared
// memory.
template <int kGroups>
__device__ inline void WaitForStoresRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
}

__device__ inline void WaitForStores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

#endif

}  // namespace shardwright

#endif  // WORKER_KERNELS_BULK_COPY_CUH_

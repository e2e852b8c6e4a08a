/* Device memory that a worker daemon copies on: registered once, then named.
 * shardwright.h says what holds for all functions. A trainer that runs plans in
 * its own process (shardwright_gpu.h) has less to wait for; the worker serves
 * those who cannot.
 *
 * A `stream` is a cudaStream_t, NULL the default stream. Where the library was
 * built without CUDA, sessions are refused with SW_UNIMPLEMENTED and
 * GPU_NOT_BUILT. */

#ifndef CLIENT_NATIVE_SHARDWRIGHT_REGION_H_
#define CLIENT_NATIVE_SHARDWRIGHT_REGION_H_

#include "client/native/shardwright_service.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the worker knows that what is in the caller's stream is done: by an event
 * that both see, or because the call waits for the stream first. */
typedef int32_t sw_order;
enum {
  SW_ORDER_BEST = 0, /* By events if both processes can, else by the host. */
  SW_ORDER_HOST = 1
};

/* As sw_session_open(), with the GPU that CUDA knows by this ordinal in this
 * process; the worker must serve it (GPU_NOT_SERVED, NO_CUDA_IPC). `segments`
 * may be none. */
SW_EXPORT sw_code sw_session_open_gpu(const sw_worker* worker,
                                      const sw_segment* segments,
                                      int64_t segment_count, int32_t ordinal,
                                      sw_order order, sw_session** out);

/* {"order": "events" or "host", "reason": why this one} */
SW_EXPORT sw_code sw_session_get_order(const sw_session* session, char** json);

/* SW_OK while the worker holds the session. */
SW_EXPORT sw_code sw_session_check(const sw_session* session);

/* Lets the worker copy from and to `size_bytes` bytes of device memory, which
 * must not be freed before the region is unregistered or the session destroyed.
 * Fails with INVALID_REGION for memory that CUDA does not share between
 * processes, such as that of PyTorch's expandable segments. */
SW_EXPORT sw_code sw_session_register_region(sw_session* session,
                                             const void* pointer,
                                             int64_t size_bytes,
                                             int64_t* region);

/* Memory of which the caller has a handle already: bytes [offset_bytes,
 * offset_bytes + size_bytes) of an allocation. */
typedef struct {
  const void* memory_handle; /* The 64 bytes of a cudaIpcMemHandle_t. */
  int64_t allocation_bytes;  /* At most; at least offset and size together. */
  int64_t offset_bytes;
  int64_t size_bytes;
} sw_memory_handle;
SW_EXPORT sw_code sw_session_register_handle(sw_session* session,
                                             const sw_memory_handle* memory,
                                             int64_t* region);

/* Waits for the copies that use it (REGION_BUSY after 10 s). */
SW_EXPORT sw_code sw_session_unregister_region(sw_session* session,
                                               int64_t region);

/* A tensor in a region; of 0 bytes in any. */
typedef struct {
  int64_t region;
  int64_t offset_bytes;
  int64_t size_bytes;
} sw_region_tensor;

/* One table of a plan over tensors in regions. */
typedef struct {
  const sw_plan* plan;
  sw_table_id table;
  int32_t adjoint; /* Not 0: from destination to sources. */
  int64_t row_bytes;
  int64_t element_bytes; /* Addresses are multiples of it. */
  const sw_region_tensor* sources;
  int64_t source_count;
  sw_region_tensor destination;
  const void* fill; /* One element; NULL: zero bytes. */
} sw_region_operation;

/* Has the worker carry out operations, in order and in the order of `stream`:
 * after what is in it, and done when the call returns. All are checked before a
 * byte moves. After a failure that is neither
 * SW_INVALID_ARGUMENT nor SW_NOT_FOUND, outputs are undefined. */
SW_EXPORT sw_code sw_session_run_regions(const sw_session* session,
                                         const sw_region_operation* operations,
                                         int64_t operation_count, void* stream,
                                         int64_t* copied_bytes);

#ifdef __cplusplus
}
#endif

#endif /* CLIENT_NATIVE_SHARDWRIGHT_REGION_H_ */

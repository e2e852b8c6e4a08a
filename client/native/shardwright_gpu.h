/* Running plans on GPU memory, in the caller's process and stream: one launch
 * moves all tensors of a micro-batch. shardwright.h says what holds for all
 * functions.
 *
 * Where the library was built without CUDA, every function that can fail does,
 * with SW_UNIMPLEMENTED and GPU_NOT_BUILT.
 *
 * A `stream` is a cudaStream_t, NULL the default stream. Calls return when the
 * work is started, and leave the thread's current device as it was. */

#ifndef CLIENT_NATIVE_SHARDWRIGHT_GPU_H_
#define CLIENT_NATIVE_SHARDWRIGHT_GPU_H_

#include "client/native/shardwright_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A GPU with the tables that were used last in its memory. */
typedef struct sw_gpu sw_gpu;

/* The GPU that CUDA knows by this ordinal in this process. Takes 16 MiB of its
 * memory, and as much pinned host memory, for tables. Fails with NO_GPU or
 * GPU_NOT_FOUND. */
SW_EXPORT sw_code sw_gpu_open(int32_t ordinal, sw_gpu** out);

/* Waits for the tables' last use. Slots may outlive it. */
SW_EXPORT void sw_gpu_destroy(sw_gpu* gpu);

/* {"name", "uuid", "memory_bytes", "table_count", "table_bytes",
 * "copied_bytes"} */
SW_EXPORT sw_code sw_gpu_describe(const sw_gpu* gpu, char** json);

/* Brings a plan's table into the GPU's memory ahead of its first use, while
 * earlier work goes on. */
SW_EXPORT sw_code sw_gpu_prepare(sw_gpu* gpu, const sw_plan* plan,
                                 sw_table_id table, int32_t adjoint);

/* Memory for one table at a time, at an address that stays: kernels that were
 * captured in a CUDA graph read it anew at each replay. */
typedef struct sw_gpu_slot sw_gpu_slot;

/* What no table of a slot may exceed. The buffers of an operation on it have
 * just these rows. */
typedef struct {
  int64_t entry_count;
  const int64_t* source_rows; /* Of each source. */
  int64_t source_count;
  int64_t destination_rows;
} sw_slot_bounds;

/* An empty slot, for tables that are read forward, or as the adjoint. Allocates
 * (INVALID_SLOT_BOUNDS, DEVICE_FAILED). */
SW_EXPORT sw_code sw_gpu_slot_create(sw_gpu* gpu, const sw_slot_bounds* bounds,
                                     int32_t adjoint, sw_gpu_slot** out);

/* Waits for writes that were started; no graph that reads it may run any more.
 */
SW_EXPORT void sw_gpu_slot_destroy(sw_gpu_slot* slot);

/* Overwrites the slot, in order of `stream`; one thread at a time. Forward,
 * rows of the destination beyond the table's stay as they are; the adjoint
 * zeroes all rows of the sources that the table does not name. Fails with
 * TABLE_TOO_LARGE or SLOT_WRITE_CAPTURED, and leaves the slot as it was. */
SW_EXPORT sw_code sw_gpu_slot_write(sw_gpu_slot* slot, const sw_plan* plan,
                                    sw_table_id table, void* stream);

/* One table over buffers in GPU memory, of source_rows and destination_rows
 * rows. */
typedef struct {
  const sw_plan* plan; /* With `table` and `adjoint`; or NULL, and a `slot`. */
  sw_table_id table;
  int32_t adjoint; /* Not 0: from destination to sources. */
  const sw_gpu_slot* slot;
  /* "fp8", "bf16", "fp16", "fp32", "int32", "int64" or "bool". Addresses are
   * aligned to an element. */
  const char* dtype;
  int64_t row_elements; /* H, or 1 for labels. */
  const sw_buffer* sources;
  int64_t source_count;
  /* {NULL, 0} where the table is a view that the caller takes itself
   * (sw_table.is_view, forward): nothing is started for it. */
  sw_buffer destination;
  const void* fill; /* One element in host memory; NULL: zero. */
} sw_gpu_operation;

/* Starts operations that do not depend on one another, in one launch for each
 * eight. Buffers must stay until `stream` has got there. Nothing is started on
 * failure: INVALID_TENSOR names operation, buffer and value; CAPTURE_NEEDS_SLOT
 * a table outside a slot in a stream that is being captured; TABLES_TOO_LARGE
 * tables that do not fit the room for them together. */
SW_EXPORT sw_code sw_gpu_run(sw_gpu* gpu, const sw_gpu_operation* operations,
                             int64_t operation_count, void* stream);

#ifdef __cplusplus
}
#endif

#endif /* CLIENT_NATIVE_SHARDWRIGHT_GPU_H_ */

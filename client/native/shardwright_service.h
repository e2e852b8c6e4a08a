/* Members, barriers and workers: the part of libshardwright that speaks to
 * other processes. shardwright.h says what holds for all functions. */

#ifndef CLIENT_NATIVE_SHARDWRIGHT_SERVICE_H_
#define CLIENT_NATIVE_SHARDWRIGHT_SERVICE_H_

#include "client/native/shardwright_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Members ------------------------------------------------------------ */

/* This process as the trainer of one rank; a thread keeps its lease. */
typedef struct sw_member sw_member;

/* Registers. Waits up to `timeout_ms` for the lease of a holder that may be
 * dead; one that is alive is an error (MEMBER_ID_IN_USE) that names it. `job`
 * must be a coordinator's (OFFLINE_JOB), and may be destroyed afterwards. */
SW_EXPORT sw_code sw_member_join(const sw_job* job, int64_t rank,
                                 int64_t timeout_ms, sw_member** out);

/* Gives the lease up, so that the rank is free. An error, within seconds, if
 * the coordinator cannot be told: the lease runs out by itself then. The handle
 * remains, to be destroyed. */
SW_EXPORT sw_code sw_member_leave(sw_member* member);

/* Leaves, if that has not been done. */
SW_EXPORT void sw_member_destroy(sw_member* member);

/* SW_OK while a member. When membership has ended for good: FENCED or
 * MEMBER_ID_IN_USE if another process has the rank, RANK_NOT_IN_LAYOUT or
 * JOB_NOT_FOUND if the layout has it no more. */
SW_EXPORT sw_code sw_member_check(const sw_member* member);

/* What the process is doing, for those who wait for it; at most 64 bytes
 * (INVALID_PHASE). */
SW_EXPORT sw_code sw_member_set_phase(sw_member* member, const char* phase);

/* The layout's generation as last heard of, and the random id of this
 * registration. */
SW_EXPORT sw_code sw_member_get_generation(const sw_member* member,
                                           int64_t* generation);
SW_EXPORT sw_code sw_member_get_incarnation(const sw_member* member,
                                            uint64_t* incarnation);

/* Waits until every trainer of `scope` has come to the same `sequence` of the
 * barrier `name`. `scope` is empty for all ranks, "language" for a module,
 * "language/tp/3" for a clique; `digest` must be equal everywhere, 0 for none.
 * On DEADLINE_EXCEEDED the message and details name who is missing. */
SW_EXPORT sw_code sw_member_wait(sw_member* member, const char* name,
                                 int64_t sequence, const char* scope,
                                 uint64_t digest, int64_t timeout_ms);

/* ---- Workers ------------------------------------------------------------ */

/* A worker daemon. */
typedef struct sw_worker sw_worker;

/* At host:port. Connects when first used; each call may take `timeout_ms`. */
SW_EXPORT sw_code sw_worker_connect(const char* address, int64_t timeout_ms,
                                    sw_worker** out);
SW_EXPORT void sw_worker_destroy(sw_worker* worker);

/* {"job", "rank", "kind", "generation", "phase", "facts": {...}, "cliques":
 * [{"name", "attempt", "ranks", "state"}], "session_count", "copied_bytes",
 * "context_memory_bytes", "sessions": [{"segment_count", "region_count",
 * "region_bytes", "table_count", "order", "order_reason"}]} */
SW_EXPORT sw_code sw_worker_describe(const sw_worker* worker, char** json);

/* Shared memory that the worker has mapped; outlives the worker's handle. */
typedef struct sw_session sw_session;

/* A POSIX shared memory object of the caller's, of mode 0600. */
typedef struct {
  const char* name; /* "/shardwright-" and up to 64 of [A-Za-z0-9_-]. */
  int64_t size_bytes;
} sw_segment;

SW_EXPORT sw_code sw_session_open(const sw_worker* worker,
                                  const sw_segment* segments,
                                  int64_t segment_count, sw_session** out);

/* Ends the session: the worker unmaps the segments and unlinks their names, and
 * unmaps regions. Waits for what it copies on a GPU. */
SW_EXPORT void sw_session_destroy(sw_session* session);

/* A tensor in shared memory. */
typedef struct {
  int32_t segment; /* Index into sw_session_open()'s segments. */
  int64_t offset_bytes;
  int64_t size_bytes;
} sw_tensor;

/* One table of a plan over tensors of the session. */
typedef struct {
  const sw_plan* plan;
  sw_table_id table;
  int64_t row_bytes;
  const sw_tensor* sources;
  int64_t source_count;
  sw_tensor destination;
  const void* fill; /* NULL: zero bytes. */
  int64_t fill_bytes;
  int32_t adjoint; /* Not 0: from destination to sources. */
} sw_operation;

/* Has the worker carry out operations, in order; all are checked before a byte
 * moves. `copied_bytes` may be NULL. */
SW_EXPORT sw_code sw_session_run(const sw_session* session,
                                 const sw_operation* operations,
                                 int64_t operation_count,
                                 int64_t* copied_bytes);

/* Proves a plan: brings the shards of all members of this rank's clique of
 * `kind` ("tp_cp") together, and writes every row back into the operation's
 * sources. All members call with the same plan digest. `restored_rows`, one a
 * source, may be NULL. */
SW_EXPORT sw_code sw_session_gather(const sw_session* session, const char* kind,
                                    const sw_operation* operation,
                                    int64_t* restored_rows);

#ifdef __cplusplus
}
#endif

#endif /* CLIENT_NATIVE_SHARDWRIGHT_SERVICE_H_ */

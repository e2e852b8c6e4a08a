/* Route plans: which rows of the encoders' outputs a rank sends or receives for
 * a micro-batch; and the bridge, which is workers carrying them out.
 * shardwright.h says what holds for all functions. */

#ifndef CLIENT_NATIVE_SHARDWRIGHT_ROUTE_H_
#define CLIENT_NATIVE_SHARDWRIGHT_ROUTE_H_

#include "client/native/shardwright_region.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Immutable. Outlives the job it came from. */
typedef struct sw_route sw_route;

/* What `rank`, of an encoder or of the language module, sends or receives. */
SW_EXPORT sw_code sw_plan_route(const sw_job* job, int64_t rank,
                                const sw_batch* batch, sw_route** out);

SW_EXPORT void sw_route_destroy(sw_route* route);

/* What a rank does with the rows. */
typedef int32_t sw_route_role;
enum {
  SW_ROUTE_NONE = 0,    /* Nothing: an encoder's earlier pipeline stages, the
                           language module's later ones, no edge. */
  SW_ROUTE_SENDS = 1,   /* An encoder's last stage. */
  SW_ROUTE_RECEIVES = 2 /* The language module's first stage. */
};

/* A tensor of the rank's own: row i is of the i-th row of its lane. A rank that
 * sends has one, the lane's whole output. */
typedef struct {
  const char* name; /* "text" or a modality. */
  int64_t rows;
  int32_t is_received; /* Not 0: it comes from its encoder, and `rows` are those
                          that this rank owns. There is no tensor to bring. */
} sw_route_source;

typedef struct {
  uint64_t digest;    /* Equal on all ranks. */
  int64_t generation; /* Of the layout; 0 when planned from a file. */
  int64_t rank;
  int64_t tp, gtp_remat, cp, dp, pp, lane;
  sw_route_role role;
  int64_t micro_batch_size;
  int64_t shard_rows; /* [S / (cp * tp), B] of them; 0 unless it receives. */
  int64_t sent_rows;  /* Forward, to and from all peers together. */
  int64_t received_rows;
  const sw_route_source* sources; /* Valid as long as the route. */
  int64_t source_count;
} sw_route_info;
SW_EXPORT sw_code sw_route_get_info(const sw_route* route, sw_route_info* out);

/* {"digest", "rank", "transfers": [{"encoder", "source_rank",
 * "destination_rank", "row_count", "returned": [row, count]}]}, and with
 * `with_rows` for each transfer "rows": [[row, count], ...] of the source
 * lane's output. `returned` counts from the transfer's first row. */
SW_EXPORT sw_code sw_route_json(const sw_route* route, int32_t with_rows,
                                char** json);

/* ---- The bridge --------------------------------------------------------- */

/* What one rank brings to a micro-batch, in shared memory. */
typedef struct {
  const sw_route* route;
  int32_t backward; /* Not 0: gradients, from the shards to the encoders. */
  int64_t row_bytes;
  int64_t element_bytes; /* Divides row_bytes; 1 to 16. */
  /* One for each source of the route, in order; of 0 bytes if it is received.
   * Backward they are written: rows of which this rank has no gradient become
   * zero, and an encoder's are whole at all ranks of its last stage. */
  const sw_tensor* sources;
  int64_t source_count;
  sw_tensor shard;  /* Of 0 bytes unless the rank receives. Forward written. */
  const void* fill; /* One element, of padding; NULL: zero bytes. */
  /* Counts the calls: equal at all ranks, and one more for each. The first, and
   * one after a failure, may have any, and must not overlap another. */
  uint64_t sequence;
} sw_bridge;

/* The same in regions. */
typedef struct {
  const sw_route* route;
  int32_t backward;
  int64_t row_bytes;
  int64_t element_bytes;
  const sw_region_tensor* sources;
  int64_t source_count;
  sw_region_tensor shard;
  const void* fill;
  uint64_t sequence;
} sw_region_bridge;

/* Rows of this rank that went over the bridge. */
typedef struct {
  int64_t sent_bytes;
  int64_t received_bytes;
} sw_bridge_result;

/* Has the worker carry a route out. Every rank whose role is not SW_ROUTE_NONE
 * calls, also if it sends and receives nothing. Two calls may be under way at a
 * time. Returns when this rank's part is done; `result` may be NULL. A refusal
 * (SW_INVALID_ARGUMENT) comes before a row moves, and to all ranks. After
 * another failure, what was to be written is undefined. */
SW_EXPORT sw_code sw_session_bridge(const sw_session* session,
                                    const sw_bridge* bridge,
                                    sw_bridge_result* result);

/* The same in the order of `stream`, as sw_session_run_regions(). Calls of one
 * session follow one another: for two under way open two. */
SW_EXPORT sw_code sw_session_bridge_regions(const sw_session* session,
                                            const sw_region_bridge* bridge,
                                            void* stream,
                                            sw_bridge_result* result);

#ifdef __cplusplus
}
#endif

#endif /* CLIENT_NATIVE_SHARDWRIGHT_ROUTE_H_ */

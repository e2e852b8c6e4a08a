/* Shard plans: which rows a rank owns, and the copies that bring them there.
 * shardwright.h says what holds for all functions. */

#ifndef CLIENT_NATIVE_SHARDWRIGHT_PLAN_H_
#define CLIENT_NATIVE_SHARDWRIGHT_PLAN_H_

#include "client/native/shardwright.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Plans -------------------------------------------------------------- */

/* Immutable. Outlives the job it came from. */
typedef struct sw_plan sw_plan;

/* One lane's micro-batch, without its tokens. `cu_seqlens_padded` NULL means
 * dense; `cu_seqlens` may be NULL, and only counts padding. */
typedef struct {
  int64_t seq_length;
  int64_t micro_batch_size;
  const int64_t* cu_seqlens_padded;
  int64_t cu_seqlens_padded_count;
  const int64_t* cu_seqlens;
  int64_t cu_seqlens_count;
} sw_batch_shape;

/* What a batch says of one modality: its special token id, or a count. */
typedef struct {
  const char* name;
  int64_t value;
} sw_named_value;

/* Rows that each lane of a modality's encoder has. */
typedef struct {
  const char* name;
  const int64_t* rows;
  int64_t lane_count;
} sw_encoder_rows;

/* One global micro-batch with its tokens: language lane j owns samples
 * [j * micro_batch_size, (j + 1) * micro_batch_size). */
typedef struct {
  int64_t micro_batch_size;
  int64_t seq_length;
  const int64_t* input_ids;      /* Sample after sample. */
  const int64_t* sample_lengths; /* Of each; each must be seq_length. */
  int64_t sample_count;
  const sw_named_value* special_token_ids; /* One a modality. */
  int64_t special_token_id_count;
  /* Rows that are there, of "text" or a modality; checked where given. */
  const sw_named_value* counts;
  int64_t count_count;
  /* Of the encoders that split samples; of others, lanes have whole ones. */
  const sw_encoder_rows* encoder_rows;
  int64_t encoder_rows_count;
  /* THD: one list a language lane, one after another; 0 lanes: dense. */
  const int64_t* cu_seqlens_padded;
  const int64_t* cu_seqlens_padded_counts; /* Entries of each lane's list. */
  int64_t cu_seqlens_padded_lane_count;
} sw_batch;

/* What `rank` owns of a batch of this shape. The source is "sequence". */
SW_EXPORT sw_code sw_plan_shard(const sw_job* job, int64_t rank,
                                const sw_batch_shape* shape, sw_plan** out);

/* The same from the tokens: aligns the modalities and shards in one step. The
 * sources are "text" and then the modalities, by name. */
SW_EXPORT sw_code sw_plan_compose(const sw_job* job, int64_t rank,
                                  const sw_batch* batch, sw_plan** out);

SW_EXPORT void sw_plan_destroy(sw_plan* plan);

typedef struct {
  uint64_t digest;    /* Equal on all ranks: compare before bytes move. */
  int64_t generation; /* Of the layout; 0 when planned from a file. */
  int64_t rank;
  int64_t tp, gtp_remat, cp, dp, pp, lane;
  int64_t seq_length;
  int64_t micro_batch_size;
  int64_t token_count; /* Of this rank, all samples. */
  int64_t padding_token_count;
  int64_t causal_work; /* Query-key pairs of causal attention. */
} sw_plan_info;
SW_EXPORT sw_code sw_plan_get_info(const sw_plan* plan, sw_plan_info* out);

/* As `shardctl plan shard|compose -o json`, for this one rank. */
SW_EXPORT sw_code sw_plan_json(const sw_plan* plan, int32_t with_positions,
                               char** json);

/* The two tables of a plan; others are refused (INVALID_TABLE_ID). */
typedef int32_t sw_table_id;
enum {
  SW_EMBEDDINGS = 0, /* [S, B, H] or the sources' rows -> [S/(cp*tp), B, H].
                        Absent (NO_EMBEDDINGS) on later pipeline stages. */
  SW_LABELS = 1      /* [B, S] -> [B, S/cp], a row is one element. */
};

/* Rows [source_row, +row_count) of a source, -1 for the fill value; row i goes
 * to destination_row + i * destination_stride. */
typedef struct {
  int32_t source;
  int64_t source_row;
  int64_t destination_row;
  int64_t destination_stride;
  int64_t row_count;
} sw_row_copy;

/* Positions [position, position + count) of a sample. */
typedef struct {
  int64_t position;
  int64_t count;
} sw_position_run;

/* Pointers into the plan, valid as long as it. */
typedef struct {
  const sw_row_copy* entries; /* Ascending by destination_row. */
  int64_t entry_count;
  const int64_t* source_rows; /* How many rows each source has. */
  const char* const* source_names;
  int64_t source_count;
  int64_t destination_rows;
  int32_t is_view;             /* One run of one source: entry 0 says where. */
  const sw_position_run* runs; /* Owned positions, in local order. */
  int64_t run_count;
} sw_table;
SW_EXPORT sw_code sw_plan_get_table(const sw_plan* plan, sw_table_id id,
                                    sw_table* out);

/* ---- Running plans on host memory --------------------------------------- */

/* The caller's memory; `data` may be NULL if `size_bytes` is 0. */
typedef struct {
  void* data;
  int64_t size_bytes;
} sw_buffer;

/* Writes all of `destination` (destination_rows * row_bytes bytes) from one
 * buffer a source (source_rows * row_bytes bytes, only read). Filled rows get
 * `fill` over and over; NULL means zero. Nothing is written on failure
 * (INVALID_TENSOR). */
SW_EXPORT sw_code sw_plan_run(const sw_plan* plan, sw_table_id id,
                              int64_t row_bytes, const sw_buffer* sources,
                              int64_t source_count, sw_buffer destination,
                              const void* fill, int64_t fill_bytes);

/* The other way: rows of `destination` (only read) back to the sources. Source
 * rows that are not in the plan become zero. */
SW_EXPORT sw_code sw_plan_run_adjoint(const sw_plan* plan, sw_table_id id,
                                      int64_t row_bytes, sw_buffer destination,
                                      const sw_buffer* sources,
                                      int64_t source_count);

#ifdef __cplusplus
}
#endif

#endif /* CLIENT_NATIVE_SHARDWRIGHT_PLAN_H_ */

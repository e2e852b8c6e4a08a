/* libshardwright, the C interface of Shardwright: what holds for all of it, and
 * jobs. shardwright_plan.h makes plans and carries them out on host memory in
 * the caller's thread; shardwright_service.h has members, barriers and workers.
 *
 * Handles are opaque. Each comes from one function and goes to its _destroy
 * function, which accepts NULL; no other thread may be using it then. Later use
 * is refused (FREED_HANDLE), as long as no new handle has its address.
 *
 * Threads: every function may be called from any thread at any time, and any
 * number of threads may use one handle. No function calls back.
 *
 * Errors: functions that can fail return SW_OK or the code of the failure, and
 * leave their outputs untouched. Message and reason of the calling thread's
 * last failure are then at sw_last_error() and sw_last_error_reason(); programs
 * branch on reasons, never on messages. Every pointer is checked for NULL
 * (NULL_ARGUMENT), every size and index before memory is touched.
 *
 * Text is UTF-8 and ends with a NUL. A `char**` output belongs to the caller:
 * sw_free(). A `const char*` result belongs to the handle it came from.
 *
 * Counts and sizes are int64_t; a size in bytes is called _bytes, a duration in
 * milliseconds _ms. */

#ifndef CLIENT_NATIVE_SHARDWRIGHT_H_
#define CLIENT_NATIVE_SHARDWRIGHT_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SW_EXPORT __attribute__((visibility("default")))

/* Grows with every change that is not an addition. */
#define SW_ABI_VERSION 1
SW_EXPORT int32_t sw_abi_version(void);

/* The canonical codes of gRPC and absl. */
typedef enum {
  SW_OK = 0,
  SW_CANCELLED = 1,
  SW_UNKNOWN = 2,
  SW_INVALID_ARGUMENT = 3,
  SW_DEADLINE_EXCEEDED = 4,
  SW_NOT_FOUND = 5,
  SW_ALREADY_EXISTS = 6,
  SW_PERMISSION_DENIED = 7,
  SW_RESOURCE_EXHAUSTED = 8,
  SW_FAILED_PRECONDITION = 9,
  SW_ABORTED = 10,
  SW_OUT_OF_RANGE = 11,
  SW_UNIMPLEMENTED = 12,
  SW_INTERNAL = 13,
  SW_UNAVAILABLE = 14,
  SW_DATA_LOSS = 15,
  SW_UNAUTHENTICATED = 16
} sw_code;

/* Of the calling thread's last failure, until its next one. Never NULL. The
 * reason is UPPER_SNAKE_CASE, or empty. The details are a JSON object:
 * {"metadata": {...}, "missing": "0-3,17", "violations": [{"field",
 * "description", "hint"}]}, each only where there is one. */
SW_EXPORT const char* sw_last_error(void);
SW_EXPORT const char* sw_last_error_reason(void);
SW_EXPORT const char* sw_last_error_details(void);

/* Frees a text that a function handed out. Accepts NULL. */
SW_EXPORT void sw_free(char* text);

/* ---- Jobs: where layouts and plans come from ---------------------------- */

typedef struct sw_job sw_job;

/* A job of a coordinator at host:port. Connects when first used; calls that
 * find it unreachable are repeated for up to `retry_timeout_ms`, 0 for never.
 */
SW_EXPORT sw_code sw_job_connect(const char* address, const char* job,
                                 int64_t retry_timeout_ms, sw_job** out);

/* A layout of one's own, from the text of a layout file (YAML or JSON): plans
 * are made in this process. `name` stands for the file in messages. Fails with
 * INVALID_LAYOUT and all problems at once. */
SW_EXPORT sw_code sw_job_read(const char* text, const char* name, sw_job** out);

SW_EXPORT void sw_job_destroy(sw_job* job);

/* Who `rank` is, as JSON: module, role, coordinates, parallelism, groups. */
SW_EXPORT sw_code sw_job_explain_rank(const sw_job* job, int64_t rank,
                                      char** json);

/* All groups of all modules, as `shardctl layout groups -o json`. */
SW_EXPORT sw_code sw_job_groups(const sw_job* job, char** json);

#ifdef __cplusplus
}
#endif

#endif /* CLIENT_NATIVE_SHARDWRIGHT_H_ */

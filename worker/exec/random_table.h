// What tests of executors run: random tables and random bytes.

#ifndef WORKER_EXEC_RANDOM_TABLE_H_
#define WORKER_EXEC_RANDOM_TABLE_H_

#include <cstdint>
#include <random>
#include <string>

#include "proto/plan/copy_table.h"

namespace shardwright {

std::string RandomBytes(int64_t count, std::mt19937& random);

// A table of `stride` samples interleaved: each sample's `rows` positions are
// cut into random runs, each of which reads on in a random source, or, if
// `fills`, now and then fills or keeps what is there. Sources have rows before,
// between and after those that are read.
CopyTable RandomTable(int64_t stride, int source_count, int64_t rows,
                      bool fills, std::mt19937& random);

}  // namespace shardwright

#endif  // WORKER_EXEC_RANDOM_TABLE_H_

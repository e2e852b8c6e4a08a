#include "worker/kernels/bulk_copy.cuh"
#include "worker/kernels/copy_rows.h"
#include "worker/kernels/move_walk.cuh"

namespace shardwright {
namespace {

// Found by measuring (worker/README.md): one block a multiprocessor, whose
// warps each have a ring of tiles in shared memory. Two thirds of a ring's
// tiles are on their way in, the others on their way out.
constexpr int kBulkWarps = 4;
constexpr int kTileBytes = 4096;
constexpr int kTiles = 12;
[[maybe_unused]] constexpr int kLoadsAhead = 8;

// Beside them in each block, for the tables that bulk copies cannot carry out.
constexpr int kOtherWarps = 4;

// A warp goes through a table in steps of at most this, and all warps through
// neighbouring steps at a time: memory is fastest when all are near each other.
[[maybe_unused]] constexpr int64_t kStepBytes = 32 << 10;

constexpr int kThreadWarps = 8;   // Blocks without bulk copies.
constexpr int kThreadBlocks = 2;  // Of them, a multiprocessor.

// No warp takes less than this, but for the last: a piece of its own costs it a
// search of the table.
constexpr int64_t kShareBytesMin = 1024;

struct Launch {
  RowCopyArguments copies[kCopiesPerLaunchMax];
  int count;
  bool bulk_copies;  // Some table is carried out by them.

  __host__ __device__ bool InBulk(int i) const {
    return bulk_copies && copies[i].alignment == 16;
  }
};

template <typename Access>
__device__ void FillPiece(const RowCopyArguments& copy, const Piece& piece,
                          uint32_t accesses) {
  for (uint32_t i = threadIdx.x % kLanes; i < accesses * piece.count;
       i += kLanes) {
    const uint32_t row = piece.count == 1 ? 0 : i / accesses;
    const uint32_t byte = (i - row * accesses) * sizeof(Access);
    const uint32_t phase = (piece.fill_phase + byte) % sizeof(copy.fill);
    *reinterpret_cast<Access*>(piece.to + row * piece.to_pitch + byte) =
        *reinterpret_cast<const Access*>(copy.fill + phase);
  }
}

template <typename Access>
__device__ void CopyPiece(const Piece& piece, uint32_t accesses) {
  constexpr int kInFlight = 4;
  const uint32_t total = accesses * piece.count;
  for (uint32_t first = threadIdx.x % kLanes; first < total;
       first += kInFlight * kLanes) {
    Access values[kInFlight];
    char* to[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const uint32_t i = first + k * kLanes;
      if (i >= total) break;
      const uint32_t row = piece.count == 1 ? 0 : i / accesses;
      const uint32_t byte = (i - row * accesses) * sizeof(Access);
      to[k] = piece.to + row * piece.to_pitch + byte;
      values[k] = *reinterpret_cast<const Access*>(
          piece.from + row * piece.from_pitch + byte);
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (first + k * kLanes < total)
        *reinterpret_cast<Access*>(to[k]) = values[k];
    }
  }
}

template <typename Access>
__device__ void MovePiece(const RowCopyArguments& copy, const Piece& piece) {
  const uint32_t accesses = piece.bytes / sizeof(Access);
  if (piece.from == nullptr) {
    FillPiece<Access>(copy, piece, accesses);
  } else {
    CopyPiece<Access>(piece, accesses);
  }
}

// Bytes [begin, end) of a table, by this warp's threads.
__device__ void CopyRange(const RowCopyArguments& copy, int64_t begin,
                          int64_t end) {
  MoveWalk walk(copy, begin, end);
  while (!walk.Done()) {
    const Piece piece = walk.Next(1u << 20);
    switch (copy.alignment) {
      case 16:
        MovePiece<uint4>(copy, piece);
        break;
      case 8:
        MovePiece<uint2>(copy, piece);
        break;
      case 4:
        MovePiece<uint32_t>(copy, piece);
        break;
      case 2:
        MovePiece<uint16_t>(copy, piece);
        break;
      default:
        MovePiece<uint8_t>(copy, piece);
        break;
    }
  }
}

// The way out of a piece that is in a tile.
struct Outgoing {
  char* to;
  int64_t to_pitch;
  uint32_t bytes;
  uint32_t count;
};

// One warp's tiles. Pieces go in and come out in order.
struct Ring {
  alignas(128) unsigned char tiles[kTiles][kTileBytes];
  uint64_t loaded[kTiles];
  Outgoing outgoing[kTiles];
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

class BulkCopier {
 public:
  __device__ explicit BulkCopier(Ring& ring) : ring_(ring) {
    if (Lane() == 0) {
      for (uint64_t& barrier : ring.loaded) InitBarrier(&barrier);
      PublishBarriers();
    }
    __syncwarp();
  }

  // Bytes [begin, end) of a table.
  __device__ void Copy(const RowCopyArguments& copy, int64_t begin,
                       int64_t end) {
    MoveWalk walk(copy, begin, end);
    while (!walk.Done()) {
      const Piece piece = walk.Next(kTileBytes);
      if (piece.from == nullptr) {
        MovePiece<uint4>(copy, piece);
        continue;
      }
      Load(piece);
      if (loads_ - stores_ > kLoadsAhead) Store();
    }
  }

  __device__ void Drain() {
    while (stores_ < loads_) Store();
    WaitForStores();
  }

 private:
  __device__ static uint32_t Lane() { return threadIdx.x % kLanes; }

  __device__ void Load(const Piece& piece) {
    // The tile's last piece was sent kTiles loads ago, and kLoadsAhead pieces
    // after it are still to be sent.
    WaitForStoresRead<kTiles - kLoadsAhead - 1>();
    __syncwarp();
    const uint32_t tile = loads_ % kTiles;
    if (Lane() == 0) {
      ring_.outgoing[tile] = {piece.to, piece.to_pitch, piece.bytes,
                              piece.count};
      ExpectBytes(&ring_.loaded[tile], piece.bytes * piece.count);
    }
    __syncwarp();
    if (Lane() < piece.count) {
      BulkLoad(ring_.tiles[tile] + Lane() * piece.bytes,
               piece.from + Lane() * piece.from_pitch, piece.bytes,
               &ring_.loaded[tile]);
    }
    ++loads_;
  }

  __device__ void Store() {
    const uint32_t tile = stores_ % kTiles;
    WaitForPhase(&ring_.loaded[tile], stores_ / kTiles % 2);
    const Outgoing out = ring_.outgoing[tile];
    if (Lane() < out.count) {
      BulkStore(out.to + Lane() * out.to_pitch,
                ring_.tiles[tile] + Lane() * out.bytes, out.bytes);
    }
    CommitStores();
    ++stores_;
  }

  Ring& ring_;
  uint32_t loads_ = 0, stores_ = 0;
};

#endif

// Warps that share tables, and which one this is. Those of one block are far
// apart, so that few bytes keep all blocks busy.
struct Team {
  // `members` warps of each block; this is the `member`th.
  __device__ Team(int member, int members)
      : warp(member * gridDim.x + blockIdx.x),
        warp_count(members * gridDim.x) {}

  // How many bytes of a table each warp moves at a time, when all of them
  // together go over it in `rounds`.
  __device__ int64_t ShareBytes(int64_t total, int64_t rounds) const {
    constexpr int64_t kSector = 128;
    const int64_t even =
        (total + warp_count * rounds - 1) / (warp_count * rounds);
    return max((even + kSector - 1) / kSector * kSector, kShareBytesMin);
  }

  const int64_t warp;
  const int64_t warp_count;
};

__device__ int64_t TotalBytes(const RowCopyArguments& copy) {
  return copy.table->row_count * copy.row_bytes;
}

// Of a launch, the tables that bulk copies do not carry out, by `warps` warps
// of each block, of which this is number `warp`. They take different tables:
// small ones cost mostly the time to find the way into them.
__device__ void CopyByThreads(const Launch& launch, int warp, int warps) {
  int tables = 0;
  for (int i = 0; i < launch.count; ++i) tables += !launch.InBulk(i);
  const int teams = max(min(tables, warps), 1);
  const int own = warp % teams;
  const Team team(warp / teams, (warps - own + teams - 1) / teams);
  int next = 0;
  for (int i = 0; i < launch.count; ++i) {
    if (launch.InBulk(i) || next++ % teams != own) continue;
    const int64_t total = TotalBytes(launch.copies[i]);
    const int64_t share = team.ShareBytes(total, 1);
    CopyRange(launch.copies[i], min(team.warp * share, total),
              min((team.warp + 1) * share, total));
  }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// Of a launch, the others.
__device__ void CopyInBulk(const Launch& launch, const Team& team, Ring& ring) {
  BulkCopier copier(ring);
  for (int i = 0; i < launch.count; ++i) {
    if (!launch.InBulk(i)) continue;
    const int64_t total = TotalBytes(launch.copies[i]);
    const int64_t step = team.warp_count * kStepBytes;
    const int64_t share =
        team.ShareBytes(total, max((total + step - 1) / step, int64_t{1}));
    for (int64_t begin = team.warp * share; begin < total;
         begin += team.warp_count * share) {
      copier.Copy(launch.copies[i], begin, min(begin + share, total));
    }
  }
  copier.Drain();
}

#endif

__global__ void __launch_bounds__(kThreadWarps* kLanes, kThreadBlocks)
    CopyRowsByThreads(const __grid_constant__ Launch launch) {
  CopyByThreads(launch, threadIdx.x / kLanes, kThreadWarps);
}

__global__ void __launch_bounds__((kBulkWarps + kOtherWarps) * kLanes, 1)
    CopyRowsInBulk(const __grid_constant__ Launch launch) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ Ring rings[];
  const int warp = threadIdx.x / kLanes;
  if (warp < kBulkWarps) {
    CopyInBulk(launch, Team(warp, kBulkWarps), rings[warp]);
  } else {
    CopyByThreads(launch, warp - kBulkWarps, kOtherWarps);
  }
#endif
}

}  // namespace

cudaError_t PrepareCopyRows(int ordinal, CopyRowsDevice* device) {
  cudaError_t error = cudaSetDevice(ordinal);
  int major = 0;
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                   ordinal);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&device->multiprocessor_count,
                                   cudaDevAttrMultiProcessorCount, ordinal);
  }
  device->ordinal = ordinal;
  int shared_bytes = 0;
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(
        &shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  }
  // Some have the engine, but no room for the rings.
  device->bulk_copies =
      major >= 9 && shared_bytes >= kBulkWarps * static_cast<int>(sizeof(Ring));
  if (error == cudaSuccess && device->bulk_copies) {
    error = cudaFuncSetAttribute(CopyRowsInBulk,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 kBulkWarps * sizeof(Ring));
  }
  return error;
}

cudaError_t LaunchCopyRows(const CopyRowsDevice& device,
                           const RowCopyArguments* copies, int count,
                           cudaStream_t stream) {
  Launch launch = {};
  launch.count = count;
  for (int i = 0; i < count; ++i) {
    launch.copies[i] = copies[i];
    launch.bulk_copies |= device.bulk_copies && copies[i].alignment == 16;
  }
  // Not <<<>>>, whose errors cannot be told from those of whoever came before.
  void* arguments[] = {&launch};
  if (launch.bulk_copies) {
    return cudaLaunchKernel(CopyRowsInBulk, device.multiprocessor_count,
                            (kBulkWarps + kOtherWarps) * kLanes, arguments,
                            kBulkWarps * sizeof(Ring), stream);
  }
  return cudaLaunchKernel(CopyRowsByThreads,
                          device.multiprocessor_count * kThreadBlocks,
                          kThreadWarps * kLanes, arguments, 0, stream);
}

}  // namespace shardwright

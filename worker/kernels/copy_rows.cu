#include "worker/kernels/bulk_copy.cuh"
#include "worker/kernels/copy_rows.h"
#include "worker/kernels/move_walk.cuh"

namespace shardwright {
namespace {

// Found by measuring (worker/README.md): one block a multiprocessor, whose
// warps each have a ring of tiles in shared memory. About half of a ring's
// tiles are on their way in, the others on their way out.
constexpr int kBulkWarps = 4;
constexpr int kTileBytes = 8192;
constexpr int kTiles = 6;
constexpr int kLoadsAhead = 3;
constexpr int kRounds = 1;

constexpr int kThreadWarps = 16;  // Blocks without bulk copies.
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
  constexpr int kInFlight = 8;
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
__device__ void CopyByThreads(const RowCopyArguments& copy, int64_t begin,
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
  __device__ explicit BulkCopier(Ring& ring)
      : ring_(ring), policy_(StreamingPolicy()) {
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
               &ring_.loaded[tile], policy_);
    }
    ++loads_;
  }

  __device__ void Store() {
    const uint32_t tile = stores_ % kTiles;
    WaitForPhase(&ring_.loaded[tile], stores_ / kTiles % 2);
    const Outgoing out = ring_.outgoing[tile];
    if (Lane() < out.count) {
      BulkStore(out.to + Lane() * out.to_pitch,
                ring_.tiles[tile] + Lane() * out.bytes, out.bytes, policy_);
    }
    CommitStores();
    ++stores_;
  }

  Ring& ring_;
  const uint64_t policy_;
  uint32_t loads_ = 0, stores_ = 0;
};

#endif

// How many bytes of a table one warp moves in a round.
__device__ int64_t ShareBytes(int64_t total, int64_t warps) {
  constexpr int64_t kSector = 128;
  const int64_t even = (total + warps - 1) / warps;
  return max((even + kSector - 1) / kSector * kSector, kShareBytesMin);
}

__device__ int64_t TotalBytes(const RowCopyArguments& copy) {
  return copy.table->row_count * copy.row_bytes;
}

__device__ int64_t Warps() { return gridDim.x * (blockDim.x / kLanes); }

// Warps of one block are far apart, so that few bytes keep all blocks busy.
__device__ int64_t Warp() {
  return threadIdx.x / kLanes * gridDim.x + blockIdx.x;
}

__device__ void CopySharesByThreads(const Launch& launch) {
  for (int i = 0; i < launch.count; ++i) {
    if (launch.InBulk(i)) continue;
    const RowCopyArguments& copy = launch.copies[i];
    const int64_t total = TotalBytes(copy);
    const int64_t share = ShareBytes(total, Warps());
    CopyByThreads(copy, min(Warp() * share, total),
                  min((Warp() + 1) * share, total));
  }
}

__global__ void __launch_bounds__(kThreadWarps* kLanes, kThreadBlocks)
    CopyRowsByThreads(const __grid_constant__ Launch launch) {
  CopySharesByThreads(launch);
}

// Tables that bulk copies cannot carry out come first: they are small, and a
// warp that had to wait for its last tile would be late with them.
__global__ void __launch_bounds__(kBulkWarps* kLanes, 1)
    CopyRowsInBulk(const __grid_constant__ Launch launch) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  CopySharesByThreads(launch);
  extern __shared__ Ring rings[];
  BulkCopier copier(rings[threadIdx.x / kLanes]);
  for (int i = 0; i < launch.count; ++i) {
    const RowCopyArguments& copy = launch.copies[i];
    if (!launch.InBulk(i)) continue;
    const int64_t total = TotalBytes(copy);
    const int64_t share = ShareBytes(total, Warps() * kRounds);
    for (int64_t begin = Warp() * share; begin < total;
         begin += Warps() * share) {
      copier.Copy(copy, begin, min(begin + share, total));
    }
  }
  copier.Drain();
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
  device->bulk_copies = major >= 9;
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
  if (launch.bulk_copies) {
    CopyRowsInBulk<<<device.multiprocessor_count, kBulkWarps * kLanes,
                     kBulkWarps * sizeof(Ring), stream>>>(launch);
  } else {
    CopyRowsByThreads<<<device.multiprocessor_count * kThreadBlocks,
                        kThreadWarps * kLanes, 0, stream>>>(launch);
  }
  return cudaGetLastError();
}

}  // namespace shardwright

#include "proto/status/status_macros.h"
#include "worker/backend.h"
#include "worker/comm/nccl_communicator.h"
#include "worker/comm/nccl_minter.h"
#include "worker/device/cuda_device.h"
#include "worker/device/cuda_region_device.h"

namespace shardwright {

absl::StatusOr<Backend> OpenCudaBackend(const WorkerOptions& options) {
  Backend backend;
  ASSIGN_OR_RETURN(const NcclFacts nccl_facts, ProbeNccl());
  const std::map<std::string, int64_t> free_before = FreeGpuMemory();
  ASSIGN_OR_RETURN(std::unique_ptr<CudaDevice> opened,
                   CudaDevice::Open(options.gpu));
  CudaDevice& device = *opened;
  backend.gpu = std::move(opened);
  backend.gpu_regions = std::make_unique<CudaRegionDevice>(device, free_before);
  NcclOptions nccl;
  nccl.device = device.ordinal();
  nccl.connect_timeout = options.form_timeout;
  ASSIGN_OR_RETURN(backend.factory, CreateNcclFactory(nccl));
  backend.facts.set_device(device.facts().uuid);
  backend.facts.set_comm_backend(backend.factory->backend());
  backend.facts.set_nccl_version(nccl_facts.version);
  backend.facts.set_nccl_address(nccl_facts.address);
  backend.describe = [&device](v1::WorkerDescription& description) {
    const CudaDevice::Usage usage = device.usage();
    description.set_gpu_name(device.facts().name);
    description.set_tables_resident(usage.table_count);
    description.set_table_bytes(usage.table_bytes);
  };
  return backend;
}

std::optional<int> RunBackendProcess(int argc, char** argv) {
  return RunNcclMinter(argc, argv);
}

}  // namespace shardwright

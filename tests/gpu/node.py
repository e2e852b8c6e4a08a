"""What a node has: GPUs, the driver, NCCL, the compute sanitizer."""

import ctypes
import ctypes.util
import glob
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import subprocess

DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu")


def driver():
  """libcuda, or None on a node without a driver."""
  for path in ("libcuda.so.1",
               *(f"{folder}/libcuda.so.1" for folder in DRIVER_FOLDERS)):
    try:
      return ctypes.CDLL(path)
    except OSError:
      pass
  return None


def gpus():
  """Name and MiB of each GPU that this process may use."""
  cuda = driver()
  count, found = ctypes.c_int(), []
  # 100: no device; whatever else goes wrong, there is none to be used.
  if not cuda or cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
    return []
  for ordinal in range(count.value):
    name, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), ordinal)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), ordinal)
    found.append((name.value.decode(), size.value >> 20))
  return found


def _package_folder(name):
  """Where a Python package is, without importing it."""
  try:
    spec = importlib.util.find_spec(name)
  except (ImportError, ValueError):
    return None
  places = list(spec.submodule_search_locations or []) if spec else []
  return pathlib.Path(places[0]) if places else None


def nccl_folder():
  """The folder of libnccl.so.2; None if the loader finds it by itself."""
  if ctypes.util.find_library("nccl"):
    return None
  places = [_package_folder("nvidia.nccl"), _package_folder("torch")]
  for place in filter(None, places):
    if (place / "lib/libnccl.so.2").is_file():
      return str(place / "lib")
  return None


def loader_path():
  """LD_LIBRARY_PATH for programs that look for the driver and NCCL."""
  folders = [os.environ.get("LD_LIBRARY_PATH", ""), nccl_folder() or ""]
  folders += [f for f in DRIVER_FOLDERS[:1] if os.path.isdir(f)]
  return ":".join(filter(None, folders))


def find_sanitizer():
  """The program compute-sanitizer, or None."""
  places = ["/usr/local/cuda/bin/compute-sanitizer",
            *sorted(glob.glob("/usr/local/cuda*/bin/compute-sanitizer"))]
  return shutil.which("compute-sanitizer") or next(
      (place for place in places if os.access(place, os.X_OK)), None)


def _cpu():
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
  except OSError:
    text = ""
  model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
  return model[1] if model else platform.machine()


def _driver_version():
  program = shutil.which("nvidia-smi") or "/usr/local/nvidia/bin/nvidia-smi"
  try:
    return subprocess.run(
        [program, "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True, encoding="utf-8", timeout=20,
        check=True).stdout.split()[0]
  except (OSError, IndexError, subprocess.SubprocessError):
    return "unknown"


def hardware():
  """For people, and for whoever compares two reports."""
  found = gpus()
  return {
      "gpus": [name for name, _ in found],
      "gpu_memory_mib": [mib for _, mib in found],
      "driver": _driver_version() if found else "none",
      "cpu": f"{os.cpu_count()} cores of {_cpu()}",
      "kernel": platform.release(),
      "nccl_folder": nccl_folder() or "the loader's",
  }

"""What daemon.py checks and times: a trainer beside a worker, on one GPU."""

import ctypes
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time

import numpy
import torch

import node
import shardwright
from daemon_breakdown import Breakdown
from daemon_programs import PATIENCE_S, Program, wait_until

PROGRAM = pathlib.Path(__file__).with_name("daemon.py")
RANK = 1  # A language rank that is cp 0, tp 0; its worker is the only one.
IMAGE = 501  # Its token stands for a row of an image.
LAYOUT = {
    "name": "daemon",
    "world_size": 5,
    "modules": [{
        "name": "images",
        "role": "ENCODER",
        "first_rank": 0,
        "rank_count": 1
    }, {
        "name": "language",
        "role": "LANGUAGE",
        "first_rank": 1,
        "rank_count": 4,
        "parallelism": {"tp": 2, "cp": 2, "sequence_parallel": True}
    }],
    "edges": [{"from": "images", "to": "language"}],
}


def start_worker(bundle, folder, coordinator):
  return Program(folder, bundle / "bin/workerd", "--coordinator", coordinator,
                 "--job", LAYOUT["name"], "--rank", RANK, "--device", "cuda",
                 "--gpu", "0")


def plans(seq_length=64, micro_batch=2):
  """Plans of every kind for this rank, by name."""
  job = shardwright.Layout(json.dumps(LAYOUT))
  random = numpy.random.default_rng(3)
  ids = random.integers(499, 503, (2, seq_length))
  batch = {
      "micro_batch_size": 2,
      "seq_length": seq_length,
      "special_token_ids": {"images": IMAGE},
      "samples": list(ids),
  }
  half = seq_length // 4
  return {
      "dense": job.shard_plan(
          RANK, seq_length=seq_length, micro_batch=micro_batch),
      "thd": job.shard_plan(
          RANK, seq_length=seq_length, micro_batch=1,
          cu_seqlens_padded=[0, half, half, seq_length]),
      "compose": job.compose_plan(RANK, batch),
  }


def host_arrays(plan, row_shape, dtype):
  """Random sources in the form that the plan takes."""
  random = numpy.random.default_rng(5)

  def new(shape, _):
    size = int(numpy.prod(shape)) * numpy.dtype(dtype).itemsize
    return numpy.frombuffer(random.bytes(size), dtype).reshape(shape).copy()

  return plan.new_sources(row_shape, dtype, new)


class Arena:
  """One registered allocation, from which tensors are cut."""

  def __init__(self, session, size=64 << 20):
    self._bytes = torch.empty(size, dtype=torch.uint8, device="cuda")
    self._used = 0
    session.register(self._bytes)

  def empty(self, shape, dtype, offset=0):
    """A poisoned tensor; `offset` elements behind an aligned address."""
    size = int(numpy.prod(shape)) * numpy.dtype(dtype).itemsize
    begin = self._used + offset * numpy.dtype(dtype).itemsize
    self._used = -(-(begin + size) // 256) * 256
    piece = self._bytes[begin:begin + size]
    piece.fill_(0xA5)
    return piece.view(getattr(torch, numpy.dtype(dtype).name)).reshape(shape)

  def put(self, array, offset=0):
    tensor = self.empty(array.shape, array.dtype, offset)
    tensor.copy_(torch.from_numpy(array))
    return tensor


def expect_equal(name, tensor, array):
  got = tensor.cpu().numpy()
  if got.tobytes() != array.tobytes():
    wrong = numpy.flatnonzero(
        numpy.frombuffer(got.tobytes(), numpy.uint8) !=
        numpy.frombuffer(array.tobytes(), numpy.uint8))
    raise AssertionError(
        f"{name}: {wrong.size} of {array.nbytes} bytes differ, the first at "
        f"{wrong[0]}")


def expect_error(reason, words, function, *arguments, **options):
  try:
    function(*arguments, **options)
  except shardwright.ShardwrightError as error:
    if error.reason != reason or words not in str(error):
      raise AssertionError(
          f"expected {reason} with {words!r}, got {error.reason}: {error}"
      ) from error
    return
  raise AssertionError(f"expected {reason} with {words!r}, got no error")


class Daemon:
  """The cases. Each method check_* is one."""

  def __init__(self, bundle, folder):
    self.bundle, self.folder = bundle, folder
    layout = folder / "layout.json"
    layout.write_text(json.dumps(LAYOUT), encoding="utf-8")
    self.coordinator = Program(
        folder, bundle / "bin/coordinatord", "--store", "memory", "--layout",
        layout)
    address = self.coordinator.address()
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    free, _ = torch.cuda.mem_get_info()
    self.worker = start_worker(bundle, folder, address)
    self.address = self.worker.address()
    self.context_bytes = free - torch.cuda.mem_get_info()[0]
    self.figures = {}

  def end(self):
    self.worker.kill()
    self.coordinator.kill()

  def figure(self, name, got, unit, reference=None):
    self.figures[name] = {"got": got, "unit": unit, "reference": reference}

  def client(self, timeout=30.0):
    return shardwright.worker(self.address, timeout=timeout)

  def check_a_attach(self):
    """First, so that the worker has done nothing yet."""
    plan = plans(8192, 1)["dense"]
    source = torch.zeros(8192, 1, 4096, dtype=torch.int16, device="cuda")
    shard = torch.zeros(plan.embedding_shape((4096,)), dtype=torch.int16,
                        device="cuda")
    torch.cuda.synchronize()
    times = []
    for _ in range(10):
      begin = time.perf_counter()
      with self.client().gpu_session() as session:
        session.register(source)
        session.register(shard)
        session.run(plan, source, shard)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) * 1e3)
    self.figure("daemon attach to first shard, first trainer", times[0], "ms",
                100)
    self.figure("daemon attach to first shard, median of 10",
                statistics.median(times), "ms", 100)

  def check_b_context_memory(self):
    self.figure("daemon context memory, seen by the trainer",
                self.context_bytes / 2**20, "MiB")
    told = self.client().describe()["context_memory_bytes"]
    self.figure("daemon context memory, as described", told / 2**20, "MiB")
    if told <= 0:
      raise AssertionError("describe tells no context_memory_bytes")

  def _compare(self, session, name, plan, dtype, hidden, offset):
    arena = Arena(session)
    given = host_arrays(plan, (hidden,), dtype)
    composed = isinstance(given, dict)
    sources = ({k: arena.put(v, offset) for k, v in given.items()}
               if composed else arena.put(given, offset))
    local = plan.compose(given) if composed else plan.shard(given)
    out = arena.empty(local.shape, dtype, offset)
    what = f"{name} {numpy.dtype(dtype).name} H={hidden} {session.order}"
    session.run(plan, sources, out,
                stream=torch.cuda.current_stream().cuda_stream)
    torch.cuda.current_stream().synchronize()
    expect_equal(what, out, local)
    back = (
        {k: arena.empty(v.shape, dtype, offset) for k, v in given.items()}
        if composed else arena.empty(given.shape, dtype, offset))
    session.run_adjoint(plan, out, back,
                        stream=torch.cuda.current_stream().cuda_stream)
    torch.cuda.current_stream().synchronize()
    expected = plan.adjoint(local)
    for key in given if composed else [None]:
      expect_equal(f"adjoint of {what} {key}",
                   back[key] if composed else back,
                   expected[key] if composed else expected)

  def check_c_equals_the_host(self):
    stream = torch.cuda.Stream()
    for order in ("best", "host"):
      for name, plan in plans().items():
        for dtype, hidden, offset in (
            (numpy.int16, 2688, 0), (numpy.uint8, 7, 0), (numpy.int16, 33, 1),
            (numpy.int32, 1, 0), (numpy.int64, 512, 1)):
          with self.client().gpu_session(order=order) as session, \
              torch.cuda.stream(stream):
            self._compare(session, name, plan, dtype, hidden, offset)

  def check_c_labels(self):
    plan = plans()["dense"]
    labels = numpy.arange(128, dtype=numpy.int64).reshape(2, 64)
    local = plan.shard_labels(labels)
    with self.client().gpu_session() as session:
      arena = Arena(session)
      out = arena.empty(local.shape, numpy.int64)
      session.run_labels(plan, arena.put(labels), out)
      torch.cuda.synchronize()
      expect_equal("labels", out, local)

  def check_d_events_are_in_force(self):
    with self.client().gpu_session() as session:
      if session.order != "events":
        raise AssertionError(f"order is {session.order}: "
                             f"{session.order_reason}")
      sessions = self.client().describe()["sessions"]
      if [s["order"] for s in sessions].count("events") < 1:
        raise AssertionError(f"described as {sessions}")

  def check_e_order_of_streams(self):
    """The worker comes after what is in the stream, and before what follows."""
    plan = plans(8192, 1)["dense"]
    stream = torch.cuda.Stream()
    for order in ("best", "host"):
      with self.client().gpu_session(order=order) as session, \
          torch.cuda.stream(stream):
        arena = Arena(session, 256 << 20)
        given = host_arrays(plan, (4096,), numpy.int16)
        local = plan.shard(given)
        ready = arena.put(given)
        source = arena.empty(given.shape, numpy.int16)
        out = arena.empty(local.shape, numpy.int16)
        session.run(plan, source, out, stream=stream.cuda_stream)
        for _ in range(3):
          source.fill_(0)
          torch.cuda._sleep(20_000_000)  # About 10 ms.
          source.copy_(ready)
          session.run(plan, source, out, stream=stream.cuda_stream)
          copy = out.clone()
          out.fill_(1)
          expect_equal(f"a shard behind 10 ms of work, {order}", copy, local)

  def check_f_bad_input(self):
    plan = plans()["dense"]
    with self.client().gpu_session() as session:
      good = torch.zeros(64, 2, 16, dtype=torch.int16, device="cuda")
      out = torch.zeros(plan.embedding_shape((16,)), dtype=torch.int16,
                        device="cuda")
      session.register(good)
      expect_error("INVALID_TENSOR", "the shard is in no region",
                   session.run, plan, good, out)
      region = session.register(out)
      expect_error("INVALID_TENSOR", "source 0 has", session.run, plan,
                   good[:32], out)
      expect_error("INVALID_REGION", "memory_handle opens nothing",
                   session.register_handle, b"\x01" * 64, offset_bytes=0,
                   size_bytes=64)
      expect_error("INVALID_REGION", "has 3 bytes", session.register_handle,
                   b"abc", offset_bytes=0, size_bytes=64)
      expect_error("INVALID_REGION", "expandable", session.register_handle,
                   b"\x02e" + b"\x01" * 64, offset_bytes=0, size_bytes=64)
      handle, size, offset = self._torch_handle(good)
      expect_error("INVALID_REGION", "allocation_bytes is",
                   session.register_handle, handle, offset_bytes=1 << 40,
                   size_bytes=64)
      expect_error("INVALID_REGION", "size_bytes is 0",
                   session.register_handle, handle, offset_bytes=0,
                   size_bytes=0)
      # And what PyTorch gives out itself is good.
      session.register_handle(handle, offset_bytes=offset, size_bytes=size,
                              address=good.data_ptr())
      session.run(plan, good, out)
      session.unregister(region)
      expect_error("REGION_NOT_FOUND", str(region.id), session.unregister,
                   region)
      host = numpy.zeros(4, numpy.int16)
      expect_error("INVALID_TENSOR", "not a tensor of a GPU", session.register,
                   host)
      torch.cuda.synchronize()
      session.check()

  @staticmethod
  def _torch_handle(tensor):
    shared = tensor.untyped_storage()._share_cuda_()
    return bytes(shared[1]), shared[2], shared[3]

  def check_f_expandable_segments(self):
    """In another process: the allocator's setting holds for all of one."""
    self._child("expandable", expect=0,
                environment={"PYTORCH_CUDA_ALLOC_CONF":
                             "expandable_segments:True"})

  def check_f_handle_that_was_freed(self):
    driver = node.driver()
    address, handle = ctypes.c_uint64(), ctypes.create_string_buffer(64)
    size = 64 << 20
    for name, *arguments in (
        ("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size)),
        ("cuIpcGetMemHandle", handle, address),
        ("cuMemFree_v2", address)):
      code = getattr(driver, name)(*arguments)
      if code != 0:
        raise AssertionError(f"{name} gave {code}")
    with self.client().gpu_session() as session:
      expect_error("INVALID_REGION", "memory_handle opens nothing",
                   session.register_handle, handle.raw, offset_bytes=0,
                   size_bytes=size)
    self._still_works()

  def check_g_more_plans_than_are_kept(self):
    job = shardwright.Layout(json.dumps(LAYOUT))
    some = [job.shard_plan(RANK, seq_length=64 + 8 * i) for i in range(300)]
    wait_until(lambda: self.client().describe()["session_count"] == 0,
               "earlier sessions to end")
    with self.client().gpu_session() as session:
      arena = Arena(session)
      source = arena.empty((64 + 8 * 300, 1, 8), numpy.int16)
      out = arena.empty((64 + 8 * 300, 1, 8), numpy.int16)
      for plan in (*some, *some[:20]):
        rows = plan.embeddings.destination_rows
        session.run(plan, source[:plan.seq_length], out[:rows])
      torch.cuda.synchronize()
      kept = self.client().describe()["sessions"][0]["table_count"]
      if kept != 256:
        raise AssertionError(f"{kept} tables are kept, expected 256")

  def _child(self, role, expect, environment=None, ready=None):
    """Runs this file as another trainer. With `ready`, kills it then."""
    child = subprocess.Popen(
        [sys.executable, str(PROGRAM), "--bundle", str(self.bundle), "--role",
         role, "--worker", self.address],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        env={**os.environ, **(environment or {})})
    if ready:
      line = child.stdout.readline()
      while line and line.strip() != ready:
        print("    child:", line.rstrip())
        line = child.stdout.readline()
      child.send_signal(signal.SIGKILL)
    output = child.communicate(timeout=PATIENCE_S)[0]
    if child.returncode != expect:
      raise AssertionError(f"{role} ended with {child.returncode}, expected "
                           f"{expect}:\n{output}")

  def _still_works(self):
    if not self.worker.alive():
      raise AssertionError(f"workerd is dead:\n{self.worker.log()[-3000:]}")
    with self.client().gpu_session() as session:
      self._compare(session, "afterwards", plans()["dense"], numpy.int16, 64,
                    0)

  def check_h_trainer_is_killed_while_copies_run(self):
    for role in ("waiting", "copying"):
      begin = time.monotonic()
      self._child(role, expect=-signal.SIGKILL, ready="ready")
      self._still_works()
      wait_until(
          lambda: self.client().describe()["session_count"] == 0,
          f"the session of a dead trainer ({role}) to end")
      print(f"    {role}: over after {time.monotonic() - begin:.1f} s")
    log = self.worker.log()
    if "stream_abandoned" in log:
      raise AssertionError(f"a stream was abandoned:\n{log[-3000:]}")

  def check_i_latency(self):
    plan = plans(8192, 1)["thd"]
    stream = torch.cuda.Stream()
    handle = stream.cuda_stream
    for order in ("best", "host"):
      with self.client().gpu_session(order=order) as session, \
          torch.cuda.stream(stream):
        arena = Arena(session, 256 << 20)
        source = arena.empty((8192, 1, 4096), numpy.int16)
        out = arena.empty(plan.embedding_shape((4096,)), numpy.int16)
        walls = []
        for _ in range(320):
          begin = time.perf_counter()
          session.run(plan, source, out, stream=handle)
          stream.synchronize()
          walls.append((time.perf_counter() - begin) * 1e6)
        kernel = self._kernel_us(plan, source, out, stream)
      wall = statistics.median(walls[20:])
      name = f"daemon shard, order by {session.order}"
      self.figure(f"{name}: added to the kernel's time, median of 300",
                  wall - kernel, "us", 250)
      self.figure(f"{name}: the kernel's own time", kernel, "us")
      self.figure(f"{name}: 99th percentile with the kernel",
                  sorted(walls[20:])[296], "us")

  def check_i_latency_breakdown(self):
    breakdown = Breakdown(self.figure)
    client = self.client()
    breakdown.measure_cuda()
    breakdown.measure_describe(client)
    for order in ("best", "host"):
      with client.gpu_session(order=order) as session:
        breakdown.measure_session(session, Arena(session), plans(64, 1)["thd"])

  @staticmethod
  def _kernel_us(plan, source, out, stream):
    """The same copy in this process, on the GPU's own clock."""
    gpu = shardwright.Gpu(0)
    operation = shardwright.Operation(
        plan, shardwright.EMBEDDINGS, 4096, "bf16", [source], out)
    times = []
    for _ in range(60):
      begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
      begin.record(stream)
      gpu.run([operation], stream=stream.cuda_stream)
      end.record(stream)
      end.synchronize()
      times.append(begin.elapsed_time(end) * 1e3)
    gpu.close()
    return statistics.median(times[10:])

  def check_j_worker_is_killed(self):
    """Last: a trainer learns that its worker has died."""
    plan = plans()["dense"]
    session = self.client().gpu_session()
    arena = Arena(session)
    source = arena.empty((64, 2, 16), numpy.int16)
    out = arena.empty(plan.embedding_shape((16,)), numpy.int16)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
      torch.cuda._sleep(1_000_000_000)  # About half a second.
      session.run(plan, source, out, stream=stream.cuda_stream)
    self.worker.kill()
    wait_until(stream.query, "the stream behind a dead worker to go on", 20)

    def ended():
      try:
        session.check()
      except shardwright.ShardwrightError:
        return True
      return False

    wait_until(ended, "the session to say that the worker is gone")
    session.close()


def act(role, address):
  """The other trainer."""
  plan = plans(8192, 1)["thd"]
  session = shardwright.worker(address, timeout=30.0).gpu_session()
  if role == "expandable":
    tensor = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    expect_error("INVALID_REGION", "expandable_segments", session.register,
                 tensor)
    session.close()
    return
  arena = Arena(session, 256 << 20)
  source = arena.empty((8192, 1, 4096), numpy.int16)
  out = arena.empty(plan.embedding_shape((4096,)), numpy.int16)
  session.run(plan, source, out)
  torch.cuda.synchronize()
  if role == "waiting":
    torch.cuda._sleep(20_000_000_000)  # Far longer than this process lives.
  # Killed in the middle of a call.
  threading.Timer(0.3, print, ["ready"], {"flush": True}).start()
  while True:
    session.run(plan, source, out)

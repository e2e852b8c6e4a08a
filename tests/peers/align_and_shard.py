"""Megatron-Core and this project on the same micro-batches, side by side.

    align_and_shard.py --wheels DIR [--json FILE] [--case SUBSTRING] [--host]

On one GPU, in one run: Megatron-Core's align_embeddings_by_token_positions and
PartitionAdapter.shard, and our one launch by libshardwright.so. Both do
embeddings (bf16), labels (int64) and loss mask (fp32) for cp rank 0, tp rank 0.
Results are compared bit for bit. Times are medians of 20 that take turns, by
CUDA events behind a kernel that keeps the GPU busy, as it is in training, so
that starting work costs nobody anything; waiting for the GPU in between does.
Our plan is made on the host beforehand, as it is ahead of the step.

DIR holds the wheel of megatron-core 0.19.2; nothing is downloaded. --host
compares results alone, small, on the CPU.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time

import torch

if __package__ in (None, ""):
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import megatron_core  # pylint: disable=wrong-import-position
import shardwright  # pylint: disable=wrong-import-position

RUNS = 20
WARMUPS = 3
HIDDEN = 8192
IMAGE_ROWS = 256
IMAGE_TOKEN = 501
RANK = 1  # cp 0, tp 0, behind one encoder rank.


@dataclasses.dataclass(frozen=True)
class Case:
  kind: str  # "compose", "dense" or "THD".
  cp: int
  tp: int
  seq_length: int
  micro_batch: int = 1
  hidden: int = HIDDEN
  times_faster: float | None = None  # What we want to reach.
  us: float | None = None

  @property
  def name(self):
    return (f"{self.kind} cp{self.cp} tp{self.tp} S={self.seq_length} "
            f"B={self.micro_batch}")


def gpu_cases():
  lengths = (131072, 32768, 8192)
  for seq_length in lengths:
    for micro_batch in (1, 4):
      yield Case("compose", 2, 2, seq_length, micro_batch,
                 times_faster=60 if seq_length == 8192 else 70)
  for seq_length in lengths:
    yield Case("dense", 2, 2, seq_length, us=15)
    yield Case("dense", 1, 2, seq_length, us=15)
    yield Case("dense", 2, 1, seq_length,
               times_faster=3.5 if seq_length == 131072 else None)
    yield Case("THD", 2, 2, seq_length, times_faster=2)
  yield Case("dense", 2, 1, 8192, 4, times_faster=10)


def host_cases():
  for kind, cp, tp in (("compose", 2, 2), ("compose", 4, 1), ("dense", 2, 2),
                       ("dense", 1, 2), ("dense", 2, 1), ("THD", 2, 2)):
    for micro_batch in (1, 3):
      if kind != "THD" or micro_batch == 1:
        yield Case(kind, cp, tp, 1024, micro_batch, hidden=8)


def layout_of(case):
  sequence_parallel = "true" if case.tp > 1 else "false"
  return shardwright.Layout(f"""
name: side-by-side
world_size: {1 + case.cp * case.tp}
modules:
- {{name: images, role: ENCODER, first_rank: 0, rank_count: 1}}
- {{name: language, role: LANGUAGE, first_rank: 1,
   rank_count: {case.cp * case.tp}, parallelism: {{cp: {case.cp},
   tp: {case.tp}, sequence_parallel: {sequence_parallel}}}}}
edges:
- {{from: images, to: language}}
""")


def documents(case):
  """Starts of documents of many lengths, each of 2 * cp * tp tokens' times."""
  unit = 2 * case.cp * case.tp
  chance, starts = random.Random(1), [0]
  while starts[-1] < case.seq_length:
    length = unit * chance.randint(1, max(1, case.seq_length // 64 // unit))
    starts.append(min(case.seq_length, starts[-1] + length))
  return starts


def thd_index(starts, cp):
  """Positions of cp rank 0, as Transformer Engine numbers them."""
  index = []
  for begin, end in zip(starts, starts[1:]):
    chunk = (end - begin) // (2 * cp)
    index += [*range(begin, begin + chunk), *range(end - chunk, end)]
  return index


def random_tensor(shape, dtype, device):
  """Any bits that there are."""
  raw = {torch.bfloat16: torch.int16, torch.float32: torch.int32}.get(
      dtype, dtype)
  limits = torch.iinfo(raw)
  return torch.randint(limits.min, limits.max, shape, dtype=raw,
                       device=device).view(dtype)


class Batch:
  """The inputs of both sides, and our plan."""

  def __init__(self, case, device):
    self.case = case
    size, batch = case.seq_length, case.micro_batch
    position = torch.arange(size, device=device)
    self.ids = torch.where(position // IMAGE_ROWS % 2 == 1, IMAGE_TOKEN,
                           7).repeat(batch, 1)
    self.starts = documents(case) if case.kind == "THD" else None
    begin = time.perf_counter()
    self.plan = self._plan()
    self.plan_ms = 1e3 * (time.perf_counter() - begin)
    self.sources = {
        name: random_tensor((rows, case.hidden), torch.bfloat16, device)
        for name, rows in self.plan.sources.items()}
    self.labels = random_tensor((batch, size), torch.int64, device)
    self.mask = random_tensor((batch, size), torch.float32, device)

  def _plan(self):
    case, layout = self.case, layout_of(self.case)
    if case.kind == "compose":
      return layout.compose_plan(RANK, {
          "micro_batch_size": case.micro_batch, "seq_length": case.seq_length,
          "special_token_ids": {"images": IMAGE_TOKEN},
          "samples": list(self.ids.cpu().numpy())})
    return layout.shard_plan(RANK, seq_length=case.seq_length,
                             micro_batch=case.micro_batch,
                             cu_seqlens_padded=self.starts)

  def sequence(self):
    """[S, B, H], where that is the input."""
    (source,) = self.sources.values()
    return source.view(self.case.seq_length, self.case.micro_batch, -1)


class Peer:
  """Megatron-Core on a batch."""

  def __init__(self, megatron, batch):
    case, device = batch.case, batch.ids.device
    self._megatron, self._batch = megatron, batch
    self._adapter = megatron.adapter(case.cp, case.tp)
    self._packed = None
    if batch.starts:
      self._packed = megatron.packed(
          torch.tensor(batch.starts, dtype=torch.int32, device=device),
          torch.tensor(thd_index(batch.starts, case.cp), dtype=torch.int32,
                       device=device))

  def __call__(self):
    batch = self._batch
    if batch.case.kind == "compose":
      embeddings = self._megatron.align(batch.sources, batch.ids,
                                        {"images": IMAGE_TOKEN})
    else:
      embeddings = batch.sequence()
    return self._adapter.shard(embeddings, batch.labels, batch.mask,
                               self._packed)[:3]


class Ours:
  """One call of libshardwright.so on a batch."""

  def __init__(self, device, batch):
    self._device, self._batch = device, batch

  @staticmethod
  def _output(table, shape, row_elements, sources):
    """(tensor, whether it is a view of a source)."""
    if not table.is_view:
      return sources[0].new_empty(shape), False
    entry = table.entries[0]
    rows = sources[entry.source].view(-1, row_elements)
    return rows.narrow(0, entry.source_row, entry.row_count).view(shape), True

  def outputs(self):
    """Embeddings, labels and loss mask, for run()."""
    batch, plan = self._batch, self._batch.plan
    hidden = batch.case.hidden
    local = (batch.case.micro_batch, batch.case.seq_length // batch.case.cp)
    return [self._output(plan.embeddings, plan.embedding_shape((hidden,)),
                         hidden, list(batch.sources.values())),
            self._output(plan.labels, local, 1, [batch.labels]),
            self._output(plan.labels, local, 1, [batch.mask])]

  def run(self, outputs):
    batch = self._batch
    parts = ((shardwright.EMBEDDINGS, batch.case.hidden, "bf16",
              list(batch.sources.values())),
             (shardwright.LABELS, 1, "int64", [batch.labels]),
             (shardwright.LABELS, 1, "fp32", [batch.mask]))
    operations = [
        shardwright.Operation(batch.plan, table, elements, dtype, sources,
                        None if is_view else out)
        for (table, elements, dtype, sources), (out, is_view) in zip(
            parts, outputs)]
    self._device.run(operations, torch.cuda.current_stream().cuda_stream)

  def __call__(self):
    outputs = self.outputs()
    self.run(outputs)
    return tuple(out for out, _ in outputs)


def host_result(batch):
  """Ours on the CPU; NumPy knows no bf16, but its bits."""
  plan = batch.plan
  arrays = {name: tensor.view(torch.int16).numpy()
            for name, tensor in batch.sources.items()}
  if batch.case.kind == "compose":
    embeddings = plan.compose(arrays)
  else:
    embeddings = plan.shard(batch.sequence().view(torch.int16).numpy())
  return (torch.from_numpy(embeddings).view(torch.bfloat16),
          torch.from_numpy(plan.shard_labels(batch.labels.numpy())),
          torch.from_numpy(plan.shard_labels(batch.mask.numpy())))


def compare(case, ours, peers):
  """Bit for bit."""
  for what, a, b in zip(("embeddings", "labels", "loss mask"), ours, peers):
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    if a.shape != b.shape or a.dtype != b.dtype:
      sys.exit(f"megatron: {case.name}: {what} are {tuple(a.shape)} {a.dtype}, "
               f"the peer's {tuple(b.shape)} {b.dtype}")
    a, b = (tensor.contiguous().view(bits) for tensor in (a, b))
    if not torch.equal(a, b):
      wrong = (a != b).nonzero()[0].tolist()
      sys.exit(f"megatron: {case.name}: {what} differ at {wrong}")


def byte_count(tensors):
  return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def extra_memory(call):
  """Bytes of the GPU taken while `call` runs, beyond the tensors it returns."""
  torch.cuda.synchronize()
  torch.cuda.reset_peak_memory_stats()
  before = torch.cuda.memory_allocated()
  free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
  result = call()
  torch.cuda.synchronize()
  peak = torch.cuda.max_memory_allocated() - before
  # What others than PyTorch's allocator have taken, and kept.
  beside = free - torch.cuda.mem_get_info()[0] - torch.cuda.memory_reserved()
  return max(0, peak - byte_count(result or ())) + max(0, beside)


class Events:
  """Times of one contestant, in us."""

  def __init__(self, call):
    self._call, self._times = call, []

  def run(self):
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(2_000_000)  # pylint: disable=protected-access
    start.record()
    result = self._call()
    stop.record()
    torch.cuda.synchronize()
    del result
    self._times.append(1e3 * start.elapsed_time(stop))

  def median(self):
    return statistics.median(self._times[WARMUPS:])


def measure(device, megatron, case):
  """A row of the table."""
  batch = Batch(case, "cuda")
  ours, peer = Ours(device, batch), Peer(megatron, batch)
  outputs = ours.outputs()
  written = [out for out, is_view in outputs if not is_view]
  size = byte_count(written)
  for out in written:
    out.view(torch.uint8).fill_(0xa5)
  ours.run(outputs)
  row = {"plan_ms": batch.plan_ms, "bytes": size,
         "our_extra": extra_memory(lambda: ours.run(outputs))}
  calls = {"ours": ours}
  if size:
    block = next(iter(batch.sources.values())).view(-1).view(torch.uint8)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    calls["memcpy"] = lambda: target.copy_(block[:size])
  try:
    row["peer_extra"] = extra_memory(peer)
    peers = peer()
  except RuntimeError as error:  # Out of memory, or too many elements.
    print(f"{case.name}: the peer cannot: {str(error).splitlines()[0]}")
  else:
    compare(case, [out for out, _ in outputs], peers)
    del peers
    calls["peer"] = peer  # Last: it leaves nothing of use to us in L2.
  torch.cuda.empty_cache()
  times = {name: Events(call) for name, call in calls.items()}
  for _ in range(WARMUPS + RUNS):
    for events in times.values():
      events.run()
  return {**row, **{name: events.median() for name, events in times.items()}}


HEAD = ("| case | ours, us | peer, us | times faster | memcpy, us | ours, "
        "TB/s | extra MiB, ours | extra MiB, peer | plan on host, ms |\n"
        "|" + " --- |" * 9)


def print_row(case, row):
  def number(value, form="{:.1f}"):
    return "-" if value is None else form.format(value)
  peer, extra = row.get("peer"), row.get("peer_extra")
  rate = 2 * row["bytes"] / row["ours"] / 1e6 if row["bytes"] else None
  print(f"| {case.name} | {number(row['ours'])} | {number(peer)} | "
        f"{number(peer and peer / row['ours'])} | {number(row.get('memcpy'))} "
        f"| {number(rate, '{:.2f}')} | {number(row['our_extra'] / 2**20)} | "
        f"{number(extra and extra / 2**20)} | {number(row['plan_ms'])} |",
        flush=True)


def figures_of(case, row):
  name, peer = f"megatron, {case.name}", row.get("peer")
  yield f"{name}, ours", {"got": row["ours"], "unit": "us",
                          "reference": case.us or peer}
  yield f"{name}, extra memory", {
      "got": row["our_extra"] / 2**20, "unit": "MiB", "reference": 0}
  if peer:
    yield f"{name}, times faster", {"got": peer / row["ours"], "unit": "times",
                                    "reference": case.times_faster}
    yield f"{name}, peer's extra memory", {
        "got": row["peer_extra"] / 2**20, "unit": "MiB", "reference": None}


def run_on_gpu(megatron, wanted):
  if not torch.cuda.is_available():
    sys.exit("megatron: PyTorch sees no GPU; --host compares on the CPU")
  torch.cuda.set_device(0)
  device, figures = shardwright.Gpu(0), {}
  print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, H="
        f"{HIDDEN}, bf16, medians of {RUNS}\n\n{HEAD}")
  for case in gpu_cases():
    if wanted in case.name:
      row = measure(device, megatron, case)
      print_row(case, row)
      figures.update(figures_of(case, row))
      torch.cuda.empty_cache()
  return figures


def run_on_host(megatron, wanted):
  figures = {}
  for case in host_cases():
    if wanted in case.name:
      batch = Batch(case, "cpu")
      compare(case, host_result(batch), Peer(megatron, batch)())
      print(f"{case.name}: equal")
      figures[f"megatron, {case.name}, equal"] = {
          "got": True, "unit": "", "reference": True}
  return figures


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--wheels", metavar="DIR", required=True)
  parser.add_argument("--json", metavar="FILE")
  parser.add_argument("--case", metavar="SUBSTRING", default="")
  parser.add_argument("--host", action="store_true")
  parser.add_argument("--bundle", metavar="DIR",
                      help="not needed: PYTHONPATH finds the package")
  options = parser.parse_args()
  torch.manual_seed(1)
  with tempfile.TemporaryDirectory() as place, torch.no_grad():
    megatron = megatron_core.Megatron(options.wheels, place)
    print(f"megatron-core {megatron.version}")
    run = run_on_host if options.host else run_on_gpu
    figures = run(megatron, options.case)
  if not figures:
    sys.exit(f"megatron: no case has {options.case!r}")
  if options.json:
    pathlib.Path(options.json).write_text(json.dumps(figures, indent=1) + "\n",
                                          encoding="utf-8")


if __name__ == "__main__":
  main()

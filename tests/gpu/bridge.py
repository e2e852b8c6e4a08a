"""Encoders' rows into shards over NCCL, through workers, bit for bit.

    bridge.py --bundle DIR --json FILE

Starts a coordinator and one worker a GPU, two or four; this process has the
tensors of all ranks, a thread and a session each, and compares shards and
gradients with what the composed plan makes of the whole on the host. And once
more through PyTorch's autograd, by PartitionAdapter.bridge().
"""

import argparse
import concurrent.futures
import contextlib
import json
import pathlib
import statistics
import sys
import time

import numpy

import cliques
import node
import reporting

GPUS = 2
IMAGE = 501
ROUNDS = 10


def layout(encoders, language, encoder_tp=1, **parallelism):
  return {
      "name": cliques.JOB,
      "world_size": encoders + language,
      "modules": [
          {"name": "images", "role": "ENCODER", "first_rank": 0,
           "rank_count": encoders, "parallelism": {"tp": encoder_tp}},
          {"name": "language", "role": "LANGUAGE", "first_rank": encoders,
           "rank_count": language, "parallelism": parallelism},
      ],
      "edges": [{"from": "images", "to": "language"}],
  }


def layouts(gpus):
  """By name; as many ranks as GPUs."""
  if gpus < 4:
    return {"one to one": layout(1, 1)}
  return {
      "dp2 to tp2": layout(2, 2, tp=2, sequence_parallel=True),
      "dp2 to tp2, whole": layout(2, 2, tp=2),
      "dp2 to cp2": layout(2, 2, cp=2),
  }


def batch_of(seq_length, samples, lanes=1):
  """Half images: runs as long as those of pictures."""
  ids = numpy.where(numpy.arange(seq_length) // 256 % 2 == 0, IMAGE, 7)
  return {
      "micro_batch_size": samples,
      "seq_length": seq_length,
      "special_token_ids": {"images": IMAGE},
      "samples": [ids] * samples * lanes,
  }


def random_rows(hidden, seed):
  random = numpy.random.default_rng(seed)
  return lambda count: random.integers(-9999, 9999, (count, hidden),
                                       numpy.int16)


class MicroBatch:
  """A batch, its tensors on the host, and what must come of them.

  All samples of `batch` have the same tokens; `rows_of` makes so many rows.
  """

  def __init__(self, offline, ranks, batch, rows_of):
    who = [offline.rank(rank) for rank in range(ranks)]
    self.lanes = [rank.coordinates.lane for rank in who]
    count = sum(int((ids == IMAGE).sum()) for ids in batch["samples"])
    encoders = who[0].parallelism["dp"]
    share = count // encoders
    self.lane_rows = [share] * (encoders - 1) + [
        count - share * (encoders - 1)]
    self.batch = {**batch, "encoder_rows": {"images": self.lane_rows}}
    self.plans = {rank: offline.compose_plan(rank, self.batch)
                  for rank in range(ranks) if who[rank].role == "language"}
    self.rows = {
        name: rows_of(rows * who[-1].parallelism["dp"])
        for name, rows in self.plans[ranks - 1].sources.items()}
    self.shards = {rank: plan.compose(self.own(rank))
                   for rank, plan in self.plans.items()}
    self.gradients = {rank: ~shard for rank, shard in self.shards.items()}

  def own(self, rank):
    """The rows of its lane: an encoder's output, or what makes a shard."""
    lane = self.lanes[rank]
    if rank in self.plans:
      return {name: self.rows[name][lane * rows:(lane + 1) * rows]
              for name, rows in self.plans[rank].sources.items()}
    begin = sum(self.lane_rows[:lane])
    return {"images":
            self.rows["images"][begin:begin + self.lane_rows[lane]]}

  def size_bytes(self):
    return sum(rows.nbytes for rows in self.rows.values())


class HostTensors:
  """One rank's tensors, in memory shared with its worker."""

  def __init__(self, worker, _, size_bytes):
    self.session = worker.session(size_bytes + (1 << 16))
    self.options = {}

  def put(self, array):
    return self.session.array(array)

  @staticmethod
  def get(tensor):
    return tensor


class GpuTensors:
  """One rank's tensors, on its GPU and registered with its worker."""

  def __init__(self, worker, rank, _):
    import torch
    self._from_numpy, self._device = torch.from_numpy, f"cuda:{rank}"
    self.session = worker.gpu_session(rank)
    # What its calls take besides.
    self.options = {"stream": torch.cuda.current_stream(rank).cuda_stream}

  def put(self, array):
    tensor = self._from_numpy(array).to(self._device)
    if tensor.numel():
      self.session.register(tensor)
    return tensor

  @staticmethod
  def get(tensor):
    return tensor.cpu().numpy()


TENSORS = {"cuda": GpuTensors, "host": HostTensors}


class Trainer:
  """One rank: its tensors, and its calls of its worker."""

  def __init__(self, tensors, job, rank, micro_batch):
    self.rank = rank
    self.micro_batch = micro_batch
    self.route = job.route_plan(rank, micro_batch.batch)
    self.is_encoder = self.route.role == "sends"
    name = "images" if self.is_encoder else "text"
    rows = micro_batch.own(rank)[name]
    self.tensors = tensors
    self.sources = {name: tensors.put(rows)}
    self.outputs = {name: tensors.put(numpy.full_like(rows, 77))}
    self.shard = self.gradient = None
    if not self.is_encoder:
      gradient = micro_batch.gradients[rank]
      self.gradient = tensors.put(gradient)
      self.shard = tensors.put(numpy.full_like(gradient, 77))

  def forward(self, sequence):
    self.tensors.session.bridge_forward(
        self.route, self.sources, out=self.shard, sequence=sequence,
        **self.tensors.options)

  def backward(self, sequence):
    self.tensors.session.bridge_backward(
        self.route, self.gradient, out=self.outputs, sequence=sequence,
        **self.tensors.options)

  def timed(self, step, sequence):
    """Seconds when a call began, and when it was done."""
    begin = time.perf_counter()
    step(self, sequence)
    return begin, time.perf_counter()

  def check(self):
    """After a forward and a backward call."""
    batch = self.micro_batch
    if self.is_encoder:
      # The gradient of a row is its complement, whoever owns it.
      expected = ~batch.own(self.rank)["images"]
    else:
      numpy.testing.assert_array_equal(
          self.tensors.get(self.shard), batch.shards[self.rank])
      expected = batch.plans[self.rank].adjoint(
          batch.gradients[self.rank])["text"]
    (got,) = self.outputs.values()
    numpy.testing.assert_array_equal(self.tensors.get(got), expected)


def train(device, client, workers, micro_batch, sequence):
  """Calls of all ranks, ROUNDS forward and as many backward in turn, all right.

  Of each call when it began and was done at each rank: Trainer.timed().
  """
  import shardwright
  calls = []
  with contextlib.ExitStack() as sessions, \
      concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:

    def trainer(rank):
      # A shard is no larger than the rows that it is made of.
      tensors = TENSORS[device](shardwright.worker(workers[rank].address()),
                                rank, 4 * micro_batch.size_bytes())
      sessions.enter_context(tensors.session)
      return Trainer(tensors, client, rank, micro_batch)

    trainers = list(pool.map(trainer, range(len(workers))))
    for _ in range(ROUNDS):
      for step in (Trainer.forward, Trainer.backward):
        number = sequence + len(calls)
        calls.append(list(pool.map(lambda t: t.timed(step, number), trainers)))
      for each in trainers:
        each.check()
  return calls


def wall_ms(calls):
  """From when the first rank began until the last was done; the median."""
  return round(1000 * statistics.median(
      max(end for _, end in call) - min(begin for begin, _ in call)
      for call in calls), 3)


def run_torch(client, worker, rank, micro_batch, sequence):
  """One rank's trainer in PyTorch, two micro-batches; raises at a wrong bit."""
  import shardwright
  import torch
  from shardwright.torch_adapter import PartitionAdapter
  from shardwright.torch_bridge import BridgeSession

  def on_gpu(array):
    # Nothing calculates with them, so any bits will do.
    return torch.from_numpy(array).to(f"cuda:{rank}").view(torch.bfloat16)

  def check(got, expected):
    numpy.testing.assert_array_equal(
        got.detach().view(torch.int16).cpu().numpy(), expected)

  shard = micro_batch.shards.get(rank)
  name = "images" if shard is None else "text"
  rows = micro_batch.own(rank)[name]
  if shard is None:
    gradient, expected = None, ~rows
  else:
    gradient = on_gpu(micro_batch.gradients[rank])
    expected = micro_batch.plans[rank].adjoint(
        micro_batch.gradients[rank])["text"]
  leaf = on_gpu(rows).requires_grad_()
  torch.cuda.synchronize(rank)
  adapter = PartitionAdapter(client, rank)
  with BridgeSession(shardwright.worker(worker.address()),
                     2 * micro_batch.size_bytes() + (1 << 16),
                     f"cuda:{rank}") as session, \
      torch.cuda.device(rank), torch.cuda.stream(torch.cuda.Stream(rank)):
    for first in (sequence, sequence + 2):
      # The rows are not there yet when a call that did not wait would read.
      torch.cuda._sleep(20_000_000)
      result = adapter.bridge(
          session, {name: leaf.clone()}, micro_batch.batch, sequence=first,
          backward_sequence=first + 1)
      if shard is not None:
        check(result, shard)
      leaf.grad = None
      result.backward(gradient)
      torch.cuda.synchronize(rank)
      check(leaf.grad, expected)


def run(bundle, gpus):
  """Checks all layouts; {name: figure}."""
  sys.path.insert(0, str(bundle / "python"))
  import shardwright
  figures = {}
  for name, spec in layouts(gpus).items():
    ranks = spec["world_size"]
    offline = shardwright.Layout(json.dumps(spec))
    with cliques.running(bundle, spec) as job, \
        concurrent.futures.ThreadPoolExecutor(ranks) as pool:
      client = shardwright.connect(job.address, cliques.JOB)
      sequence = 0
      for seq_length, samples, hidden in ((1024, 2, 672), (8192, 1, 8192)):
        batch = MicroBatch(offline, ranks, batch_of(seq_length, samples),
                           random_rows(hidden, seed=sequence))
        calls = train("cuda", client, job.workers, batch, sequence)
        sequence += len(calls)
        figures[f"bridge/{name} S={seq_length} H={hidden}, call"] = {
            "got": wall_ms(calls[::2]), "unit": "ms", "reference": None}
        list(pool.map(
            lambda rank: run_torch(client, job.workers[rank], rank, batch,
                                   sequence), range(ranks)))
        sequence += 4
    print(f"{name}: {2 * ROUNDS} micro-batches right", flush=True)
  return figures


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--bundle", type=pathlib.Path, required=True)
  parser.add_argument("--json", type=pathlib.Path, required=True)
  options = parser.parse_args()
  figures = run(options.bundle, 4 if len(node.gpus()) >= 4 else 2)
  reporting.write_figures(figures, options.json)
  return 0


if __name__ == "__main__":
  sys.exit(main())

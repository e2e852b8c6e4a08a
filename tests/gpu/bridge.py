"""Encoders' rows into shards over NCCL, through workers, bit for bit.

    bridge.py --bundle DIR --json FILE

Starts a coordinator and one worker a GPU, two or four; this process has the
tensors of all ranks, a thread and a session each, and compares shards and
gradients with what the composed plan makes of the whole on the host. And once
more through PyTorch's autograd, by PartitionAdapter.bridge().
"""

import argparse
import concurrent.futures
import json
import pathlib
import statistics
import sys
import time

import cliques
import node

GPUS = 2
IMAGE = 501
ROUNDS = 10


def layout(encoders, language, **parallelism):
  return {
      "name": cliques.JOB,
      "world_size": encoders + language,
      "modules": [
          {"name": "images", "role": "ENCODER", "first_rank": 0,
           "rank_count": encoders},
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


class MicroBatch:
  """A batch, its tensors on the host, and what must come of them."""

  def __init__(self, offline, encoders, ranks, seq_length, samples, hidden,
               seed):
    import numpy
    random = numpy.random.default_rng(seed)
    # Half images: runs as long as those of pictures.
    ids = numpy.where(numpy.arange(seq_length) // 256 % 2 == 0, IMAGE, 7)
    self.batch = {
        "micro_batch_size": samples,
        "seq_length": seq_length,
        "special_token_ids": {"images": IMAGE},
        "samples": [ids] * samples,
    }
    count = int((ids == IMAGE).sum()) * samples
    share = count // encoders
    self.lane_rows = [share] * (encoders - 1) + [
        count - share * (encoders - 1)]
    self.batch["encoder_rows"] = {"images": self.lane_rows}
    self.plans = {rank: offline.compose_plan(rank, self.batch)
                  for rank in range(encoders, ranks)}
    self.rows = {
        name: random.integers(-9999, 9999, (rows, hidden), numpy.int16)
        for name, rows in self.plans[encoders].sources.items()}
    self.shards = {rank: plan.compose(self.rows)
                   for rank, plan in self.plans.items()}
    self.gradients = {rank: ~shard for rank, shard in self.shards.items()}

  def lane(self, lane):
    begin = sum(self.lane_rows[:lane])
    return slice(begin, begin + self.lane_rows[lane])


class Trainer:
  """One rank: its tensors on its GPU, registered with its worker."""

  def __init__(self, shardwright, torch, job, worker, rank, micro_batch):
    device = f"cuda:{rank}"
    self.rank = rank
    self.micro_batch = micro_batch
    self.route = job.route_plan(rank, micro_batch.batch)
    self.stream = torch.cuda.current_stream(rank).cuda_stream
    self.is_encoder = self.route.role == "sends"
    rows = (micro_batch.rows["images"][micro_batch.lane(rank)]
            if self.is_encoder else micro_batch.rows["text"])
    name = "images" if self.is_encoder else "text"
    self.sources = {name: torch.from_numpy(rows).to(device)}
    self.outputs = {name: torch.full_like(self.sources[name], 77)}
    self.shard = self.gradient = None
    if not self.is_encoder:
      self.gradient = torch.from_numpy(micro_batch.gradients[rank]).to(device)
      self.shard = torch.full_like(self.gradient, 77)
    self.session = shardwright.worker(worker.address()).gpu_session(rank)
    for tensor in (*self.sources.values(), *self.outputs.values(), self.shard,
                   self.gradient):
      if tensor is not None and tensor.numel():
        self.session.register(tensor)

  def forward(self, sequence):
    self.session.bridge_forward(
        self.route, self.sources, self.shard, sequence=sequence,
        stream=self.stream)

  def backward(self, sequence):
    self.session.bridge_backward(
        self.route, self.gradient, self.outputs, sequence=sequence,
        stream=self.stream)

  def check(self, numpy):
    """After a forward and a backward call."""
    batch = self.micro_batch
    if self.is_encoder:
      # The gradient of a row is its complement, whoever owns it.
      expected = ~batch.rows["images"][batch.lane(self.rank)]
    else:
      numpy.testing.assert_array_equal(
          self.shard.cpu().numpy(), batch.shards[self.rank])
      expected = batch.plans[self.rank].adjoint(
          batch.gradients[self.rank])["text"]
    (got,) = self.outputs.values()
    numpy.testing.assert_array_equal(got.cpu().numpy(), expected)


def run_torch(client, worker, rank, micro_batch, sequence):
  """One rank's trainer in PyTorch, two micro-batches; raises at a wrong bit."""
  import numpy
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

  size = sum(rows.nbytes for rows in micro_batch.rows.values())
  shard = micro_batch.shards.get(rank)
  if shard is None:
    name, rows = "images", micro_batch.rows["images"][micro_batch.lane(rank)]
    gradient, expected = None, ~rows
  else:
    name, rows = "text", micro_batch.rows["text"]
    gradient = on_gpu(micro_batch.gradients[rank])
    expected = micro_batch.plans[rank].adjoint(
        micro_batch.gradients[rank])["text"]
  leaf = on_gpu(rows).requires_grad_()
  torch.cuda.synchronize(rank)
  adapter = PartitionAdapter(client, rank)
  with BridgeSession(shardwright.worker(worker.address()),
                     2 * size + (1 << 16), f"cuda:{rank}") as session, \
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
  import numpy
  import shardwright
  import torch
  figures = {}
  for name, spec in layouts(gpus).items():
    ranks, encoders = spec["world_size"], spec["modules"][0]["rank_count"]
    offline = shardwright.Layout(json.dumps(spec))
    with cliques.running(bundle, spec) as job, \
        concurrent.futures.ThreadPoolExecutor(ranks) as pool:
      client = shardwright.connect(job.address, cliques.JOB)
      sequence = 0
      for shape in ((1024, 2, 672), (8192, 1, 8192)):
        batch = MicroBatch(offline, encoders, ranks, *shape, seed=sequence)
        trainers = list(pool.map(
            lambda rank: Trainer(shardwright, torch, client,
                                 job.workers[rank], rank, batch),
            range(ranks)))
        torch.cuda.synchronize()
        times = []
        for _ in range(ROUNDS):
          for step in (Trainer.forward, Trainer.backward):
            begin = time.perf_counter()
            list(pool.map(lambda t: step(t, sequence), trainers))
            times.append(time.perf_counter() - begin)
            sequence += 1
          for trainer in trainers:
            trainer.check(numpy)
        figures[f"bridge/{name} S={shape[0]} H={shape[2]}, call"] = {
            "got": round(statistics.median(times[::2]) * 1000, 3),
            "unit": "ms", "reference": None}
        for trainer in trainers:
          trainer.session.close()
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
  options.json.write_text(json.dumps(figures, indent=1) + "\n",
                          encoding="utf-8")
  for name, value in figures.items():
    print(f"{name}: {value['got']} {value['unit']}")
  return 0


if __name__ == "__main__":
  sys.exit(main())

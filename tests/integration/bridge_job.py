"""A job of two encoder ranks and two language ranks, as real processes."""

import concurrent.futures
import json

import numpy

import shardwright
from tests.integration import processes

IMAGE = 501
ENCODERS = (0, 1)
RANKS = range(4)
LEASE_S = 3


def layout_of(name, **parallelism):
  return {
      "name": name,
      "world_size": 4,
      "modules": [
          {"name": "images", "role": "ENCODER", "first_rank": 0,
           "rank_count": 2},
          {"name": "language", "role": "LANGUAGE", "first_rank": 2,
           "rank_count": 2, "parallelism": parallelism},
      ],
      "edges": [{"from": "images", "to": "language"}],
  }


LAYOUTS = {
    "tp2": layout_of("tp2", tp=2, sequence_parallel=True),
    "tp2-whole": layout_of("tp2-whole", tp=2),
    "cp2": layout_of("cp2", cp=2),
}


def batch_of(seed, samples=4, seq_length=16, images=True):
  random = numpy.random.default_rng(seed)
  ids = random.integers(500, 504, (samples, seq_length))
  if not images:
    ids[ids == IMAGE] = 500
  return {
      "micro_batch_size": samples,
      "seq_length": seq_length,
      "special_token_ids": {"images": IMAGE},
      "samples": list(ids),
  }


class Job:
  """A coordinator and a worker for each rank."""

  def __init__(self, test, name):
    self.test = test
    self.name = name
    self.coordinator = processes.Coordinator(lease_ttl_s=LEASE_S)
    test.addCleanup(self.coordinator.kill)
    answer = self.coordinator.apply(LAYOUTS[name])
    test.assertEqual(answer.exit_code, 0, answer)
    self.layout = shardwright.Layout(json.dumps(LAYOUTS[name]))
    self.job = shardwright.connect(self.coordinator.address, name)
    self.workers = {rank: self.start(rank) for rank in RANKS}
    self.wait_formed()

  def start(self, rank):
    worker = processes.Worker(self.coordinator.address, self.name, rank,
                              "--kinds", "bridge,tp_cp")
    self.test.addCleanup(worker.kill)
    return worker

  def wait_formed(self):

    def formed(worker):
      worker.assert_running()
      cliques = shardwright.worker(
          worker.address, timeout=5).describe()["cliques"]
      return ({c["state"] for c in cliques} == {"ACTIVE"} and
              any("/bridge/" in c["name"] for c in cliques))

    for worker in self.workers.values():
      processes.wait_until(lambda worker=worker: formed(worker),
                           f"the cliques of rank {worker.rank}")

  def start_on_all_ranks(self, pool, step, micro_batch, sequence):
    """Futures of what each rank's step raised, or None; by rank."""

    def run(rank):
      try:
        step(rank, micro_batch, sequence)
      except Exception as error:  # pylint: disable=broad-except
        return error
      return None

    return [pool.submit(run, rank) for rank in RANKS]

  def on_all_ranks(self, step, micro_batch, sequence):
    """What each rank's step raised, or None; by rank."""
    with concurrent.futures.ThreadPoolExecutor(len(RANKS)) as pool:
      return [running.result() for running in self.start_on_all_ranks(
          pool, step, micro_batch, sequence)]

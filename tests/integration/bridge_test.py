"""Do encoders' rows come into the right shards, and gradients back?

Two encoder ranks and two language ranks, as real workers and over Gloo, against
the composed plan on whole tensors. And when an encoder's worker dies, does
everybody else learn which, and go on when it is back?
"""

import concurrent.futures
import os
import signal
import threading
import time
import unittest

import numpy

import shardwright
from tests.integration import bridge_job
from tests.integration import processes
from tests.integration.bridge_job import ENCODERS, LAYOUTS, LEASE_S, RANKS
from tests.integration.bridge_job import IMAGE, batch_of

HIDDEN = 24
GRACE_S = 2

# How often a worker is killed in a transfer; each takes seconds.
KILLS = int(os.environ.get("BRIDGE_KILLS", "2"))


class MicroBatch:
  """A batch with its tensors, and what must come of them."""

  def __init__(self, layout, batch, hidden, seed):
    self.layout = layout
    self.batch = batch
    self.plans = {r: layout.compose_plan(r, batch) for r in (2, 3)}
    self.lane_rows = [layout.route_plan(r, batch).sources["images"]
                      for r in ENCODERS]
    random = numpy.random.default_rng(seed)
    self.rows = {
        name: random.integers(-1000, 1000, (count, hidden), numpy.int32)
        for name, count in self.plans[2].sources.items()
    }
    # Ranks that hold the same rows have the same gradient of them.
    self.gradients = {rank: 7 * self.shard(rank) + 3 for rank in self.plans}

  def lane(self, lane, rows):
    """The lane's own of all image rows."""
    begin = sum(self.lane_rows[:lane])
    return rows[begin:begin + self.lane_rows[lane]]

  def shard(self, rank):
    return self.plans[rank].compose(self.rows)

  def image_gradient(self):
    parts = [self.plans[rank].adjoint(self.gradients[rank])["images"]
             for rank in self.plans]
    # Without sequence parallelism both hold the same, and nothing is summed.
    return parts[0] if self.plans[2].runs == self.plans[3].runs else sum(parts)


class Job(bridge_job.Job):
  """Its trainers, and what must come of their calls."""

  def forward(self, rank, micro_batch, sequence, ready=lambda: None):
    """What one trainer does; raises if a byte is wrong. Calls after `ready`."""
    route = self.job.route_plan(rank, micro_batch.batch)
    hidden = micro_batch.rows["text"].shape[1]
    size = sum(rows.nbytes for rows in micro_batch.rows.values())
    client = shardwright.worker(self.workers[rank].address, timeout=60)
    with client.session(2 * size + (1 << 16)) as session:
      if rank in ENCODERS:
        output = session.array(
            micro_batch.lane(rank, micro_batch.rows["images"]))
        ready()
        bridged = session.bridge_forward(
            route, {"images": output}, sequence=sequence)
        assert bridged.sent_bytes == route.sent_rows * hidden * 4
        return
      text = session.array(micro_batch.rows["text"])
      ready()
      began = time.monotonic()
      bridged = session.bridge_forward(
          route, {"text": text}, sequence=sequence)
      self.last_call_s = time.monotonic() - began
      numpy.testing.assert_array_equal(bridged.result, micro_batch.shard(rank))
      assert bridged.received_bytes == route.received_rows * hidden * 4

  def backward(self, rank, micro_batch, sequence):
    route = self.job.route_plan(rank, micro_batch.batch)
    client = shardwright.worker(self.workers[rank].address, timeout=60)
    with client.session(1 << 20) as session:
      if rank in ENCODERS:
        expected = micro_batch.lane(rank, micro_batch.image_gradient())
        poisoned = session.array(~expected)
        session.bridge_backward(
            route, out={"images": poisoned}, sequence=sequence)
        numpy.testing.assert_array_equal(poisoned, expected)
        return
      gradient = micro_batch.gradients[rank]
      bridged = session.bridge_backward(
          route, session.array(gradient), sequence=sequence)
      expected = micro_batch.plans[rank].adjoint(gradient)
      numpy.testing.assert_array_equal(bridged.result["text"],
                                       expected["text"])

  def step(self, micro_batch, sequence):
    for number, step in enumerate((self.forward, self.backward)):
      failures = self.on_all_ranks(step, micro_batch, sequence + number)
      self.test.assertEqual(failures, [None] * 4)


class BridgeTest(unittest.TestCase):

  def test_rows_and_gradients_are_those_of_the_composed_plan(self):
    for name in LAYOUTS:
      with self.subTest(name):
        job = Job(self, name)
        for sequence, images in ((0, True), (2, False), (4, True)):
          batch = batch_of(sequence, images=images)
          job.step(MicroBatch(job.layout, batch, HIDDEN, sequence), sequence)

  def test_packs_and_shared_samples_work(self):
    job = Job(self, "cp2")
    batch = batch_of(9, samples=1, seq_length=32)
    batch["cu_seqlens_padded"] = [[0, 12, 12, 32]]
    count = int((batch["samples"][0] == IMAGE).sum())
    batch["encoder_rows"] = {"images": [1, count - 1]}
    job.step(MicroBatch(job.layout, batch, HIDDEN, 9), 0)

  def test_two_micro_batches_may_be_under_way(self):
    job = Job(self, "tp2")
    batches = [MicroBatch(job.layout, batch_of(k), HIDDEN, k) for k in range(7)]
    job.step(batches[0], 0)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      for failures in pool.map(
          lambda k: job.on_all_ranks(job.forward, batches[k], k + 1),
          range(1, 7)):
        self.assertEqual(failures, [None] * 4)

  def test_a_batch_that_one_rank_loaded_differently_is_refused(self):
    job = Job(self, "tp2")
    right, other = (
        MicroBatch(job.layout, batch_of(k), HIDDEN, k) for k in (1, 2))
    failures = job.on_all_ranks(
        lambda rank, _, sequence: job.forward(
            rank, other if rank == 3 else right, sequence), None, 0)
    for error in failures:
      self.assertEqual(error.reason, "DIGEST_MISMATCH")
      self.assertIn("3", error.message)
      for micro_batch in (right, other):
        self.assertIn("%016x" % micro_batch.plans[2].digest, error.message)
    job.step(right, 1)


class DeadEncoderTest(unittest.TestCase):

  def check_heard(self, failures, began, ended):
    """All but the dead rank's own trainer."""
    self.assertLess(ended - began, LEASE_S + GRACE_S)
    for rank in (1, 2, 3):
      self.assertIsInstance(
          failures[rank], shardwright.ShardwrightError, failures)
      self.assertEqual(failures[rank].details.get("missing"), "0", failures)

  def replace(self, job):
    job.workers[0].kill()
    job.workers[0] = job.start(0)
    job.wait_formed()

  def test_everybody_learns_which_worker_died_and_goes_on(self):
    job = Job(self, "cp2")
    micro_batch = MicroBatch(job.layout, batch_of(1), HIDDEN, 1)
    job.step(micro_batch, 0)
    # It has the call, and will never do its part.
    job.workers[0].signal(signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      running = pool.submit(job.on_all_ranks, job.forward, micro_batch, 2)

      def all_wait():
        sessions = [shardwright.worker(job.workers[r].address).describe()
                    ["session_count"] for r in (1, 2, 3)]
        return sessions == [1, 1, 1]

      processes.wait_until(all_wait, "calls of the other ranks")
      killed = time.monotonic()
      job.workers[0].kill()
      failures = running.result()
      self.check_heard(failures, killed, time.monotonic())
    self.replace(job)
    job.step(micro_batch, 10)

  def test_killed_in_mid_transfer_no_wrong_byte_is_handed_over(self):
    job = Job(self, "cp2")
    batch = batch_of(3, samples=16, seq_length=512)
    small = MicroBatch(job.layout, batch_of(4), HIDDEN, 4)
    large = MicroBatch(job.layout, batch, 4096, 3)
    ready = threading.Barrier(len(RANKS) + 1)

    def forward(rank, micro_batch, sequence):
      job.forward(rank, micro_batch, sequence, ready.wait)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      for sequence in (0, 1):  # The first makes room for staging, too.
        running = pool.submit(job.on_all_ranks, forward, large, sequence)
        ready.wait()
        self.assertEqual(running.result(), [None] * 4)
      call_s = job.last_call_s
      for kill in range(KILLS):
        running = pool.submit(job.on_all_ranks, forward, large, 2)
        ready.wait()
        # Anywhere in the call, most of which is the transfer.
        concurrent.futures.wait(
            [running], timeout=call_s * (kill + 1) / (KILLS + 1))
        killed = time.monotonic()
        job.workers[0].kill()
        failures = running.result()
        told_s = time.monotonic() - killed
        self.replace(job)
        with self.subTest(kill):
          self.assertLess(told_s, LEASE_S + GRACE_S)
          for error in failures[1:]:
            # None: it had all its rows, and they were right.
            if error is not None:
              self.assertIsInstance(error, shardwright.ShardwrightError)
              self.assertEqual(error.reason, "PEER_LOST")
              self.assertEqual(error.details.get("missing"), "0", error)
        job.step(small, 5)


if __name__ == "__main__":
  unittest.main()

"""The Python package against a real coordinator and real workers.

Do plans from a coordinator equal those made in process, do a worker's results
equal those of the in-process executor bit for bit, and does a member hear what
it needs to?
"""

import concurrent.futures
import ctypes
import json
import os
import unittest

import numpy
import shardwright
from shardwright import _library

from tests.integration import processes

JOB = "lm-4"
RANKS = range(4)
SEQ_LENGTH = 16
MICRO_BATCH = 2
IMAGE = 501

LAYOUT = {
    "name": JOB,
    "world_size": 4,
    "modules": [{
        "name": "language",
        "role": "LANGUAGE",
        "first_rank": 0,
        "rank_count": 4,
        "parallelism": {"tp": 2, "cp": 2, "sequence_parallel": True},
    }],
}


def batch():
  ids = numpy.random.default_rng(7).integers(
      500, 504, (MICRO_BATCH, SEQ_LENGTH))
  return {
      "micro_batch_size": MICRO_BATCH,
      "seq_length": SEQ_LENGTH,
      "special_token_ids": {"images": IMAGE},
      "samples": list(ids),
  }


def sources(plan, hidden=588):
  random = numpy.random.default_rng(1)
  return {
      name: random.integers(0, 256, (rows, hidden), numpy.uint8)
      for name, rows in plan.sources.items()
  }


def on_all_ranks(function):
  """Runs function(rank) for all ranks at once, as trainers would."""
  with concurrent.futures.ThreadPoolExecutor(len(RANKS)) as pool:
    return list(pool.map(function, RANKS))


class _DestroyedTest:
  """What the C interface says of handles that need a server to exist."""

  def check_refused(self, handle, calls):
    """`calls` takes a handle; (function, arguments...) each."""
    gone = ctypes.c_void_p(handle.value.value)
    handle.close()
    for name, *arguments in calls:
      with self.subTest(name):
        with self.assertRaises(shardwright.ShardwrightError) as caught:
          getattr(_library.library(), name)(gone, *arguments)
        self.assertEqual(caught.exception.reason, "FREED_HANDLE")


class CoordinatorTest(unittest.TestCase, _DestroyedTest):

  def setUp(self):
    self.store_path = processes.temporary_directory() / "store.db"
    self.coordinator = self.enterContext(
        processes.Coordinator(self.store_path, lease_ttl_s=2))
    self.assertEqual(self.coordinator.apply(LAYOUT).exit_code, 0)
    self.job = shardwright.connect(self.coordinator.address, JOB)
    self.layout = shardwright.Layout(json.dumps(LAYOUT))

  def test_ranks_are_those_of_the_file(self):
    for rank in RANKS:
      online, offline = self.job.rank(rank), self.layout.rank(rank)
      self.assertGreater(online.generation, 0)
      self.assertEqual(online.coordinates, offline.coordinates)
      self.assertEqual(online.groups, offline.groups)
      self.assertEqual(online.parallelism, offline.parallelism)
    self.assertEqual(self.job.groups(), self.layout.groups())

  def test_plans_are_those_of_the_file(self):
    for rank in RANKS:
      for make in [
          lambda s: s.shard_plan(rank, seq_length=8, micro_batch=3),
          lambda s: s.shard_plan(
              rank, seq_length=24, cu_seqlens_padded=[0, 8, 8, 24]),
          lambda s: s.compose_plan(rank, batch()),
      ]:
        online, offline = make(self.job), make(self.layout)
        self.assertEqual(online.to_json(), offline.to_json())
        self.assertEqual(online.embeddings, offline.embeddings)
        self.assertEqual(online.labels, offline.labels)
        self.assertEqual(online.load, offline.load)

  def test_unknown_job_is_not_found(self):
    job = shardwright.connect(self.coordinator.address, "nobody")
    with self.assertRaises(shardwright.ShardwrightError) as caught:
      job.rank(0)
    self.assertEqual(caught.exception.reason, "JOB_NOT_FOUND")

  def test_barrier_releases_all_or_says_who_is_missing(self):
    members = [self.enterContext(self.job.member(rank)) for rank in RANKS]
    for sequence in (1, 2):
      on_all_ranks(lambda r: members[r].barrier(
          "step", sequence, scope="language", digest=5, timeout=30))
    with self.assertRaises(shardwright.ShardwrightError) as caught:
      members[0].barrier("lonely", 1, timeout=0.5)
    self.assertEqual(caught.exception.reason, "MEMBERS_MISSING")
    self.assertEqual(caught.exception.details["missing"], "1-3")

  def test_barrier_refuses_different_digests(self):
    members = [self.enterContext(self.job.member(rank)) for rank in RANKS]

    def wait(rank):
      try:
        members[rank].barrier("step", 1, digest=rank + 1, timeout=30)
      except shardwright.ShardwrightError as error:
        return error.reason
      return None

    self.assertEqual(on_all_ranks(wait), ["BARRIER_MISMATCH"] * 4)

  def test_second_live_trainer_is_refused_and_told_who_is_first(self):
    with self.job.member(0):
      with self.assertRaises(shardwright.ShardwrightError) as caught:
        self.job.member(0, timeout=10)
    self.assertEqual(caught.exception.reason, "MEMBER_ID_IN_USE")
    self.assertIn(str(os.getpid()), caught.exception.message)
    with self.job.member(0, timeout=10) as member:
      member.check()

  def test_member_outlives_a_restart_of_the_coordinator(self):
    members = [self.enterContext(self.job.member(rank)) for rank in RANKS]
    incarnation = members[0].incarnation
    address = self.coordinator.address
    self.coordinator.kill()
    with processes.Coordinator(self.store_path, listen=address, lease_ttl_s=2):
      on_all_ranks(lambda r: members[r].barrier("step", 1, timeout=30))
      self.assertEqual(members[0].incarnation, incarnation)
      for member in members:
        member.check()

  def test_a_member_that_was_destroyed_is_refused(self):
    number, incarnation = ctypes.c_int64(), ctypes.c_uint64()
    self.check_refused(self.job.member(0)._handle, [
        ("sw_member_leave",),
        ("sw_member_check",),
        ("sw_member_set_phase", b"x"),
        ("sw_member_get_generation", ctypes.byref(number)),
        ("sw_member_get_incarnation", ctypes.byref(incarnation)),
        ("sw_member_wait", b"x", 1, b"", 0, 0),
    ])


class WorkerTest(unittest.TestCase, _DestroyedTest):

  @classmethod
  def setUpClass(cls):
    coordinator = cls.enterClassContext(processes.Coordinator())
    cls.coordinator = coordinator
    assert coordinator.apply(LAYOUT).exit_code == 0
    daemons = [
        cls.enterClassContext(
            processes.Worker(coordinator.address, JOB, rank)) for rank in RANKS
    ]
    cls.job = shardwright.connect(coordinator.address, JOB)
    cls.workers = [shardwright.worker(d.address, timeout=30) for d in daemons]
    for worker in cls.workers:
      processes.wait_until(lambda: cls.has_clique(worker), "tp_cp to form")

  @staticmethod
  def has_clique(worker):
    return any("/tp_cp/" in c["name"] and c["state"] == "ACTIVE"
               for c in worker.describe()["cliques"])

  def test_results_equal_those_in_process(self):
    for rank in RANKS:
      with self.workers[rank].session(1 << 20) as session:
        plan = self.job.compose_plan(rank, batch())
        inputs = sources(plan)
        shared = {name: session.array(rows) for name, rows in inputs.items()}
        local = session.run(plan, shared)
        numpy.testing.assert_array_equal(local, plan.compose(inputs))

        labels = numpy.arange(MICRO_BATCH * SEQ_LENGTH).reshape(MICRO_BATCH, -1)
        numpy.testing.assert_array_equal(
            session.run_labels(plan, session.array(labels)),
            plan.shard_labels(labels))

        expected = plan.adjoint(plan.compose(inputs))
        for name, rows in session.run_adjoint(plan, local).items():
          numpy.testing.assert_array_equal(rows, expected[name])

  def test_tables_that_the_worker_has_forgotten_are_sent_again(self):
    plans = [
        self.job.shard_plan(0, seq_length=16 + 8 * i) for i in range(260)
    ]
    longest = plans[-1].seq_length
    rows = numpy.arange(longest, dtype=numpy.int32).reshape(-1, 1, 1)
    with self.workers[0].session(1 << 20) as session:
      for plan in (*plans, plans[0]):
        session.clear()
        part = rows[:plan.seq_length]
        numpy.testing.assert_array_equal(
            session.run(plan, session.array(part)), plan.shard(part))
      kept = self.workers[0].describe()["sessions"]
      self.assertIn(256, [s["table_count"] for s in kept])

  def test_gather_brings_every_row_back(self):

    def prove(rank):
      plan = self.job.compose_plan(rank, batch())
      inputs = sources(plan)
      with self.workers[rank].session(1 << 20) as session:
        shared = {name: session.array(rows) for name, rows in inputs.items()}
        gathered = session.gather(plan, session.run(plan, shared))
        return inputs, gathered

    for inputs, gathered in on_all_ranks(prove):
      for name, rows in inputs.items():
        numpy.testing.assert_array_equal(gathered.sources[name], rows)
        self.assertEqual(gathered.restored_rows[name], len(rows))

  def test_gather_refuses_plans_of_different_batches(self):

    def prove(rank):
      other = batch()
      if rank == 3:
        other["samples"] = other["samples"][::-1]
      plan = self.job.compose_plan(rank, other)
      with self.workers[rank].session(1 << 20) as session:
        shared = {k: session.array(v) for k, v in sources(plan).items()}
        try:
          session.gather(plan, session.run(plan, shared))
        except shardwright.ShardwrightError as error:
          return error.reason, "3" in error.message
      return None

    self.assertEqual(on_all_ranks(prove), [("DIGEST_MISMATCH", True)] * 4)

  def test_a_session_that_was_destroyed_is_refused(self):
    text, region = ctypes.c_void_p(), ctypes.c_int64()
    operation = _library.Operation()
    handle = _library.Handle(
        "sw_session_open", "sw_session_destroy",
        self.workers[0]._handle.value, None, 0)
    self.check_refused(handle, [
        ("sw_session_check",),
        ("sw_session_run", None, 0, None),
        ("sw_session_gather", b"tp", ctypes.byref(operation), None),
        ("sw_session_get_order", ctypes.byref(text)),
        ("sw_session_register_region", 1, 1, ctypes.byref(region)),
        ("sw_session_unregister_region", 0),
        ("sw_session_run_regions", None, 0, None, None),
    ])

  def test_the_command_line_describes_sessions(self):

    def describe(*arguments):
      return self.coordinator.shardctl(
          "describe", "worker", "0", "--job", JOB, *arguments)

    plan = self.job.shard_plan(0, seq_length=8)
    rows = numpy.arange(8, dtype=numpy.int32).reshape(8, 1, 1)
    processes.wait_until(
        lambda: describe("-o", "json").json["sessions"] == [],
        "other tests' sessions to end")
    self.assertNotIn("SEGMENTS", describe().out)
    with self.workers[0].session(1 << 12) as session:
      session.run(plan, session.array(rows))
      worker = describe("-o", "json").json
      self.assertEqual(worker["session_count"], 1)
      self.assertEqual(worker["sessions"], [{
          "segment_count": 1,
          "region_count": 0,
          "region_bytes": 0,
          "table_count": 1,
          "order": None,
          "order_reason": None,
      }])
      self.assertIn("segment_count: 1", describe("-o", "yaml").out)
      text, wide = describe().out, describe("-o", "wide").out
      self.assertRegex(text, "SEGMENTS +REGIONS +BYTES +TABLES +ORDER\n")
      self.assertRegex(text, r"\n +1 +0 +0 +1 +-\n")
      self.assertRegex(wide, "ORDER +REASON\n")

  def test_sessions_leave_no_shared_memory_behind(self):
    before = set(os.listdir("/dev/shm"))
    with self.workers[0].session(1 << 12) as session:
      array = session.array(numpy.arange(8))
      (name,) = set(os.listdir("/dev/shm")) - before
      self.assertEqual(os.stat(f"/dev/shm/{name}").st_mode & 0o777, 0o600)
    self.assertEqual(set(os.listdir("/dev/shm")) - before, set())
    self.assertEqual(array.sum(), 28)

  def test_arrays_from_elsewhere_are_refused(self):
    plan = self.job.shard_plan(0, seq_length=8)
    with self.workers[0].session(1 << 12) as session:
      with self.assertRaises(shardwright.ShardwrightError) as caught:
        session.run(plan, numpy.zeros((8, 1, 4), numpy.uint8))
    self.assertEqual(caught.exception.reason, "INVALID_TENSOR")

  def test_full_session_says_what_is_left(self):
    with self.workers[0].session(1 << 12) as session:
      session.empty(4000, numpy.uint8)
      with self.assertRaises(shardwright.ShardwrightError) as caught:
        session.empty(100, numpy.uint8)
      self.assertEqual(caught.exception.reason, "SESSION_FULL")
      session.clear()
      self.assertEqual(session.empty((2, 50), numpy.uint8).shape, (2, 50))


if __name__ == "__main__":
  unittest.main()

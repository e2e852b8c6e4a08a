"""Does a job survive what goes wrong, and does everybody learn what it is?

Four language ranks (tp 2, cp 2, sequence parallel) as real workers. A *step*
shards random numbers over all of them and puts them together again; it fails if
a byte differs. Where a process must be caught at a certain moment it is stopped
with SIGSTOP, so that nothing depends on luck.
"""

import concurrent.futures
import datetime
import json
import re
import signal
import socket
import subprocess
import threading
import time
import unittest

import numpy

import shardwright
from tests.integration import processes

LAYOUT = {
    "name": "faults",
    "world_size": 4,
    "modules": [{
        "name": "language",
        "role": "LANGUAGE",
        "first_rank": 0,
        "rank_count": 4,
        "parallelism": {"tp": 2, "cp": 2, "sequence_parallel": True}
    }]
}

LEASE_S = 3
GRACE_S = 2  # What the contract allows on top of a lease or a deadline.

# Every group of more than one rank, each of another shape.
KINDS = ["--kinds", "tp,cp,tp_cp"]

PATIENCE_S = 30

# How each line of a log begins: date, level.
LINE = re.compile(r"^(\d{4}-\S+) (\w+) ")


def events(process, name, **fields):
  """[(time, line)] of the log's lines of that event, with those fields."""
  found = []
  for line in process.log.splitlines():
    match = LINE.match(line)
    words = line.split()
    if match and f"event={name}" in words and all(
        f"{key}={value}" in words for key, value in fields.items()):
      at = datetime.datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S.%f%z")
      found.append((at.timestamp(), line))
  return found


def wait_for_event(process, name, after=0.0, **fields):
  """The first such event later than `after`."""

  def look():
    process.assert_running()
    return [e for e in events(process, name, **fields) if e[0] > after]

  try:
    return processes.wait_until(look, f"event={name} {fields}", PATIENCE_S)[0]
  except TimeoutError as error:
    raise AssertionError(f"{error}; the log:\n{process.log}") from None


def clique_states(worker):
  cliques = shardwright.worker(worker.address, timeout=5).describe()["cliques"]
  return {clique["name"]: clique["state"] for clique in cliques}


def attempts(worker):
  cliques = shardwright.worker(worker.address, timeout=5).describe()["cliques"]
  return {clique["name"]: clique["attempt"] for clique in cliques}


def wait_formed(workers):
  for worker in workers:

    def formed(worker=worker):
      worker.assert_running()
      states = clique_states(worker)
      return states and set(states.values()) == {"ACTIVE"}

    processes.wait_until(formed, f"the cliques of rank {worker.rank}")


def step_of_rank(layout, worker, sequence):
  """What one trainer does; raises if a byte is wrong."""
  plan = layout.shard_plan(
      worker.rank, seq_length=sequence.shape[0], micro_batch=sequence.shape[1])
  daemon = shardwright.worker(worker.address, timeout=30)
  with daemon.session(1 << 20) as session:
    shard = session.run(plan, session.array(sequence))
    numpy.testing.assert_array_equal(shard, plan.shard(sequence))
    gathered = session.gather(plan, shard)
    numpy.testing.assert_array_equal(gathered.sources, sequence)


def step(workers, seed):
  layout = shardwright.Layout(json.dumps(LAYOUT))
  sequence = numpy.random.default_rng(seed).standard_normal((64, 2, 8))
  with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
    for rank in [
        pool.submit(step_of_rank, layout, worker, sequence)
        for worker in workers
    ]:
      rank.result()


class FaultsTest(unittest.TestCase):

  def setUp(self):
    self.store = processes.temporary_directory() / "store.db"
    self.coordinator = self.start_coordinator()
    self.generation = self.coordinator.apply(LAYOUT).json["generation"]

  def start_coordinator(self, listen="127.0.0.1:0"):
    coordinator = processes.Coordinator(
        store_path=self.store, listen=listen, lease_ttl_s=LEASE_S)
    self.addCleanup(coordinator.kill)
    return coordinator

  def start(self, rank, *arguments):
    worker = processes.Worker(self.coordinator.address, "faults", rank, *KINDS,
                              *arguments)
    self.addCleanup(worker.kill)
    return worker

  def start_all(self):
    workers = [self.start(rank) for rank in range(4)]
    wait_formed(workers)
    return workers

  def members(self):
    """Rank to what `shardctl get workers` says of it."""
    answer = self.coordinator.shardctl("get", "workers", "--job", "faults",
                                       "-o", "json").json
    return {worker["rank"]: worker for worker in answer["workers"]}

  def test_step_is_right(self):
    workers = self.start_all()
    for seed in range(3):
      step(workers, seed)
    self.assertEqual({m["state"] for m in self.members().values()}, {"LIVE"})

  def test_everybody_is_told_who_never_came(self):
    deadline_s = 4
    workers = [
        self.start(rank, "--form-timeout", deadline_s) for rank in range(3)
    ]
    for worker in workers:
      began, _ = wait_for_event(worker, "identity")
      told, _ = wait_for_event(worker, "waiting")
      self.assertLess(told - began, GRACE_S, worker.log)
      wait_for_event(worker, "waiting", missing="3")
      last, _ = wait_for_event(worker, "members_missing", missing="3")
      self.assertLess(last - began, deadline_s + GRACE_S, worker.log)
    # They do not give up: who comes late is welcome.
    late = self.start(3)
    wait_formed(workers + [late])
    step(workers + [late], seed=1)

  def test_second_live_process_is_refused_and_told_of_the_first(self):
    first = self.start(0)
    wait_for_event(first, "registered")
    second = self.start(0)
    self.assertEqual(second.wait(), 8, second.log)
    refusal = events(second, "membership_refused", reason="MEMBER_ID_IN_USE")
    self.assertTrue(refusal, second.log)
    self.assertIn(str(first.pid), refusal[0][1])
    self.assertIn(socket.gethostname(), refusal[0][1])
    first.assert_running()
    self.assertEqual(self.members()[0]["pid"], first.pid)

  def test_killed_while_forming_the_others_go_on_with_its_successor(self):
    workers = [self.start(rank) for rank in range(3)]
    for worker in workers:
      wait_for_event(worker, "waiting", missing="3")
    victim = workers.pop()
    victim.signal(signal.SIGSTOP)  # Present, and will never do its part.
    workers.append(self.start(3))

    def all_present():
      text = self.coordinator.log + "".join(w.log for w in workers)
      return "missing=2 " in text

    processes.wait_until(all_present, "the attempt that waits for rank 2")
    killed = time.time()
    victim.kill()
    for worker in workers:
      wait_for_event(worker, "waiting", after=killed, missing="2")
    aborted, _ = wait_for_event(workers[-1], "attempt_aborted")
    self.assertLess(aborted - killed, LEASE_S + GRACE_S)

    workers.append(self.start(2))
    wait_formed(workers)
    for worker in workers:
      self.assertGreater(attempts(worker)["language/tp_cp/0"], 1)
    step(workers, seed=2)

  def test_killed_at_work_the_others_go_on_with_its_successor(self):
    workers = self.start_all()
    step(workers, seed=3)
    before = attempts(workers[0])
    killed = time.time()
    workers[2].kill()
    for worker in (workers[0], workers[1], workers[3]):
      at, _ = wait_for_event(worker, "waiting", after=killed, missing="2")
      self.assertLess(at - killed, LEASE_S + GRACE_S + 1, worker.log)
    # Cliques without it have not been touched.
    self.assertEqual(clique_states(workers[0])["language/tp/0"], "ACTIVE")
    workers[2] = self.start(2)
    wait_formed(workers)
    after = attempts(workers[0])
    self.assertGreater(after["language/tp_cp/0"], before["language/tp_cp/0"])
    self.assertEqual(after["language/tp/0"], before["language/tp/0"])
    step(workers, seed=4)

  def test_coordinator_killed_between_steps(self):
    workers = self.start_all()
    step(workers, seed=5)
    address = self.coordinator.address
    members = self.members()
    groups = self.coordinator.shardctl("get", "groups", "--job", "faults").out
    self.coordinator.kill()
    step(workers, seed=6)  # Nobody needs it for a step.

    self.coordinator = self.start_coordinator(listen=address)
    self.assertEqual(self.coordinator.address, address)
    layouts = self.coordinator.shardctl("get", "layouts", "-o",
                                        "json").json["layouts"]
    self.assertGreaterEqual(layouts[0]["generation"], self.generation)
    self.assertEqual(
        self.coordinator.shardctl("get", "groups", "--job", "faults").out,
        groups)
    self.assertFalse(self.coordinator.apply(LAYOUT).json["changed"])

    # By themselves, as the same processes, and for longer than a lease.
    def registered():
      now = self.members()
      return {rank: (m["incarnation"], m["state"]) for rank, m in now.items()
             } == {rank: (m["incarnation"], "LIVE")
                   for rank, m in members.items()} and now

    processes.wait_until(registered, "the workers to be back")
    end = time.monotonic() + LEASE_S + 1
    while time.monotonic() < end:
      self.assertTrue(registered(), self.members())
    step(workers, seed=7)
    for worker in workers:
      self.assertEqual(events(worker, "clique_ended"), [])

  def test_running_steps_do_not_notice_the_coordinator(self):
    workers = self.start_all()
    address = self.coordinator.address
    step_count = 0
    failures = []
    stop = threading.Event()

    def run_steps():
      nonlocal step_count
      while not stop.is_set() and not failures:
        try:
          step(workers, seed=step_count)
        except BaseException as error:  # pylint: disable=broad-except
          failures.append(error)
        step_count += 1

    thread = threading.Thread(target=run_steps)
    thread.start()
    try:
      for _ in range(2):
        processes.wait_until(lambda: step_count > 0 or failures, "a step")
        self.coordinator.kill()
        dead_from = step_count
        processes.wait_until(lambda: step_count > dead_from + 2 or failures,
                             "steps with the coordinator dead")
        self.coordinator = self.start_coordinator(listen=address)
        back_from = step_count
        processes.wait_until(lambda: step_count > back_from + 2 or failures,
                             "steps with the coordinator back")
    finally:
      stop.set()
      thread.join()
    self.assertEqual(failures, [])

  def test_coordinator_stops_when_asked(self):
    workers = self.start_all()
    self.assertEqual(self.coordinator.terminate(), 0)
    for worker in workers:
      self.assertEqual(worker.terminate(), 0, worker.log)

  def test_coordinator_that_fails_to_start_applies_no_layout(self):
    self.coordinator.kill()
    directory = processes.temporary_directory()
    (directory / "good").write_text(json.dumps(dict(LAYOUT, name="good")))
    (directory / "bad").write_text("{}")
    for listen, layouts, exit_code in [("foo", ["good"], 1),
                                       ("127.0.0.1:0", ["good", "bad"], 5)]:
      start = subprocess.run([
          processes.program("coordinator/coordinatord"), "--listen", listen,
          "--store-path", self.store,
          *(f"--layout={directory / layout}" for layout in layouts)
      ], timeout=PATIENCE_S, check=False)
      self.assertEqual(start.returncode, exit_code)
    layouts = self.start_coordinator().shardctl("get", "layouts")
    self.assertIn("faults", layouts.out, layouts)
    self.assertNotIn("good", layouts.out)

  def test_port_file_of_an_earlier_run_does_not_outlive_a_failed_start(self):
    port_file = processes.temporary_directory() / "port"
    port_file.write_text("127.0.0.1:1\n")
    start = subprocess.run([
        processes.program("worker/workerd"), "--coordinator",
        self.coordinator.address, "--job", "faults", "--rank", "0", "--listen",
        "127.0.0.1:0", "--device", "cuda", "--port-file",
        str(port_file)
    ], timeout=PATIENCE_S, check=False)
    self.assertNotEqual(start.returncode, 0)
    self.assertFalse(port_file.exists())


if __name__ == "__main__":
  unittest.main()

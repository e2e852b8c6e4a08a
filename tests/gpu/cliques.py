"""Forms all cliques of a job over NCCL, kills workers, and counts what is left.

    cliques.py --bundle DIR --json FILE [--rounds N] [--gpus N] [--device host]

Starts a coordinator and one worker a GPU, two or four. A worker counts a clique
as formed when an all-reduce of one element has been done on it. Times are those
of the programs' own logs.
"""

import argparse
import collections
import contextlib
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import node
import reporting

GPUS = 2
JOB = "cliques"
LEASE_S = 2
PATIENCE_S = 90

Event = collections.namedtuple("Event", "name time fields")


def layout(rank_count, **parallelism):
  """A language module on all ranks, of tp2 and cp unless it is said."""
  return {
      "name": JOB,
      "world_size": rank_count,
      "modules": [{
          "name": "language",
          "role": "LANGUAGE",
          "first_rank": 0,
          "rank_count": rank_count,
          "parallelism": parallelism or {"tp": 2, "cp": rank_count // 2}
      }]
  }


def wait_until(condition, what):
  deadline = time.monotonic() + PATIENCE_S
  while True:
    value = condition()
    if value:
      return value
    if time.monotonic() > deadline:
      raise TimeoutError(f"waited {PATIENCE_S} s for {what}")
    time.sleep(0.005)


class Daemon:
  """A program of the bundle with its log in a file, until it is ended."""

  def __init__(self, folder, name, command):
    self.name = name
    self.log_path = folder / f"{name}.log"
    self.port_file = folder / f"{name}.port"
    with open(self.log_path, "wb") as log:
      self._process = subprocess.Popen(
          [*map(str, command), "--port-file", str(self.port_file)],
          stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
          env={**os.environ, "LD_LIBRARY_PATH": node.loader_path()})

  @property
  def pid(self):
    return self._process.pid

  def log(self):
    return self.log_path.read_text(encoding="utf-8", errors="replace")

  def events(self, name, **fields):
    """Its log lines of that name and with these fields, in order."""
    if self._process.poll() is not None:
      raise RuntimeError(f"{self.name} ended with {self._process.poll()}")
    found = []
    for line in self.log().splitlines():
      parts = re.match(rf"(\S+) \w+ (?:event=)?{name}( .*)?$", line)
      if not parts:
        continue
      values = dict(re.findall(r"(\w+)=(\"[^\"]*\"|\S*)", parts[2] or ""))
      if all(values.get(key) == str(value) for key, value in fields.items()):
        moment = datetime.datetime.strptime(parts[1], "%Y-%m-%dT%H:%M:%S.%f%z")
        found.append(Event(name, moment.timestamp(), values))
    return found

  def address(self):
    return wait_until(
        lambda: self.events("serving") and self.port_file.exists() and
        self.port_file.read_text(encoding="utf-8").strip(),
        f"{self.name} to listen")

  def kill(self):
    """As a crash does. Returns when."""
    moment = time.time()
    self._process.kill()
    self._process.wait()
    return moment

  def footprint(self):
    """Threads, open files and children."""
    tasks = os.listdir(f"/proc/{self.pid}/task")
    children = sum(
        len(pathlib.Path(f"/proc/{self.pid}/task/{task}/children").read_text(
            encoding="utf-8").split()) for task in tasks)
    return len(tasks), sum(self.open_files().values()), children

  def open_files(self):
    """How many of each kind: socket, pipe, a device's or a file's name."""
    kinds = collections.Counter()
    folder = pathlib.Path(f"/proc/{self.pid}/fd")
    for file in folder.iterdir():
      with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
        kinds[os.readlink(file).split(":[")[0]] += 1
    return kinds


class Job:
  """A coordinator and its workers; leaving the `with` block ends them all."""

  def __init__(self, bundle, spec, device, folder):
    self._bin = pathlib.Path(bundle) / "bin"
    self._device = device
    self._folder = folder
    layout_path = folder / "layout.json"
    layout_path.write_text(json.dumps(spec), encoding="utf-8")
    self._started = []
    self.coordinator = self._start("coordinatord", [
        self._bin / "coordinatord", "--listen", "127.0.0.1:0", "--store",
        "memory", "--lease-ttl", LEASE_S, "--layout", layout_path])
    self.workers = []
    try:
      self.address = self.coordinator.address()
      self.workers = [
          self.start_worker(rank) for rank in range(spec["world_size"])]
    except Exception:
      self.end()
      raise

  def _start(self, name, command):
    self._started.append(Daemon(self._folder, name, command))
    return self._started[-1]

  def start_worker(self, rank):
    return self._start(f"workerd-{rank}-{len(self._started)}", [
        self._bin / "workerd", "--coordinator", self.address, "--job", JOB,
        "--rank", rank, "--listen", "127.0.0.1:0", "--device", self._device,
        "--gpu", rank, "--check-cliques", "true"])

  def wait_formed(self, counts):
    """Until worker i has formed all its cliques more than counts[i] times."""
    wait_until(
        lambda: all(len(worker.events("formed")) > count
                    for worker, count in zip(self.workers, counts)),
        "all cliques to be formed")

  def formed_counts(self):
    return [len(worker.events("formed")) for worker in self.workers]

  def states(self):
    """State of every clique, by name, as the coordinator has it."""
    answer = subprocess.run(
        [self._bin / "shardctl", "get", "communicators", "--coordinator",
         self.address, "--job", JOB, "-o", "json"],
        capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    found = json.loads(answer)
    cliques = found if isinstance(found, list) else found["communicators"]
    return {clique["name"]: clique["state"] for clique in cliques}

  def print_logs(self):
    for daemon in self._started:
      lines = daemon.log().splitlines()[-25:]
      print(f"--- {daemon.name}", *lines, sep="\n    ")

  def end(self):
    for daemon in reversed(self._started):
      daemon.kill()


@contextlib.contextmanager
def running(bundle, spec, device="cuda"):
  """A job of that layout, whose name is JOB, with all cliques formed."""
  with tempfile.TemporaryDirectory(prefix="cliques") as folder:
    job = Job(bundle, spec, device, pathlib.Path(folder))
    try:
      job.wait_formed([0] * spec["world_size"])
      yield job
    except Exception:
      job.print_logs()
      raise
    finally:
      job.end()


def formation_ms(job):
  """From all workers being members until all their cliques are formed."""
  registered = max(w.events("registered")[0].time for w in job.workers)
  formed = max(w.events("formed")[0].time for w in job.workers)
  return round((formed - registered) * 1000)


def lose_one(job, rank):
  """Kills a worker and starts another. Seconds until all others were told."""
  counts = job.formed_counts()
  survivors = [w for w in job.workers if w is not job.workers[rank]]
  told = [len(w.events("peer_lost", rank=rank)) for w in survivors]
  killed = job.workers[rank].kill()
  job.workers[rank] = job.start_worker(rank)
  counts[rank] = 0
  wait_until(
      lambda: all(len(w.events("peer_lost", rank=rank)) > count
                  for w, count in zip(survivors, told)),
      f"the loss of rank {rank} to be told")
  seconds = max(w.events("peer_lost", rank=rank)[-1].time
                for w in survivors) - killed
  job.wait_formed(counts)
  return round(seconds, 3)


def measure(options):
  """Runs the job; {name: figure}."""
  figures = {}

  def figure(name, got, unit, reference=None):
    figures[f"cliques/{name}"] = {
        "got": got, "unit": unit, "reference": reference}

  with running(options.bundle, layout(options.gpus), options.device) as job:
    states = job.states()
    print(f"{len(states)} cliques of {options.gpus} workers")
    if set(states.values()) != {"ACTIVE"}:
      raise RuntimeError(f"not all cliques are active: {states}")
    figure("count", len(states), "cliques")
    figure("formation", formation_ms(job), "ms")
    figure("start to formed",
           round(max(w.events("formed")[0].time for w in job.workers) -
                 job.coordinator.events("serving")[0].time, 3), "s")
    told, before = [], None
    for number in range(options.rounds):
      # Rank 0 stays, and is looked at.
      told.append(lose_one(job, 1 + number % (options.gpus - 1)))
      if set(job.states().values()) != {"ACTIVE"}:
        raise RuntimeError(f"round {number}: {job.states()}")
      if before is None:  # What is kept once is there then.
        before = job.workers[0].footprint(), job.coordinator.footprint()
        files = job.workers[0].open_files()
      print(f"round {number}: told after {told[-1]:.2f} s, formed again",
            flush=True)
    figure("rounds formed again", len(told), "rounds", options.rounds)
    figure("loss told, median", statistics.median(told), "s")
    figure("loss told, longest", max(told), "s", LEASE_S + 2)
    after = job.workers[0].footprint(), job.coordinator.footprint()
    gained = dict(job.workers[0].open_files() - files)
    print(f"files that the worker has gained: {gained}", flush=True)
    for who, old, new in zip(("worker", "coordinator"), before, after):
      for what, was, now in zip(("threads", "files", "children"), old, new):
        figure(f"{who} {what} after {options.rounds} losses", now, what, was)
  return figures


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--bundle", required=True)
  parser.add_argument("--json", required=True)
  parser.add_argument("--rounds", type=int, default=20)
  parser.add_argument("--gpus", type=int, choices=(2, 4),
                      help="workers (default: as many as there are GPUs)")
  parser.add_argument("--device", default="cuda", choices=("cuda", "host"))
  options = parser.parse_args()
  options.gpus = options.gpus or (4 if len(node.gpus()) >= 4 else 2)
  figures = measure(options)
  reporting.write_figures(figures, options.json)
  late = figures["cliques/loss told, longest"]
  return 0 if late["got"] <= late["reference"] else 1


if __name__ == "__main__":
  sys.exit(main())

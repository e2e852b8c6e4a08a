"""Starts and ends the real programs, for tests.

Every process listens on a port of its own choice on 127.0.0.1, and is ended by
its process id, whatever happens: use them in a `with`, or `addCleanup(x.kill)`.
"""

import atexit
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

# How long anything that should happen at once may take on a busy machine.
PATIENCE_S = 60


def program(path):
  """Path of a built program, such as "client/cli/shardctl"."""
  roots = []
  if "TEST_SRCDIR" in os.environ:
    roots.append(
        pathlib.Path(os.environ["TEST_SRCDIR"]) / os.environ["TEST_WORKSPACE"])
  roots.append(pathlib.Path(__file__).resolve().parents[2] / "bazel-bin")
  for root in roots:
    if (root / path).exists():
      return str(root / path)
  raise FileNotFoundError(f"{path} is not built; looked in {roots}")


def temporary_directory():
  """A new directory, below the test's own, that goes when the test ends."""
  path = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"), prefix="sw")
  atexit.register(shutil.rmtree, path, ignore_errors=True)
  return pathlib.Path(path)


def wait_until(condition, what, timeout_s=PATIENCE_S, pause_s=0.02):
  """Waits until `condition()` is true and returns what it returned.

  With no pause it is asked again and again, for what soon is over.
  """
  deadline = time.monotonic() + timeout_s
  while True:
    value = condition()
    if value:
      return value
    if time.monotonic() > deadline:
      raise TimeoutError(f"waited {timeout_s} s for {what}")
    time.sleep(pause_s)


class Answer:
  """What one run of shardctl gave."""

  def __init__(self, completed):
    self.exit_code = completed.returncode
    self.out = completed.stdout
    self.err = completed.stderr

  @property
  def json(self):
    if self.exit_code != 0:
      raise AssertionError(f"exit code {self.exit_code}: {self.err}")
    return json.loads(self.out)

  def __repr__(self):
    return f"exit code {self.exit_code}\n{self.out}\n{self.err}"


def shardctl(*arguments, stdin=None, environment=None):
  """Runs shardctl to its end."""
  return Answer(
      subprocess.run(
          [program("client/cli/shardctl"), *map(str, arguments)],
          input=stdin,
          capture_output=True,
          encoding="utf-8",
          env=dict(os.environ, **(environment or {})),
          timeout=PATIENCE_S,
          check=False))


class Process:
  """A daemon with a port, its log in a file."""

  def __init__(self, name, arguments):
    self.directory = temporary_directory()
    self.log_path = self.directory / f"{name}.log"
    self._port_file = self.directory / "port"
    self._name = name
    with open(self.log_path, "wb") as log:
      self._process = subprocess.Popen(
          [*arguments, "--port-file", str(self._port_file)],
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT)

  @property
  def pid(self):
    return self._process.pid

  @property
  def address(self):
    """Where it listens, once it does."""

    def read():
      self.assert_running()
      return self._port_file.exists() and self._port_file.read_text().strip()

    return wait_until(read, f"{self._name} to listen")

  @property
  def log(self):
    return self.log_path.read_text(errors="replace")

  @property
  def exit_code(self):
    """None as long as it runs."""
    return self._process.poll()

  def assert_running(self):
    if self.exit_code is not None:
      raise AssertionError(
          f"{self._name} ended with {self.exit_code}:\n{self.log}")

  def signal(self, number):
    if self.exit_code is None:
      self._process.send_signal(number)

  def wait_stopped(self):
    """After SIGSTOP: until no thread of it runs."""
    # Its end, if that was first, is left to whoever waits for that.
    os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

  def kill(self):
    """As a crash does: nothing in the process gets to run."""
    self.signal(signal.SIGKILL)
    self._process.wait(PATIENCE_S)

  def terminate(self):
    """Asks it to stop, and returns its exit code."""
    self.signal(signal.SIGTERM)
    return self.wait()

  def wait(self):
    return self._process.wait(PATIENCE_S)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.kill()


class Coordinator(Process):
  """coordinatord. Keep `store_path` to start another on the same file.

  A restart at the same address is asked for with `listen`.
  """

  def __init__(self, store_path=None, listen="127.0.0.1:0", lease_ttl_s=10,
               arguments=()):
    store = (["--store", "memory"] if store_path is None else
             ["--store", "sqlite", "--store-path", str(store_path)])
    super().__init__("coordinatord", [
        program("coordinator/coordinatord"), "--listen", listen, "--lease-ttl",
        str(lease_ttl_s), *store, *arguments
    ])

  def shardctl(self, *arguments, **options):
    return shardctl(*arguments, "--coordinator", self.address, **options)

  def apply(self, layout, *arguments):
    """Applies a layout given as a dict."""
    return self.shardctl(
        "apply", "-f", "-", "-o", "json", *arguments, stdin=json.dumps(layout))


class Worker(Process):
  """workerd of one rank on the host device."""

  def __init__(self, coordinator_address, job, rank, *arguments):
    self.rank = rank
    super().__init__(f"workerd-{rank}", [
        program("worker/workerd"), "--coordinator", coordinator_address,
        "--job", job, "--rank",
        str(rank), "--listen", "127.0.0.1:0", *map(str, arguments)
    ])

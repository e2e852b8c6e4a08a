"""Programs of the bundle, started and ended by daemon.py."""

import os
import pathlib
import subprocess
import time

import node

PATIENCE_S = 60


def wait_until(condition, what, patience_s=PATIENCE_S):
  deadline = time.monotonic() + patience_s
  while True:
    value = condition()
    if value:
      return value
    if time.monotonic() > deadline:
      raise TimeoutError(f"waited {patience_s} s for {what}")
    time.sleep(0.005)


class Program:
  """A program of the bundle with its log in a file, until it is ended."""

  def __init__(self, folder, *command):
    self.name = pathlib.Path(command[0]).name
    self.log_path = folder / f"{self.name}.log"
    self.port_file = folder / f"{self.name}.port"
    with open(self.log_path, "wb") as log:
      self.process = subprocess.Popen(
          [*map(str, command), "--listen", "127.0.0.1:0", "--port-file",
           str(self.port_file)],
          stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
          env={**os.environ, "LD_LIBRARY_PATH": node.loader_path()})

  def log(self):
    return self.log_path.read_text(encoding="utf-8", errors="replace")

  def alive(self):
    return self.process.poll() is None

  def address(self):
    def read():
      if not self.alive():
        raise RuntimeError(f"{self.name} ended with {self.process.poll()}:\n"
                           f"{self.log()}")
      return self.port_file.exists() and self.port_file.read_text().strip()

    return wait_until(read, f"{self.name} to listen")

  def kill(self):
    self.process.kill()
    self.process.wait()

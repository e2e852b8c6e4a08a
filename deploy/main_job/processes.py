"""Starts the processes of the main job and ends them, whatever happens."""

import ctypes
import pathlib
import signal
import subprocess
import time

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ProcessFailed(Exception):
    """A process ended, or did not start, when it should have been running."""


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """Child processes by name; leaving the `with` block ends them all.

    Each has a session of its own, so that Ctrl-C reaches only the driver, which
    then ends them: the first to start, the coordinator, goes last.
    """

    def __init__(self, log_folder, environment):
        self._log_folder = pathlib.Path(log_folder)
        self._environment = environment
        self._running = []  # (name, Popen), in order of start.

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        # A second Ctrl-C must not leave processes behind.
        handlers = [(number, signal.signal(number, signal.SIG_IGN))
                    for number in (signal.SIGINT, signal.SIGTERM)]
        processes = [process for _, process in self._running]
        self._end(processes[1:])
        self._end(processes[:1])
        self._running = []
        for number, handler in handlers:
            signal.signal(number, handler)

    def start(self, name, command, stdout=None):
        """Starts a process; what it logs goes to NAME.log.

        With stdout=subprocess.PIPE the caller reads its standard output.
        """
        with open(self._log_folder / (name + ".log"), "wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stdout or log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=_die_with_parent)
        self._running.append((name, process))
        return process

    def end(self, process):
        """Ends one process now: SIGTERM, and SIGKILL after five seconds."""
        self._end([process])
        self._running = [r for r in self._running if r[1] is not process]

    def check(self):
        """Raises ProcessFailed if one has ended with an error."""
        for name, process in self._running:
            if process.poll() not in (None, 0):
                raise ProcessFailed("%s ended with exit code %d:\n%s" % (
                    name, process.returncode, self.tail(name)))

    def wait_for_port_file(self, path, timeout_s=30):
        """The address that a server wrote when it was ready."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            if path.exists() and path.read_text().strip():
                return path.read_text().strip()
            time.sleep(0.02)
        raise ProcessFailed("no address in %s after %d s" % (path, timeout_s))

    def tail(self, name, lines=15):
        """The end of a process's log, indented."""
        text = (self._log_folder / (name + ".log")).read_text(errors="replace")
        return "\n".join("    " + line for line in text.splitlines()[-lines:])

    @staticmethod
    def _end(processes):
        for process in processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 5
        for process in processes:
            try:
                process.wait(timeout=max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()

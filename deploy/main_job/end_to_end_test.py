"""The main job itself: right, and honest when something breaks."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from PIL import Image

MAIN = pathlib.Path(__file__).absolute().with_name("main.py")


def children_of(pid):
    """{pid: command line} of the processes that `pid` started."""
    pids = pathlib.Path("/proc/%d/task/%d/children" % (pid, pid)).read_text()
    return {
        int(child): pathlib.Path("/proc/%s/cmdline" % child).read_text()
        for child in pids.split()
    }


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class EndToEndTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name)

    def start(self):
        process = subprocess.Popen(
            [sys.executable, str(MAIN), "--out", str(self.out)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def end():
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def read_until(self, process, words):
        for line in process.stdout:
            if words in line:
                return
        self.fail("no line with %r:\n%s" % (words, process.stderr.read()))

    def test_every_byte_comes_back(self):
        process = self.start()
        output, errors = process.stdout.read(), process.stderr.read()
        self.assertEqual(process.wait(), 0, output + errors)
        self.assertIn("All bytes are equal", output)
        with Image.open(self.out / "main_job.png") as picture:
            self.assertGreater(picture.width * picture.height, 1000 * 1000)

    def test_a_dead_worker_fails_the_job(self):
        process = self.start()
        self.read_until(process, "workers run")
        children = children_of(process.pid)
        (worker,) = [pid for pid, command in children.items()
                     if "\0--rank\0" "4\0" in command]
        os.kill(worker, signal.SIGKILL)
        errors = process.stderr.read()
        self.assertEqual(process.wait(), 1, errors)
        self.assertIn("worker-4 ended with exit code -9", errors)
        # A shardctl that was killed at the end may not be reaped at once.
        deadline = time.monotonic() + 5
        while any(map(is_alive, children)) and time.monotonic() < deadline:
            os.sched_yield()
        self.assertFalse(any(map(is_alive, children)))

    def test_an_interrupt_leaves_nothing_behind(self):
        process = self.start()
        self.read_until(process, "workers run")
        children = children_of(process.pid)
        self.assertGreaterEqual(len(children), 9)  # And a passing shardctl.
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        self.assertEqual(process.wait(), 130, errors)
        # A shardctl that was killed at the end may not be reaped at once.
        deadline = time.monotonic() + 5
        while any(map(is_alive, children)) and time.monotonic() < deadline:
            os.sched_yield()
        self.assertFalse(any(map(is_alive, children)))


if __name__ == "__main__":
    unittest.main()

"""Processes are ended on every path, and their failures are told."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from processes import ProcessFailed, Processes

# Says that it is ready, then ignores SIGTERM or not, and waits for ever.
WAIT = "import sys, time; print('ready', flush=True); time.sleep(1000)"
STUBBORN = ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " +
            WAIT)


class ProcessesTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.processes = Processes(self.folder, dict(os.environ))

    def start(self, name, program):
        return self.processes.start(name, [sys.executable, "-c", program],
                                    stdout=subprocess.PIPE)

    def test_leaving_the_block_ends_even_the_stubborn(self):
        with self.processes:
            both = [self.start("a", WAIT), self.start("b", STUBBORN)]
            for process in both:
                self.assertEqual(process.stdout.readline(), b"ready\n")
        self.assertEqual([p.returncode for p in both], [-15, -9])

    def test_an_exception_ends_them_too(self):
        with self.assertRaises(KeyboardInterrupt):
            with self.processes:
                process = self.start("a", WAIT)
                raise KeyboardInterrupt
        self.assertEqual(process.returncode, -15)

    def test_a_failure_is_told_with_the_end_of_the_log(self):
        with self.processes:
            self.start("broken", "raise SystemExit('no such thing')").wait()
            with self.assertRaisesRegex(
                    ProcessFailed, "broken ended with exit code 1:\n"
                    "    no such thing"):
                self.processes.check()

    def test_the_address_of_a_server_is_what_it_wrote(self):
        path = self.folder / "port"
        with self.processes:
            self.start("server", "import pathlib; pathlib.Path(%r).write_text("
                       "'127.0.0.1:99\\n')" % str(path))
            self.assertEqual(self.processes.wait_for_port_file(path),
                             "127.0.0.1:99")

    def test_a_server_that_dies_is_not_waited_for(self):
        with self.processes:
            self.start("server", "raise SystemExit(3)")
            with self.assertRaisesRegex(ProcessFailed, "exit code 3"):
                self.processes.wait_for_port_file(self.folder / "port")


if __name__ == "__main__":
    unittest.main()

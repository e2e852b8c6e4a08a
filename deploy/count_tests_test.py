"""count_tests counts what ran, and never turns a failure into a pass."""

import os
import pathlib
import tempfile
import unittest

import count_tests

GTEST = """<?xml version="1.0"?>
<testsuites><testsuite name="S">
<testcase name="A" classname="S" status="run" result="completed"/>
<testcase name="B" classname="S" status="run" result="completed">
  <failure message="no"/></testcase>
<testcase name="C" classname="S" status="run" result="skipped">
  <skipped message="no GPU"/></testcase>
<testcase name="D" classname="S" status="notrun" result="suppressed"/>
</testsuite></testsuites>
"""
BAZEL = """<?xml version="1.0"?>
<testsuites><testsuite name="t"><testcase name="t" status="run"/>
</testsuite></testsuites>
"""


class CountTest(unittest.TestCase):

    def setUp(self):
        self._folder = tempfile.TemporaryDirectory(
            dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(self._folder.cleanup)

    def run_of(self, status, xml=BAZEL, log="", label="//:t", attempt=1):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self._folder.name))
        (folder / "test.xml").write_text(xml)
        (folder / "test.log").write_text(log)
        return {
            "id": {"testResult": {"label": label, "attempt": attempt}},
            "testResult": {
                "status": status,
                "testActionOutput": [
                    {"name": name, "uri": (folder / name).as_uri()}
                    for name in ("test.log", "test.xml")
                ],
            },
        }

    def count(self, *events):
        return count_tests.count(events)[:3]

    def test_counts_the_cases_of_gtest(self):
        self.assertEqual(self.count(self.run_of("FAILED", GTEST)), (1, 1, 2))

    def test_counts_the_methods_of_unittest(self):
        log = ("..F.s\n-----\nRan 5 tests in 0.010s\n\n"
               "FAILED (failures=1, skipped=1)\n")
        self.assertEqual(self.count(self.run_of("FAILED", log=log)), (3, 1, 1))
        log = "...\n-----\nRan 3 tests in 0.010s\n\nOK\n"
        self.assertEqual(self.count(self.run_of("PASSED", log=log)), (3, 0, 0))

    def test_a_test_that_counts_nothing_is_one_case(self):
        self.assertEqual(self.count(self.run_of("PASSED")), (1, 0, 0))
        self.assertEqual(self.count(self.run_of("TIMEOUT")), (0, 1, 0))

    def test_a_crash_after_good_cases_is_a_failure(self):
        good = GTEST.replace('<failure message="no"/>', "")
        self.assertEqual(self.count(self.run_of("FAILED", good)), (2, 1, 2))
        self.assertEqual(self.count(self.run_of("FAILED", "")), (0, 1, 0))

    def test_the_last_attempt_counts(self):
        first = self.run_of("FAILED", attempt=1)
        second = self.run_of("PASSED", attempt=2)
        self.assertEqual(self.count(first, second), (1, 0, 0))

    def test_a_target_that_does_not_build_is_a_failure(self):
        broken = {"id": {"targetCompleted": {"label": "//:b"}}, "aborted": {}}
        self.assertEqual(self.count(broken), (0, 1, 0))
        fine = {"id": {"targetCompleted": {"label": "//:b"}},
                "completed": {"success": True}}
        self.assertEqual(self.count(fine), (0, 0, 0))

    def test_a_test_that_is_not_for_this_machine_is_skipped(self):
        def passed_over(label, kind):
            return [{"id": {"targetConfigured": {"label": label}},
                     "configured": {"targetKind": kind}},
                    {"id": {"targetCompleted": {"label": label}},
                     "aborted": {"reason": "SKIPPED"}}]

        self.assertEqual(
            self.count(self.run_of("PASSED"),
                       *passed_over("//:gpu_test", "cc_test rule"),
                       *passed_over("//:gpu", "cc_library rule")), (1, 0, 1))

    def test_a_test_that_an_interruption_kept_from_running_is_a_failure(self):
        cut_off = {"id": {"testResult": {"label": "//:c"}},
                   "aborted": {"reason": "USER_INTERRUPTED"}}
        self.assertEqual(self.count(self.run_of("PASSED"), cut_off), (1, 1, 0))

    def test_a_fuzzed_target_is_one_case(self):
        self.assertEqual(
            count_tests.count_fuzzed(["a_fuzz passed", "b_fuzz passed"]),
            (2, 0, []))
        passed, failed, problems = count_tests.count_fuzzed(
            ["a_fuzz passed", "b_fuzz failed", "c_fuzz"])
        self.assertEqual((passed, failed), (1, 2))
        self.assertIn("b_fuzz", problems[0])
        self.assertIn("c_fuzz", problems[1])


if __name__ == "__main__":
    unittest.main()

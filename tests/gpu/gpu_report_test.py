"""gpu_report over a bundle of shell scripts."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent

XML = """<testsuites><testsuite>
<testcase classname="A" name="Good" status="run" result="completed"/>
{more}</testsuite></testsuites>"""
BAD = ('<testcase classname="A" name="Bad" status="run" result="completed">'
       '<failure message="row 7 differs"/></testcase>')
SKIPPED = ('<testcase classname="A" name="Skip" status="run" result="skipped">'
           '<skipped message="no GPU"/></testcase>')
LEFT_OUT = ('<testcase classname="A" name="Other" status="notrun" '
            'result="suppressed"/>')


class GpuReportTest(unittest.TestCase):

  def setUp(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.bundle = pathlib.Path(folder.name)
    for name in ("gpu", "peers", "bin", "data"):
      (self.bundle / "tests" / name).mkdir(parents=True)
    for name in ("gpu_report.py", "node.py"):
      shutil.copy(HERE / name, self.bundle / "tests/gpu")
    (self.bundle / "manifest").write_text("commit abc\n")

  def add(self, line, text):
    """A program of the manifest, by its shell script."""
    with open(self.bundle / "manifest", "a", encoding="utf-8") as file:
      file.write(line + "\n")
    path = self.bundle / "tests/bin" / line.split()[-1]
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)

  def add_test(self, line, *more, end="exit 0"):
    xml = XML.format(more="".join(more))
    self.add(line, f"cat >${{1#*xml:}} <<'END'\n{xml}\nEND\n{end}\n")

  def report(self, *options, gpus=1):
    """(exit code, report, printed lines) with so many GPUs pretended."""
    path = self.bundle / "report.json"
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys, node; import gpu_report\n"
         f"node.gpus = lambda: [('H', 1)] * {gpus}\n"
         "sys.exit(gpu_report.main())", "--json", str(path), *options],
        cwd=self.bundle / "tests/gpu", stdout=subprocess.PIPE,
        encoding="utf-8", check=False)
    return (done.returncode, json.loads(path.read_text(encoding="utf-8")),
            done.stdout.splitlines())

  def test_counts_cases_as_gtest_wrote_them(self):
    self.add_test("test gpu1 a_test", SKIPPED, LEFT_OUT)
    code, report, lines = self.report()
    self.assertEqual(code, 0)
    self.assertEqual(lines[-1], "1 passed, 0 failed, 1 skipped")
    self.assertIn("A.Skip skipped: no GPU", report["tests"]["a_test"]
                  ["problems"])
    self.assertEqual(report["commit"], "abc")

  def test_tells_what_failed_and_goes_on(self):
    self.add_test("test gpu1 a_test", BAD, end="exit 1")
    self.add_test("test gpu1 b_test")
    code, report, lines = self.report()
    self.assertEqual(code, 1)
    self.assertEqual(lines[-1], "2 passed, 1 failed, 0 skipped")
    self.assertIn("A.Bad: row 7 differs",
                  report["tests"]["a_test"]["problems"])

  def test_a_crash_is_a_failure_whatever_was_written(self):
    self.add_test("test gpu1 a_test", end="echo last words; kill -9 $$")
    self.add("test gpu1 b_test", "exit 0\n")
    code, report, lines = self.report()
    self.assertEqual(code, 1)
    self.assertEqual(lines[-1], "1 passed, 2 failed, 0 skipped")
    self.assertIn("last words", "".join(report["tests"]["a_test"]["problems"]))
    self.assertIn("ran nothing", report["tests"]["b_test"]["problems"])

  def test_what_needs_more_gpus_is_skipped_and_said(self):
    self.add_test("test gpu4 a_test")
    (self.bundle / "tests/gpu/script.py").write_text(
        'GPUS = 8\nif __name__ == "__main__":\n  raise AssertionError\n')
    code, report, lines = self.report(gpus=2)
    self.assertEqual(code, 1, "nothing has passed")
    self.assertEqual(lines[-1], "0 passed, 0 failed, 2 skipped")
    for step, gpus in (("a_test", 4), ("script", 8)):
      self.assertEqual(report["tests"][step]["problems"],
                       [f"needs {gpus} GPUs, 2 here"])
      self.assertIn(f"{step}: needs {gpus} GPUs, 2 here", lines)

  def test_merges_figures(self):
    self.add("benchmark gpu_benchmark a_benchmark",
             'echo \'{"a": {"got": 1.5, "unit": "us", "reference": 2}}\' >$2\n')
    (self.bundle / "tests/gpu/script.py").write_text(
        'import sys\nif __name__ == "__main__":\n'
        "  open(sys.argv[4], 'w').write("
        """'{"b": {"got": 3, "unit": "ms", "reference": null}}')\n""")
    code, report, lines = self.report()
    self.assertEqual(code, 0, "\n".join(lines))
    self.assertEqual(report["figures"]["a"]["got"], 1.5)
    self.assertEqual(report["figures"]["b"]["unit"], "ms")
    self.assertIn("| a | 1.5 | us | 2 |", lines)

  def test_a_benchmark_without_figures_has_failed(self):
    self.add("benchmark gpu_benchmark a_benchmark", "exit 0\n")
    code, _, lines = self.report()
    self.assertEqual(code, 1)
    self.assertEqual(lines[-1], "0 passed, 1 failed, 0 skipped")

  def test_ends_what_takes_too_long_and_all_that_it_started(self):
    self.add("test gpu1 a_test", "tail -f /dev/null & tail -f /dev/null\n")
    code, report, _ = self.report("--seconds", "2")
    self.assertEqual(code, 1)
    self.assertIn("not done within",
                  report["tests"]["a_test"]["problems"][0])

  def test_runs_only_what_is_named(self):
    self.add_test("test gpu1 a_test")
    self.add_test("test gpu1 b_test")
    _, report, _ = self.report("--only", "b_")
    self.assertEqual(list(report["tests"]), ["b_test"])


if __name__ == "__main__":
  unittest.main()

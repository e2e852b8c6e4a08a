"""Runs every GPU test, benchmark and comparison of a bundle, and reports.

    gpu_report --json FILE [--only NAME...] [--wheels DIR] [--sanitizers]

Steps: the tests that fit this node's GPUs, the benchmarks, the scripts of
tests/gpu, the comparisons with peers of tests/peers, and the compute sanitizer
over the kernels. Each has a time limit, and one that fails does not end the
others; FILE is written anew after each, so that nothing is lost:

    {"command", "date", "commit", "hardware": {...},
     "figures": {NAME: {"got", "unit", "reference"}},
     "tests": {STEP: {"passed", "failed", "skipped", "seconds", "problems"}}}

A script takes --json FILE, where it writes figures, and --bundle DIR; it says
by a line `GPUS = N` how many GPUs it needs. Prints a table; the last line is
"N passed, N failed, N skipped". Exits with 1 if anything failed, or if nothing
passed.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

import node

BUNDLE = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
# What runs under the sanitizer, which is a hundred times slower: part of the
# grid. Tests of refusals are left out: it takes CUDA's own refusals for errors.
SANITIZED = {
    "cuda_device_gpu_test":
        "*MicroBatch*:*Streams*:*ReplaysAGraph*:*Stride1Sources2Shift0:"
        "*Stride2Sources5Shift2",
}
PRINTED = 20  # Problems of a step.
TAIL = 4000  # Characters kept of what a failed step wrote.


@dataclasses.dataclass
class Step:
  """A program to run. `results` is the option that names its result file."""

  name: str
  command: list
  results: str  # "--json", or "--gtest_output=xml:" for a test.
  gpus: int = 1
  limit: float = 120.0  # Seconds.


def _script(path, name, *arguments):
  text = path.read_text(encoding="utf-8")
  needed = re.search(r"^GPUS = (\d+)", text, re.MULTILINE)
  return Step(name, [sys.executable, str(path), "--bundle", str(BUNDLE),
                     *arguments], "--json", int(needed[1]) if needed else 1,
              300.0)


def _scripts(folder):
  """Files of tests/FOLDER that are programs, not modules or this one."""
  return [path for path in sorted((BUNDLE / "tests" / folder).glob("*.py"))
          if path.name != "gpu_report.py" and
          "__main__" in path.read_text(encoding="utf-8")]


def steps(options):
  """All steps, in their order."""
  lines = (BUNDLE / "manifest").read_text(encoding="utf-8").splitlines()
  programs = [line.split() for line in lines
              if line.startswith(("test ", "benchmark "))]
  found = []
  for kind, tag, name in programs:
    program = [str(BUNDLE / "tests/bin" / name)]
    if kind == "test":
      found.append(Step(name, program, "--gtest_output=xml:",
                        int(tag.removeprefix("gpu"))))
    else:
      found.append(Step(name, program, "--json", limit=180.0))
  found += [_script(path, path.stem) for path in _scripts("gpu")]
  for path in _scripts("peers"):
    wheels = []
    if path.stem in ("align_and_shard", "bridge"):
      if not options.wheels:
        continue
      wheels = ["--wheels", os.path.abspath(options.wheels)]
    found.append(_script(path, f"peers/{path.stem}", *wheels))
  if options.sanitizers:
    found += sanitizer_steps([name for _, _, name in programs])
  return [step for step in found if not options.only or
          any(name in step.name for name in options.only)]


def sanitizer_steps(programs):
  program = node.find_sanitizer() or "compute-sanitizer"
  return [
      Step(f"sanitizer/{tool}/{name}",
           [program, "--tool", tool, "--error-exitcode", "99",
            str(BUNDLE / "tests/bin" / name), f"--gtest_filter={cases}"],
           "--gtest_output=xml:", limit=90.0)
      for name, cases in SANITIZED.items() if name in programs
      for tool in TOOLS]


def _environment():
  data = BUNDLE / "tests/data"
  return {**os.environ, "LD_LIBRARY_PATH": node.loader_path(),
          "PYTHONPATH": str(BUNDLE / "python"), "PYTHONUNBUFFERED": "1",
          "TEST_SRCDIR": str(data.parent), "TEST_WORKSPACE": data.name}


def execute(command, limit):
  """(exit code or what went wrong, output) of a program, ended at its limit."""
  with tempfile.TemporaryFile("w+", encoding="utf-8",
                              errors="replace") as output:
    try:
      # A session of its own, so that what it has started ends with it.
      process = subprocess.Popen(
          command, cwd=BUNDLE / "tests/data", env=_environment(),
          stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
          start_new_session=True)
    except OSError as error:
      return f"cannot be started: {error}", ""
    try:
      code = process.wait(max(limit, 1.0))
    except subprocess.TimeoutExpired:
      code = f"not done within {limit:.0f} s"
    try:
      os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
      pass
    process.wait()
    output.seek(0)
    return code, output.read()


def read_cases(path):
  """Counts and problems of a gtest XML; None if the test did not write it."""
  try:
    cases = list(ElementTree.parse(path).iter("testcase"))
  except (OSError, ElementTree.ParseError):
    return None
  result = {"passed": 0, "failed": 0, "skipped": 0, "problems": []}
  for case in cases:
    name = f"{case.get('classname')}.{case.get('name')}"
    failures = case.findall("failure") + case.findall("error")
    skipped = case.find("skipped")
    if failures:
      result["failed"] += 1
      words = failures[0].get("message") or failures[0].text or ""
      result["problems"].append(f"{name}: {words[:1000]}")
    elif skipped is not None or case.get("result") == "skipped":
      result["skipped"] += 1
      words = "" if skipped is None else skipped.get("message") or ""
      result["problems"].append(f"{name} skipped: {words[:200]}")
    elif case.get("status") != "notrun":  # Else the filter has left it out.
      result["passed"] += 1
  return result


def run(step, gpu_count, limit):
  """(result, figures) of one step."""
  if step.gpus > gpu_count:
    return {"passed": 0, "failed": 0, "skipped": 1, "seconds": 0.0,
            "problems": [f"needs {step.gpus} GPUs, {gpu_count} here"]}, {}
  begin, figures = time.monotonic(), {}
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "results")
    option = [step.results + path] if step.results.endswith(":") else [
        step.results, path]
    code, output = execute(step.command + option, min(limit, step.limit))
    if step.results.endswith(":"):
      result = read_cases(path)
    else:
      try:
        with open(path, encoding="utf-8") as file:
          figures = json.load(file)
      except (OSError, ValueError) as error:
        code = code or f"wrote no figures: {error}"
      result = {"passed": int(code == 0), "failed": 0, "skipped": 0,
                "problems": []}
  result = result or {"passed": 0, "failed": 0, "skipped": 0, "problems": []}
  if code != 0 and not result["failed"]:
    result["failed"] = 1  # It died before or after its cases.
  if code == 0 and not result["passed"] + result["failed"] + result["skipped"]:
    result["failed"], code = 1, "ran nothing"
  if result["failed"]:
    reason = f"exit code {code}" if isinstance(code, int) else code
    result["problems"][:0] = [reason, "output ends: " + output[-TAIL:]]
  result["seconds"] = round(time.monotonic() - begin, 1)
  return result, figures


def write(report, path):
  pathlib.Path(path).write_text(json.dumps(report, indent=1) + "\n",
                                encoding="utf-8")


def _number(value):
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_tables(report):
  print(f"\n`{report['command']}`, {', '.join(report['hardware']['gpus'])}, "
        f"driver {report['hardware']['driver']}, {report['date']}, commit "
        f"{report['commit']}\n")
  print("| figure | got | unit | reference |\n| --- | --- | --- | --- |")
  for name, figure in report["figures"].items():
    print(f"| {name} | {_number(figure.get('got'))} | {figure.get('unit')} | "
          f"{_number(figure.get('reference'))} |")
  print("\n| step | passed | failed | skipped | s |\n"
        "| --- | --- | --- | --- | --- |")
  for name, result in report["tests"].items():
    print(f"| {name} | {result['passed']} | {result['failed']} | "
          f"{result['skipped']} | {result['seconds']} |")
  print()
  for name, result in report["tests"].items():
    for problem in result["problems"][:PRINTED]:
      print(f"{name}: {problem}")
    if len(result["problems"]) > PRINTED:
      print(f"{name}: and {len(result['problems']) - PRINTED} more, in FILE")


def _commit():
  text = (BUNDLE / "manifest").read_text(encoding="utf-8")
  found = re.search(r"^commit (\S+)", text, re.MULTILINE)
  return found[1] if found else "unknown"


def parse(arguments):
  parser = argparse.ArgumentParser(
      prog="gpu_report", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--json", metavar="FILE", required=True,
                      help="write the report to this file")
  parser.add_argument("--only", metavar="NAME", nargs="+", default=[],
                      help="only steps whose name has one of these in it")
  parser.add_argument("--wheels", metavar="DIR",
                      help="folder of the peers' wheels; without, they are "
                      "left out")
  parser.add_argument("--sanitizers", action="store_true",
                      help="also run the kernels under compute-sanitizer")
  parser.add_argument("--seconds", type=float, default=470.0,
                      help="for all steps together (default %(default)s)")
  return parser.parse_args(arguments)


def main():
  options = parse(sys.argv[1:])
  report = {
      "command": shlex.join(["gpu_report", *sys.argv[1:]]),
      "date": datetime.datetime.now().astimezone().isoformat("T", "seconds"),
      "commit": _commit(), "hardware": node.hardware(), "figures": {},
      "tests": {}}
  write(report, options.json)
  gpu_count = len(report["hardware"]["gpus"])
  end = time.monotonic() + options.seconds
  for step in steps(options):
    left = end - time.monotonic()
    if left < 1:
      result, figures = {"passed": 0, "failed": 1, "skipped": 0, "seconds": 0.0,
                         "problems": ["no time was left"]}, {}
    else:
      result, figures = run(step, gpu_count, left)
    report["tests"][step.name] = result
    report["figures"].update(figures)
    write(report, options.json)
    print(f"{step.name}: {result['passed']} passed, {result['failed']} failed, "
          f"{result['skipped']} skipped, {result['seconds']} s", flush=True)
  print_tables(report)
  passed, failed, skipped = (
      sum(result[key] for result in report["tests"].values())
      for key in ("passed", "failed", "skipped"))
  print(f"{passed} passed, {failed} failed, {skipped} skipped")
  return 0 if passed and not failed else 1


if __name__ == "__main__":
  sys.exit(main())

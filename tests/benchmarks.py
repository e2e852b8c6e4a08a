#!/usr/bin/python3
"""Builds every benchmark, runs it, and prints a table for the documentation.

    python3 tests/benchmarks.py [NAME...]

With names, only those benchmarks whose target has one of them. Each figure is
the median of three repetitions. Takes some minutes; run it when nothing else
does.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

REPETITIONS = 3
ROOT = pathlib.Path(__file__).resolve().parents[1]


def bazel(command, *arguments):
  return subprocess.run(["bash", "deploy/bazel.sh", command, *arguments],
                        cwd=ROOT, check=True, stdout=subprocess.PIPE,
                        encoding="utf-8").stdout


def find_benchmarks(names):
  """Labels of the programs with the tag `benchmark`, not `gpu_benchmark`."""
  query = r"attr(tags, '\bbenchmark', //...)"  # An underscore is of a word.
  labels = sorted(bazel("query", query).split())
  return [label for label in labels
          if not names or any(name in label for name in names)]


def run(label):
  """The medians of one program, as Google Benchmark's JSON has them."""
  program = ROOT / "bazel-bin" / label[2:].replace(":", "/")
  with tempfile.NamedTemporaryFile(suffix=".json") as out:
    subprocess.run(
        [program, f"--benchmark_repetitions={REPETITIONS}",
         "--benchmark_min_time=0.3", "--benchmark_report_aggregates_only=true",
         f"--benchmark_out={out.name}", "--benchmark_out_format=json"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    results = json.loads(pathlib.Path(out.name).read_text())["benchmarks"]
  for result in results:
    if result.get("error_occurred"):
      sys.exit(f"{label}: {result['name']}: {result['error_message']}")
  return [r for r in results if r.get("aggregate_name") == "median"]


def number(value):
  """Three digits that count, thousands apart."""
  if abs(value) >= 100:
    return f"{value:,.0f}"
  return f"{value:.3g}"


def row(result):
  name = re.sub(r"^BM_|/iterations:\d+", "", result["run_name"])
  known = {"name", "run_name", "run_type", "aggregate_name", "aggregate_unit",
           "family_index", "per_family_instance_index", "repetitions",
           "repetition_index", "threads", "iterations", "real_time",
           "cpu_time", "time_unit"}
  counters = ", ".join(f"{key} {number(value)}"
                       for key, value in sorted(result.items())
                       if key not in known)
  time = f"{number(result['real_time'])} {result['time_unit']}"
  return f"| {name} | {time} | {counters} |"


def hardware():
  model = re.search(r"^model name\s*: (.*)$",
                    pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
  name = model.group(1) if model else platform.machine()
  load = os.getloadavg()[0]
  return f"{os.cpu_count()} cores of {name}, load {load:.1f} at the start"


def main():
  labels = find_benchmarks(sys.argv[1:])
  bazel("build", *labels)
  print(f"`python3 tests/benchmarks.py`, {hardware()}, "
        f"{datetime.date.today().isoformat()}; medians of {REPETITIONS}:\n")
  print("| benchmark | time | figures |\n| --- | --- | --- |")
  for label in labels:
    for result in run(label):
      print(row(result), flush=True)


if __name__ == "__main__":
  main()

"""Counts the test cases of one `bazel test` run.

Usage: count_tests.py FILE [FUZZED], the run's --build_event_json_file and what
tests/fuzz.sh wrote. Prints one line for each target that did not pass or was
passed over, then "N passed, N failed, N skipped"; exits with 1 unless at least
one case passed and none failed.

A gtest case is a case, and so is a unittest method. A test that counts nothing
itself is one case, and so are a target that could not be built and one that was
fuzzed.
"""

import json
import re
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

_UNITTEST = re.compile(
    r"^Ran (\d+) tests? in [^\n]*\n\n(?:OK|FAILED)(?: \((.*)\))?$", re.M)


def _read(outputs, name):
    for output in outputs:
        if output["name"] == name:
            path = urllib.request.url2pathname(
                urllib.parse.urlparse(output["uri"]).path)
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    return file.read()
            except OSError:
                return ""
    return ""


def _count_unittest(log):
    """(passed, failed, skipped) over all unittest runs in a log."""
    passed = failed = skipped = 0
    for ran, notes in _UNITTEST.findall(log):
        number = dict(re.findall(r"([a-z][a-z ]*)=(\d+)", notes))
        bad = sum(int(number.get(key, 0))
                  for key in ("failures", "errors", "unexpected successes"))
        skip = int(number.get("skipped", 0))
        # A class whose setUpClass raises is an error, but no test that ran.
        passed += max(0, int(ran) - bad - skip)
        failed, skipped = failed + bad, skipped + skip
    return passed, failed, skipped


def _count_xml(text):
    """(passed, failed, skipped) of a gtest XML; None if it is none."""
    try:
        cases = list(ElementTree.fromstring(text).iter("testcase"))
    except ElementTree.ParseError:
        return None
    if not any("classname" in case.attrib for case in cases):
        return None  # Written by Bazel around a log, not by the test.
    failed = sum(
        any(child.tag in ("failure", "error") for child in case)
        for case in cases)
    skipped = sum(
        case.get("status") == "notrun" or case.get("result") == "skipped" or
        case.find("skipped") is not None for case in cases)
    return len(cases) - failed - skipped, failed, skipped


def _count_run(result):
    """(passed, failed, skipped) of one run of one target."""
    outputs = result.get("testActionOutput", [])
    counts = _count_xml(_read(outputs, "test.xml"))
    if counts is None:
        counts = _count_unittest(_read(outputs, "test.log"))
    passed, failed, skipped = counts
    if result["status"] != "PASSED" and not failed:
        failed = 1  # It died before or after its cases: a crash, a leak.
    elif not any(counts):
        passed = 1
    return passed, failed, skipped


def count(events):
    """(passed, failed, skipped, problems) of a list of build events."""
    runs, problems = {}, []
    tests = {
        event["id"]["targetConfigured"]["label"]
        for event in events if "_test rule" in event.get(
            "configured", {}).get("targetKind", "")
    }
    for event in events:
        event_id = event["id"]
        if "testResult" in event_id:
            key = event_id["testResult"]
            # The last attempt of a flaky test is the one that counts.
            runs[key["label"], key.get("run"), key.get("shard")] = (
                event.get("testResult"))
    passed = failed = skipped = 0
    for (label, _, _), result in sorted(runs.items(), key=str):
        if result is None:  # The build was interrupted.
            failed += 1
            problems.append("%s: not run" % label)
            continue
        p, f, s = _count_run(result)
        passed, failed, skipped = passed + p, failed + f, skipped + s
        if f:
            problems.append("%s: %s" % (label, result["status"].lower()))
    for event in events:
        label = event["id"].get("targetCompleted", {}).get("label")
        if event.get("aborted", {}).get("reason") == "SKIPPED":
            if label in tests:  # Needs what this machine has not: CUDA.
                skipped += 1
                problems.append("%s: skipped, not for this machine" % label)
        elif label and not event.get("completed", {}).get("success"):
            failed += 1
            problems.append("%s: not built" % label)
        if event["id"].get("pattern") and "aborted" in event:
            failed += 1
            problems.append(event["aborted"].get("description", "aborted"))
    return passed, failed, skipped, problems


def count_fuzzed(lines):
    """(passed, failed, problems) of lines like "layout_file_fuzz passed"."""
    problems = ["%s: a finding, or not built" % line.split()[0]
                for line in lines if line.split()[1:] != ["passed"]]
    return len(lines) - len(problems), len(problems), problems


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        events = [json.loads(line) for line in file]
    passed, failed, skipped, problems = count(events)
    if len(sys.argv) > 2:
        with open(sys.argv[2], encoding="utf-8") as file:
            fuzzed = count_fuzzed(file.read().splitlines())
        passed, failed = passed + fuzzed[0], failed + fuzzed[1]
        problems += fuzzed[2]
    for problem in problems:
        print("  " + problem)
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())

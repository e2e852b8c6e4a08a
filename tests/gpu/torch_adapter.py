"""The tests of the PyTorch adapter, which must find a GPU here.

    torch_adapter.py --bundle DIR [--json FILE]

Writes how many passed to FILE.
"""

import argparse
import json
import pathlib
import sys
import unittest


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--bundle", type=pathlib.Path, required=True)
  parser.add_argument("--json", type=pathlib.Path,
                      default=pathlib.Path("/dev/null"))
  options = parser.parse_args()
  sys.path.insert(0, str(options.bundle / "python"))
  import torch_adapter_test as cases
  if cases.torch is None or not cases.torch.cuda.is_available():
    print("this needs PyTorch and a GPU")
    return 1
  suite = unittest.defaultTestLoader.loadTestsFromModule(cases)
  result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
  bad = len(result.failures) + len(result.errors)
  passed = result.testsRun - bad - len(result.skipped)
  options.json.write_text(json.dumps({
      "torch adapter, tests passed": {
          "got": passed, "unit": "tests",
          "reference": result.testsRun - len(result.skipped)}
  }), encoding="utf-8")
  return int(bad > 0)


if __name__ == "__main__":
  sys.exit(main())

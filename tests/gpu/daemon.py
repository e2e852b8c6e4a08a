"""A trainer whose tensors on a GPU are copied by a worker daemon.

    daemon.py --bundle DIR --json FILE

Starts coordinatord and workerd --device cuda; this process is the trainer, with
PyTorch for its tensors. Compares what comes out with the host's copies bit for
bit, kills trainers, sends what is wrong, and times. Every case says what it
found; one that fails does not end the others.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time
import traceback


def run_checks(cases, bundle, results):
  failed = 0
  with tempfile.TemporaryDirectory(prefix="daemon") as folder:
    daemon = cases.Daemon(bundle, pathlib.Path(folder))
    try:
      for name in sorted(dir(daemon)):
        if not name.startswith("check_"):
          continue
        begin = time.monotonic()
        try:
          getattr(daemon, name)()
        except Exception:  # The others shall be seen too.
          failed += 1
          print(f"FAILED {name}")
          traceback.print_exc(file=sys.stdout)
        else:
          print(f"passed {name}, {time.monotonic() - begin:.1f} s")
        results.write_text(json.dumps(daemon.figures), encoding="utf-8")
      if failed:
        print("--- workerd", daemon.worker.log()[-3000:], sep="\n")
    finally:
      daemon.end()
  print(f"{failed} failed")
  return int(failed > 0)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--bundle", type=pathlib.Path, required=True)
  parser.add_argument("--json", type=pathlib.Path,
                      default=pathlib.Path("/dev/null"))
  parser.add_argument("--role", help="of a trainer that this one starts")
  parser.add_argument("--worker", help="its worker's address")
  options = parser.parse_args()
  sys.path.insert(0, str(options.bundle / "python"))
  try:
    import daemon_cases as cases
  except ImportError as error:
    print(f"this needs NumPy and PyTorch: {error}")
    return 1
  if not cases.torch.cuda.is_available():
    print("PyTorch sees no GPU")
    return 1
  if options.role:
    cases.act(options.role, options.worker)
    return 0
  return run_checks(cases, options.bundle, options.json)


if __name__ == "__main__":
  sys.exit(main())

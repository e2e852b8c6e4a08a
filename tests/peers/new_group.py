"""Times forming the communicators of one layout, through our coordinator and
through torch.distributed.new_group, in one run on the same GPUs.

    new_group.py --bundle DIR --json FILE [--repeat N] [--gpus N]

Both sides form the same communicators, and have done so when an all-reduce of
one element has been done on each. Both begin when every process has its GPU
ready and knows of the others: the clock starts behind a barrier of torch's
store, and when the last worker has registered. Processes are new each time.
Figures are medians.

  lazy   as trainers call it: every rank calls new_group for every group, and a
         communicator is made when the group is first used.
  eager  with device_id: NCCL makes a communicator of all ranks beforehand,
         which is not counted, and splits it.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gpu"))
# pylint: disable=wrong-import-position
import cliques
import node
import reporting

GPUS = 2
LIMIT_S = 80


def groups_of(bundle, rank_count):
  """Every group of the layout with more than one rank, in creation order."""
  with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    json.dump(cliques.layout(rank_count), file)
    file.flush()
    answer = subprocess.run(
        [f"{bundle}/bin/shardctl", "layout", "groups", "--layout", file.name,
         "-o", "json"],
        capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
  return [ranks for module in json.loads(answer)["modules"]
          for groups in module["groups"].values()
          for ranks in groups if len(ranks) > 1]


def _meet(store, name, rank_count):
  """Waits until all ranks have come, without making a communicator."""
  if store.add(f"{name} count", 1) == rank_count:
    store.set(name, "1")
  store.wait([name])


def run_rank(options):
  """One process of torch's side: prints what its part took."""
  # pylint: disable=import-outside-toplevel
  import torch
  import torch.distributed as distributed
  device = torch.device("cuda", options.rank)
  torch.cuda.set_device(device)
  element = torch.ones(1, device=device)
  torch.cuda.synchronize()
  store = distributed.TCPStore(
      "127.0.0.1", options.port, options.gpus, options.rank == 0)
  eager = {"device_id": device} if options.mode == "eager" else {}
  distributed.init_process_group(
      "nccl", store=store, rank=options.rank, world_size=options.gpus, **eager)
  if eager:
    distributed.all_reduce(element)
    torch.cuda.synchronize()
  groups = json.loads(options.groups)
  _meet(store, "begin", options.gpus)
  begin = time.perf_counter()
  handles = [(ranks, distributed.new_group(ranks)) for ranks in groups]
  for ranks, handle in handles:
    if options.rank in ranks:
      element.fill_(1)
      distributed.all_reduce(element, group=handle)
      torch.cuda.synchronize()
      if element.item() != len(ranks):
        raise RuntimeError(f"a sum of ones is {element.item()}")
  seconds = time.perf_counter() - begin
  print(json.dumps({"ms": seconds * 1000, "torch": torch.__version__,
                    "nccl": ".".join(map(str, torch.cuda.nccl.version()))}),
        flush=True)
  # The first rank has the store, by which the others may still connect; it is
  # the last to go. Destroying communicators is not what is asked.
  if store.add("end count", 1) == options.gpus:
    store.set("end", "1")
  if options.rank == 0:
    store.wait(["end"])
  os._exit(0)


def _free_port():
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


def run_torch(mode, rank_count, groups):
  """(ms until the last rank had done, versions) of new processes."""
  command = [sys.executable, __file__, "--mode", mode, "--gpus", rank_count,
             "--port", _free_port(), "--groups", json.dumps(groups)]
  environment = {**os.environ, "LD_LIBRARY_PATH": node.loader_path()}
  processes = [
      subprocess.Popen([*map(str, command), "--rank", str(rank)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, encoding="utf-8",
                       env=environment)
      for rank in range(rank_count)]
  deadline = time.monotonic() + LIMIT_S
  answers, problems = [], []
  for rank, process in enumerate(processes):
    try:
      out, err = process.communicate(
          timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      process.kill()
      out, err = process.communicate()
      err += f"\nnot done within {LIMIT_S} s"
    lines = [line for line in out.splitlines() if line.startswith('{"ms"')]
    if process.returncode or not lines:
      problems.append(f"torch {mode}, rank {rank}, exit code "
                      f"{process.returncode}:\n{(out + err)[-2000:]}")
    else:
      answers.append(json.loads(lines[-1]))
  if problems:
    raise RuntimeError("\n".join(problems))
  return max(answer["ms"] for answer in answers), answers[0]


def run_ours(bundle, rank_count, group_count):
  """Milliseconds until the last worker had formed all its cliques."""
  with cliques.running(bundle, cliques.layout(rank_count)) as job:
    states = job.states()
    if len(states) != group_count or set(states.values()) != {"ACTIVE"}:
      raise RuntimeError(f"{group_count} cliques were to be formed: {states}")
    return cliques.formation_ms(job)


def measure(options):
  """{name: figure}, and the modes that torch has failed in."""
  groups = groups_of(options.bundle, options.gpus)
  times = {"ours": [], "lazy": [], "eager": []}
  versions, failed = {}, set()
  for _ in range(options.repeat):
    # One after another, so that what the node does hits all alike.
    times["ours"].append(
        run_ours(options.bundle, options.gpus, len(groups)))
    for mode in ("lazy", "eager"):
      try:
        ms, versions = run_torch(mode, options.gpus, groups)
        times[mode].append(ms)
      except RuntimeError as error:
        print(error, flush=True)
        failed.add(mode)
    print({name: [round(ms) for ms in taken] for name, taken in times.items()},
          flush=True)
  print(f"{len(groups)} communicators, {options.gpus} GPUs, {versions}")
  lazy = statistics.median(times["lazy"]) if times["lazy"] else None
  figures = {}
  for name, taken in times.items():
    if taken:
      figures[f"new_group/{len(groups)} groups, {name}"] = {
          "got": round(statistics.median(taken), 1), "unit": "ms",
          "reference": lazy and round(lazy, 1)}
  if lazy:
    figures["new_group/times faster than lazy"] = {
        "got": round(lazy / statistics.median(times["ours"]), 2), "unit": "x",
        "reference": 2}
  return figures, failed


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--bundle")
  parser.add_argument("--json")
  parser.add_argument("--repeat", type=int, default=3)
  parser.add_argument("--gpus", type=int, choices=(2, 4),
                      help="ranks (default: as many as there are GPUs)")
  for name, kind in (("rank", int), ("port", int), ("mode", str),
                     ("groups", str)):
    parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
  options = parser.parse_args()
  options.gpus = options.gpus or (4 if len(node.gpus()) >= 4 else 2)
  if options.rank is not None:
    return run_rank(options)
  if not options.bundle or not options.json:
    parser.error("--bundle and --json are needed")
  figures, failed = measure(options)
  reporting.write_figures(figures, options.json)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())

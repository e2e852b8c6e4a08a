"""The bridge beside Megatron-Core's, from the encoders' output to finished
shards, on the same GPUs in one run.

    bridge.py --bundle DIR --wheels DIR --json FILE

bf16, H=8192, one sample, half of whose tokens are images; every encoder lane
has an equal part of them. The peer is its BridgeCommunicator (which takes no
cp: there a broadcast to every rank stands in for it), then
align_embeddings_by_token_positions and PartitionAdapter.shard. Ours is
tests/bin/bridge_benchmark. Both are wall-clock times from when the first rank
begins until the last has done, medians of 20; the same processes, warmed up.
Both are compared bit for bit: ours with the host's plan, the peer's shape only,
since align_and_shard.py compares its bytes.

DIR holds the wheel of megatron-core 0.19.2; nothing is downloaded. With four
GPUs or more, encoder dp2 to language tp2 with SP and to language cp2; with
eight, encoder dp4 to language tp2 cp2 with SP; with two, one rank to one.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent),
                str(pathlib.Path(__file__).resolve().parents[1] / "gpu")]
# pylint: disable=wrong-import-position
import node
import reporting

GPUS = 2
LIMIT_S = 200
RUNS = 20
WARMUPS = 5
HIDDEN = 8192
IMAGE_ROWS = 256
IMAGE_TOKEN = 501
# What we want to reach, by ranks of the language module and S.
TIMES_FASTER = {(1, 8192): 8, (1, 131072): 10, (2, 8192): 8, (2, 131072): 10,
                (4, 131072): 20}
NAME = re.compile(r"encoder dp(\d+) to language tp(\d+) cp(\d+) S=(\d+)")


class Rank:
  """One process of the peer's side."""

  def __init__(self, options, place):
    # pylint: disable=import-outside-toplevel
    import torch
    import megatron_core
    self._torch, self._distributed = torch, torch.distributed
    self._rank = options.rank
    torch.cuda.set_device(options.rank)
    self._distributed.init_process_group(
        "nccl", init_method=f"tcp://127.0.0.1:{options.port}",
        rank=options.rank, world_size=options.gpus,
        device_id=torch.device("cuda", options.rank))
    self._element = torch.ones(1, device="cuda")
    self._megatron = megatron_core.Megatron(options.wheels, place)
    self._bridges, self._adapters = {}, {}

  def _group(self, groups):
    """This rank's own of them, which all ranks make; None if it is alone."""
    own = None
    for ranks in groups:
      if len(ranks) > 1:
        group = self._distributed.new_group(ranks)
        own = group if self._rank in ranks else own
    return own

  def _connect(self, encoders, tp, cp):
    """The bridge and the adapter of a layout, made once by all ranks."""
    key = (encoders, tp, cp)
    if key in self._bridges:
      return
    # pylint: disable=import-outside-toplevel
    from megatron.core.hyper_comm_grid import HyperCommGrid
    from megatron.core.pipeline_parallel.bridge_communicator import (
        BridgeCommunicator)
    language = list(range(encoders, encoders + tp * cp))
    self._adapters[key] = self._megatron.adapter_of(
        self._group([language[i:i + tp] for i in range(0, tp * cp, tp)]),
        self._group([language[i::tp] for i in range(tp)]))
    if cp > 1:
      self._bridges[key] = None
      return
    names = ["tp", "cp", "pp", "dp"]
    self._bridges[key] = BridgeCommunicator(
        HyperCommGrid([1, 1, 1, encoders], names, rank_offset=0),
        HyperCommGrid([tp, 1, 1, 1], names, rank_offset=encoders),
        comm_dtype=self._torch.bfloat16, tensor_ndim=2)

  def _brought(self, bridge, encoders, rows, own):
    """All rows of the images at a language rank; None at an encoder's."""
    if bridge is not None:
      if own is not None:
        bridge.send_forward(own)
        return None
      return bridge.recv_forward()
    torch = self._torch
    parts = []
    for source in range(encoders):
      part = own if source == self._rank else torch.empty(
          rows, HIDDEN, dtype=torch.bfloat16, device="cuda")
      self._distributed.broadcast(part, source)
      parts.append(part)
    return torch.cat(parts) if own is None else None

  def run(self, encoders, tp, cp, seq_length):
    """[(begin, end)] of each run, in seconds of the machine's clock."""
    torch = self._torch
    self._connect(encoders, tp, cp)
    key = (encoders, tp, cp)
    rows = seq_length // 2 // encoders
    text = torch.randn(seq_length // 2, HIDDEN, device="cuda",
                       dtype=torch.bfloat16)
    own = torch.randn(rows, HIDDEN, device="cuda", dtype=torch.bfloat16)
    own = own if self._rank < encoders else None
    position = torch.arange(seq_length, device="cuda")
    ids = torch.where(position // IMAGE_ROWS % 2 == 1, IMAGE_TOKEN,
                      7).unsqueeze(0)
    times = []
    for _ in range(WARMUPS + RUNS):
      self._distributed.all_reduce(self._element)
      torch.cuda.synchronize()
      begin = time.monotonic()
      images = self._brought(self._bridges[key], encoders, rows, own)
      if images is not None:
        whole = self._megatron.align({"text": text, "images": images}, ids,
                                     {"images": IMAGE_TOKEN})
        shard = self._adapters[key].shard(whole, None, None, None)[0]
        if shard.shape[0] * tp * cp != seq_length:
          raise RuntimeError(f"the peer's shard is {tuple(shard.shape)}")
      torch.cuda.synchronize()
      times.append((begin, time.monotonic()))
      images = whole = shard = None
    return times[WARMUPS:]


def run_rank(options):
  with tempfile.TemporaryDirectory() as place:
    rank = Rank(options, place)
    for name in json.loads(options.cases):
      sizes = map(int, NAME.fullmatch(name).groups())
      print(json.dumps({"case": name, "times": rank.run(*sizes)}), flush=True)
  os._exit(0)  # Destroying communicators is not what is asked.


def _free_port():
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


def run_peer(options, rank_count, cases):
  """{case: us} of new processes, all cases of that many ranks."""
  command = [sys.executable, __file__, "--gpus", rank_count, "--port",
             _free_port(), "--wheels", options.wheels, "--cases",
             json.dumps(cases)]
  environment = {**os.environ, "LD_LIBRARY_PATH": node.loader_path(),
                 "WORLD_SIZE": str(rank_count)}
  processes = [
      subprocess.Popen([*map(str, command), "--rank", str(rank)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, encoding="utf-8",
                       env={**environment, "RANK": str(rank)})
      for rank in range(rank_count)]
  deadline, times, problems = time.monotonic() + LIMIT_S, {}, []
  for rank, process in enumerate(processes):
    try:
      out, err = process.communicate(
          timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      process.kill()
      out, err = process.communicate()
      err += f"\nnot done within {LIMIT_S} s"
    for line in out.splitlines():
      if line.startswith('{"case"'):
        answer = json.loads(line)
        times.setdefault(answer["case"], []).append(answer["times"])
    if process.returncode:
      problems.append(f"rank {rank}, exit code {process.returncode}:\n"
                      f"{(out + err)[-2000:]}")
  if problems:
    print("the peer failed:\n" + "\n".join(problems), flush=True)
  return {name: 1e6 * statistics.median(
              max(end for _, end in run) - min(begin for begin, _ in run)
              for run in zip(*ranks))
          for name, ranks in times.items() if len(ranks) == rank_count}


def run_ours(bundle):
  with tempfile.NamedTemporaryFile("r", encoding="utf-8") as file:
    subprocess.run(
        [f"{bundle}/tests/bin/bridge_benchmark", "--json", file.name],
        env={**os.environ, "LD_LIBRARY_PATH": node.loader_path()},
        timeout=LIMIT_S, check=True)
    return json.load(file)


def figures_of(name, ours, peer_us):
  _, tp, cp, seq_length = map(int, NAME.fullmatch(name).groups())
  found = {
      "ours, forward": (ours["forward_us"], "us", peer_us),
      "ours, backward": (ours["backward_us"], "us", None),
      "messages, share of plain ncclSend and ncclRecv": (
          ours["plain_us"] / ours["messages_us"], "of the rate", 0.8),
      "shard and staging, of the shard": (
          ours["memory_of_shard"], "times", 2.2),
  }
  if peer_us:
    found["times faster"] = (
        peer_us / ours["forward_us"], "times",
        TIMES_FASTER.get((tp * cp, seq_length)))
  return {f"bridge, {name}, {what}": {
              "got": float(f"{got:.4g}"), "unit": unit,
              "reference": wanted and float(f"{wanted:.4g}")}
          for what, (got, unit, wanted) in found.items()}


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name in ("bundle", "wheels", "json"):
    parser.add_argument(f"--{name}")
  for name, kind in (("rank", int), ("port", int), ("gpus", int),
                     ("cases", str)):
    parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.rank is not None:
    return run_rank(options)
  if not (options.bundle and options.wheels and options.json):
    parser.error("--bundle, --wheels and --json are needed")
  ours = run_ours(options.bundle)
  by_rank_count = {}
  for name in ours:
    encoders, tp, cp, _ = map(int, NAME.fullmatch(name).groups())
    by_rank_count.setdefault(encoders + tp * cp, []).append(name)
  figures, failed = {}, False
  for rank_count, cases in by_rank_count.items():
    peer = run_peer(options, rank_count, cases)
    failed = failed or len(peer) < len(cases)
    for name in cases:
      figures.update(figures_of(name, ours[name], peer.get(name)))
  reporting.write_figures(figures, options.json)
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())

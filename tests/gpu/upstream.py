"""The bridge on eight GPUs: layouts with tp and cp, and uneven dp.

    upstream.py --bundle DIR --json FILE [--device host]

Starts a coordinator and a worker a GPU; this process has the tensors of all
ranks, a thread and a session each. Rows of encoders become shards, and
gradients go back, dense and packed (THD), one sample a language lane of which
the encoders' lanes have equal parts: all compared bit for bit with what the
composed plan makes of the whole on the host. Then values that Megatron-Core's
tests have, which are known without a plan of ours. Figures are medians of each
rank's calls, and from when the first rank began until the last was done.

`--device host` needs no GPU and no PyTorch: workers on the host, over Gloo, and
small tensors.
"""

import argparse
import json
import pathlib
import sys

import numpy

import bridge
import cliques
import node
import reporting

GPUS = 8
SIZES = {"cuda": (8192, 8192), "host": (1024, 96)}  # S and H.
WITH_SP = "dp4 to tp2 cp2 with SP"
LAYOUTS = {
    WITH_SP: bridge.layout(4, 4, tp=2, cp=2, sequence_parallel=True),
    "tp2 dp2 to tp2 cp2": bridge.layout(4, 4, encoder_tp=2, tp=2, cp=2),
    "dp3 to tp2 dp2 with SP": bridge.layout(3, 4, tp=2, sequence_parallel=True),
    "cp8": cliques.layout(8, cp=8),
    "tp8 with SP": cliques.layout(8, tp=8, sequence_parallel=True),
}
# Of element 1000 s + h + b, S=64 B=2 H=16, and labels s: of each rank of the
# language module first and last row, and sums of the shard and of a sample's
# labels.
VALUES = {
    WITH_SP: [(0, 15, 3844096, 1008), (48, 63, 28420096, 1008),
              (16, 31, 12036096, 1008), (32, 47, 20228096, 1008)],
    "cp8": [(4 * cp, 63 - 4 * cp, 8066048, 252) for cp in range(8)],
    "tp8 with SP": [(8 * tp, 8 * tp + 7, 898048 + 2048000 * tp, 2016)
                    for tp in range(8)],
}
# What each encoder of WITH_SP gets back for its two rows of three elements.
GRADIENTS = (1, -2, 3, -4)


def batches(name, device, lanes):
  """{what it is: (batch, what makes its rows)} for so many language lanes."""
  seq_length, hidden = SIZES[device]
  size = f"S={seq_length} H={hidden}"
  dense = bridge.batch_of(seq_length, 1, lanes)
  # One document is empty, and no lane is packed as another.
  starts = [[0, seq_length // 8 + 4 * lane, seq_length // 8 + 4 * lane,
             seq_length // 2 + 4, seq_length] for lane in range(lanes)]
  found = {
      f"dense {size}": (dense, bridge.random_rows(hidden, seed=1)),
      f"THD {size}": ({**dense, "cu_seqlens_padded": starts},
                      bridge.random_rows(hidden, seed=2)),
  }
  if name == WITH_SP:
    # The gradient of a row is its complement; all of eight tokens are images.
    rows = ~numpy.repeat(numpy.int16(GRADIENTS), 2)[:, None].repeat(3, axis=1)
    found["known gradients S=8 H=3"] = (
        bridge.batch_of(8, 1), lambda count: rows[:count])
  return found


def figures_of(name, calls):
  """Of train()'s calls: forward and backward ones take turns."""
  figures = {}
  for what, some in (("forward", calls[::2]), ("backward", calls[1::2])):
    parts = {f"rank {rank}": [[call[rank]] for call in some]
             for rank in range(len(calls[0]))}
    for who, part in {**parts, "all ranks": some}.items():
      figures[f"upstream/{name}, {what}, {who}"] = {
          "got": bridge.wall_ms(part), "unit": "ms", "reference": None}
  return figures


def check_bridge(name, device, job, offline, ranks):
  """All micro-batches of a layout; {name: figure}."""
  import shardwright
  client = shardwright.connect(job.address, cliques.JOB)
  lanes = offline.rank(ranks - 1).parallelism["dp"]
  figures, sequence = {}, 0
  for what, (batch, rows_of) in batches(name, device, lanes).items():
    calls = bridge.train(
        device, client, job.workers,
        bridge.MicroBatch(offline, ranks, batch, rows_of), sequence)
    sequence += len(calls)
    figures.update(figures_of(f"{name}, {what}", calls))
    print(f"{name}, {what}: {ranks} ranks right", flush=True)
  return figures


def check_values(device, worker, offline, rank, expected):
  """Of a rank of the language module, by its worker."""
  import shardwright
  s, b, h = numpy.ogrid[:64, :2, :16]
  whole = (1000 * s + h + b).astype(numpy.int32)
  labels = numpy.tile(numpy.arange(64), (2, 1))
  plan = offline.shard_plan(rank, seq_length=64, micro_batch=2)
  tensors = bridge.TENSORS[device](
      shardwright.worker(worker.address()), rank, 4 * whole.nbytes)
  with tensors.session as session:
    sources = tensors.put(whole), tensors.put(labels)
    outs = [tensors.put(numpy.full_like(array, 77))
            for array in (plan.shard(whole), plan.shard_labels(labels))]
    session.run(plan, sources[0], out=outs[0], **tensors.options)
    session.run_labels(plan, sources[1], out=outs[1], **tensors.options)
    shard, own = map(tensors.get, outs)
  first, last, total, label_total = expected
  numpy.testing.assert_array_equal(shard[[0, -1]], whole[[first, last]])
  numpy.testing.assert_array_equal(shard, plan.shard(whole))
  numpy.testing.assert_array_equal(own, plan.shard_labels(labels))
  numpy.testing.assert_equal(shard.sum(dtype=numpy.int64), total)
  numpy.testing.assert_array_equal(own.sum(axis=1), [label_total] * 2)


def run(bundle, device):
  """Checks all layouts; {name: figure}."""
  sys.path.insert(0, str(bundle / "python"))
  import shardwright
  figures = {}
  for name, spec in LAYOUTS.items():
    offline = shardwright.Layout(json.dumps(spec))
    ranks = spec["world_size"]
    with cliques.running(bundle, spec, device) as job:
      if "edges" in spec:
        figures.update(check_bridge(name, device, job, offline, ranks))
      values = VALUES.get(name, [])
      for rank, expected in enumerate(values, ranks - len(values)):
        check_values(device, job.workers[rank], offline, rank, expected)
      if values:
        print(f"{name}: known values of {len(values)} ranks right", flush=True)
  return figures


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--bundle", type=pathlib.Path, required=True)
  parser.add_argument("--json", type=pathlib.Path, required=True)
  parser.add_argument("--device", default="cuda", choices=("cuda", "host"))
  options = parser.parse_args()
  count = len(node.gpus())
  if options.device == "cuda" and count < GPUS:
    parser.error(f"needs {GPUS} GPUs, {count} here; --device host needs none")
  figures = run(options.bundle, options.device)
  reporting.write_figures(figures, options.json)
  return 0


if __name__ == "__main__":
  sys.exit(main())

"""The main job: one multimodal micro-batch, sharded by real processes.

Starts a coordinator, and a worker and a trainer for each of the eight ranks of
layouts/main_job.yaml, all on free loopback ports. Two micro-batches go through
them, a dense one and a packed one: the encoder's ranks send the photographs'
rows to the language ranks that own them. Then the photographs are put together
again from nothing but the shards of the language ranks, compared with the
originals byte for byte, and drawn.

Exit code: 0 if every byte is right, 1 if not or if a process failed, 130 after
Ctrl-C.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np

import micro_batch
import picture
from processes import ProcessFailed, Processes

# Not resolve(): under Bazel the files are links, and the programs stand beside.
ROOT = pathlib.Path(__file__).absolute().parents[2]
LAYOUT = ROOT / "deploy" / "layouts" / "main_job.yaml"
JOB = "main-job"
RANKS = range(0, 8)
FORMED_TIMEOUT_S = 60
TRAINERS_TIMEOUT_S = 120
STARTED = time.monotonic()


class BytesDiffer(Exception):
    """What came back is not what went in."""


def program(path):
    """A program that Bazel built, by its path in the repository."""
    for root in (ROOT / "bazel-bin", ROOT):
        if (root / path).exists():
            return root / path
    raise ProcessFailed("%s is not built; deploy/main_job.sh builds it" % path)


def say(text):
    print("[%6.2f s] %s" % (time.monotonic() - STARTED, text), flush=True)


@dataclasses.dataclass
class Shard:
    """What one language rank returned for one micro-batch."""

    rank: int
    facts: dict  # Coordinates, counts, digest: trainer.py writes them.
    rows: np.ndarray  # uint8 [local rows, ROW_BYTES]
    entries: np.ndarray  # int64 [n, 5]: the plan's RowCopy list.
    runs: np.ndarray  # int64 [n, 2]: owned positions, in local order.
    labels: np.ndarray  # int64 [B, S / cp]
    loss_mask: np.ndarray  # float32 [B, S / cp]
    label_runs: np.ndarray  # int64 [n, 2]


@dataclasses.dataclass
class Held:
    """What all shards of a micro-batch hold together."""

    rows: np.ndarray  # uint8 [image rows, ROW_BYTES]
    owners: np.ndarray  # int64 [image rows]: the rank that held each.
    token_owners: np.ndarray  # int64 [B, S]


def shardctl(address, *arguments):
    """Runs shardctl and returns its JSON."""
    command = [program("client/cli/shardctl"), *arguments,
               "--coordinator", address, "-o", "json"]
    done = subprocess.run([str(part) for part in command],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProcessFailed("shardctl %s: exit code %d\n%s" % (
            arguments[0], done.returncode, done.stderr.strip()))
    return json.loads(done.stdout)


def start_coordinator(processes, folder):
    port_file = folder / "coordinator.port"
    process = processes.start("coordinator", [
        program("coordinator/coordinatord"), "--listen", "127.0.0.1:0",
        "--port-file", port_file, "--store", "sqlite", "--store-path",
        folder / "coordinator.db"])
    address = processes.wait_for_port_file(port_file)
    say("coordinator listens at %s (pid %d)" % (address, process.pid))
    answer = shardctl(address, "apply", "-f", LAYOUT)
    say("layout %s applied: generation %d, digest %s" % (
        answer["job"], answer["generation"], answer["digest"]))
    return address


def start_workers(processes, folder, coordinator):
    """Starts all workers and returns their addresses, by rank."""
    for rank in RANKS:
        processes.start("worker-%d" % rank, [
            program("worker/workerd"), "--coordinator", coordinator,
            "--job", JOB, "--rank", rank, "--listen", "127.0.0.1:0",
            "--port-file", folder / ("worker-%d.port" % rank)])
    addresses = {
        rank: processes.wait_for_port_file(folder / ("worker-%d.port" % rank))
        for rank in RANKS}
    say("%d workers run" % len(addresses))
    deadline = time.monotonic() + FORMED_TIMEOUT_S
    while True:
        processes.check()
        workers = shardctl(coordinator, "get", "workers", "--job", JOB)
        phases = {w["rank"]: w["phase"] for w in workers["workers"]}
        if [phases.get(rank) for rank in RANKS] == ["ready"] * len(RANKS):
            break
        if time.monotonic() > deadline:
            raise ProcessFailed("communicators were not formed in %d s: %s" % (
                FORMED_TIMEOUT_S, phases))
        time.sleep(0.05)
    say("all communicators are formed, over Gloo")
    return addresses


def start_trainers(processes, folder, coordinator, workers):
    """Starts a trainer a rank; returns (rank, process) pairs."""
    return [(rank, processes.start("trainer-%d" % rank, [
        sys.executable, pathlib.Path(__file__).with_name("trainer.py"),
        "--coordinator", coordinator, "--job", JOB, "--rank", rank,
        "--worker", workers[rank], "--results", folder,
    ], stdout=subprocess.PIPE)) for rank in RANKS]


def follow(processes, trainers):
    """Prints what the trainers say until all have ended well."""
    lines = queue.Queue()

    def read(rank, stream):
        for line in stream:
            lines.put((rank, line.decode(errors="replace").rstrip()))
        lines.put((rank, None))

    for rank, process in trainers:
        threading.Thread(target=read, args=(rank, process.stdout),
                         daemon=True).start()
    talking = {rank for rank, _ in trainers}
    deadline = time.monotonic() + TRAINERS_TIMEOUT_S
    while talking:
        processes.check()
        if time.monotonic() > deadline:
            raise ProcessFailed("trainers of ranks %s did not end in %d s" % (
                sorted(talking), TRAINERS_TIMEOUT_S))
        try:
            rank, line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        if line is None:
            talking.discard(rank)
        else:
            say("trainer %d: %s" % (rank, line))
    for rank, process in trainers:
        process.wait(timeout=10)
    processes.check()


def read_results(folder, name):
    """The facts of all ranks, by rank, and the shards of those that have."""
    facts, shards = {}, []
    for rank in RANKS:
        with np.load(folder / ("%s-%d.npz" % (name, rank))) as arrays:
            fields = {key: arrays[key] for key in arrays.files}
        facts[rank] = json.loads(str(fields.pop("facts")))
        if fields:
            shards.append(Shard(rank=rank, facts=facts[rank], **fields))
    return facts, shards


def _check_equal(got, wanted, what):
    if got.shape != wanted.shape or not np.array_equal(got, wanted):
        number = (int(np.sum(got != wanted))
                  if got.shape == wanted.shape else "all")
        raise BytesDiffer("%s: %s values differ" % (what, number))


def _positions(runs):
    return np.concatenate([np.arange(first, first + n) for first, n in runs])


def _put_labels_together(batch, shards):
    """Compares labels and loss mask; tp ranks hold the same, cp ranks parts."""
    count = np.zeros(batch.labels.shape[1], np.int64)
    for shard in shards:
        positions = _positions(shard.label_runs)
        _check_equal(shard.labels, batch.labels[:, positions],
                     "%s labels of rank %d" % (batch.name, shard.rank))
        _check_equal(shard.loss_mask, batch.loss_mask[:, positions],
                     "%s loss mask of rank %d" % (batch.name, shard.rank))
        count[positions] += 1
    _check_equal(count, np.full_like(count, micro_batch.TP),
                 "%s label owners" % batch.name)


def put_together(batch, shards):
    """The rows of all sources, from the shards alone; each is owned once."""
    names = ["text", "images"]
    rows = {n: np.zeros_like(batch.sources[n]) for n in names}
    owners = {n: np.full(len(rows[n]), -1) for n in names}
    token_owners = np.full(batch.labels.shape, -1)
    for shard in shards:
        for source, source_row, row, stride, count in shard.entries.tolist():
            name = shard.facts["sources"][source]
            part = slice(source_row, source_row + count)
            if (owners[name][part] != -1).any():
                raise BytesDiffer("%s: a row of %s is owned twice" %
                                  (batch.name, name))
            rows[name][part] = shard.rows[row:row + stride * count:stride]
            owners[name][part] = shard.rank
        token_owners[:, _positions(shard.runs)] = shard.rank
    for name in names:
        _check_equal(rows[name], batch.sources[name],
                     "%s rows of %s" % (batch.name, name))
        if (owners[name] == -1).any():
            raise BytesDiffer("%s: a row of %s has no owner" %
                              (batch.name, name))
    _put_labels_together(batch, shards)
    return Held(rows["images"], owners["images"], token_owners)


def compare_pixels(batch, held):
    for photograph in batch.photographs:
        first = photograph.first_row
        rows = held.rows[first:first + photograph.row_count]
        pixels = micro_batch.from_patches(rows, photograph.grid)
        _check_equal(pixels, photograph.pixels,
                     "%s photograph %s" % (batch.name, photograph.name))


def _coordinates(facts):
    return "tp %(tp)d, cp %(cp)d, dp %(dp)d, pp %(pp)d" % facts


def print_table(coordinator, all_facts):
    line = "%4s  %-8s  %-22s  %-6s %7s %9s %9s %12s"
    print()
    print(line % ("rank", "role", "coordinates", "batch", "tokens", "sent",
                  "received", "causal work"))
    ranks = shardctl(coordinator, "get", "ranks", "--job", JOB)["ranks"]
    for rank in ranks:
        lead = (rank["rank"], rank["role"].lower(), _coordinates(rank))
        for by_rank in all_facts:
            facts = by_rank[rank["rank"]]
            numbers = [facts.get(key) for key in (
                "token_count", "sent_bytes", "received_bytes", "causal_work")]
            print(line % (*lead, facts["micro_batch"],
                          *("{:,}".format(n) if n else "-" for n in numbers)))
            lead = ("", "", "")
    print("tokens: label positions of the rank; sent, received: bytes of the "
          "photographs'\nrows, over the bridge; causal work: query-key pairs "
          "of attention\n")


def check_and_draw(folder, batches, coordinator, output):
    all_facts, held, names = [], [], {}
    for batch in batches:
        facts, shards = read_results(folder, batch.name)
        held.append(put_together(batch, shards))
        compare_pixels(batch, held[-1])
        all_facts.append(facts)
        say("%s: %d photographs put together from the shards, equal pixel for "
            "pixel" % (batch.name, len(batch.photographs)))
        for shard in shards:
            names[shard.rank] = "rank %d: tp %d, cp %d" % (
                shard.rank, shard.facts["tp"], shard.facts["cp"])
    picture.draw(batches, held, names).save(output)
    print_table(coordinator, all_facts)


def run(output_folder):
    folder = output_folder / "run"  # Logs, port files, shards, the store.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = dict(
        os.environ,
        PYTHONPATH=str(ROOT / "client" / "python"),
        PYTHONDONTWRITEBYTECODE="1",
        SHARDWRIGHT_LIBRARY=str(program("client/native/libshardwright.so")))
    batches = micro_batch.all_micro_batches()
    for batch in batches:
        say("%s micro-batch: B=%d, S=%d, %d photographs in %d rows, %d text "
            "rows" % (batch.name, batch.batch["micro_batch_size"],
                      batch.batch["seq_length"], len(batch.photographs),
                      len(batch.sources["images"]), len(batch.sources["text"])))
    output = output_folder / "main_job.png"
    with Processes(folder, environment) as processes:
        coordinator = start_coordinator(processes, folder)
        workers = start_workers(processes, folder, coordinator)
        trainers = start_trainers(processes, folder, coordinator, workers)
        follow(processes, trainers)
        check_and_draw(folder, batches, coordinator, output)
    print("All bytes are equal. The picture is %s" % output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out",
                        help="folder for the picture and, in run/, the logs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(arguments.out.resolve())
    except KeyboardInterrupt:
        print("interrupted; all processes have been ended", file=sys.stderr)
        return 130
    except (BytesDiffer, ProcessFailed) as error:
        print("main job failed: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One trainer process: the language rank that main.py gives it.

Knows nothing of the other ranks. Asks the coordinator for its own plan only,
has its worker carry the plan out on shared memory, and leaves what it got in
RESULTS/NAME-RANK.npz. Standard output is progress for people.
"""

import argparse
import json
import pathlib

import numpy as np

import micro_batch
import shardwright

BARRIER = "step"


def _require_equal(got, wanted, what):
    if not np.array_equal(got, wanted):
        raise SystemExit("%s: %d values differ" % (what, np.sum(got != wanted)))


def _session_bytes(batch, plan):
    """Sources, shard, labels and mask, the proof's output, and some slack."""
    sources = sum(rows.nbytes for rows in batch.sources.values())
    shard = plan.embeddings.destination_rows * micro_batch.ROW_BYTES
    rest = batch.labels.nbytes + batch.loss_mask.nbytes
    return 2 * sources + shard + 2 * rest + (1 << 16)


def _shard(worker, session, plan, batch):
    """Has the worker make this rank's shard; (shard, labels, mask, bytes)."""
    before = worker.describe()["copied_bytes"]
    sources = {n: session.array(rows) for n, rows in batch.sources.items()}
    shard = session.run(plan, sources)
    labels = session.run_labels(plan, session.array(batch.labels))
    loss_mask = session.run_labels(plan, session.array(batch.loss_mask))
    copied_bytes = worker.describe()["copied_bytes"] - before

    _require_equal(shard, plan.compose(batch.sources),
                   "worker's shard and the one made in this process")
    _require_equal(labels, plan.shard_labels(batch.labels), "labels")
    _require_equal(loss_mask, plan.shard_labels(batch.loss_mask), "loss mask")
    return shard, labels, loss_mask, copied_bytes


def _prove(session, plan, batch, shard):
    """Gathers all ranks' shards, over what cannot be mistaken for the rows."""
    wrong = {n: session.array(~rows) for n, rows in batch.sources.items()}
    gathered = session.gather(plan, shard, kind="tp_cp", out=wrong)
    for name, rows in batch.sources.items():
        _require_equal(gathered.sources[name], rows, "gathered rows of " + name)
    return sum(gathered.restored_rows.values())


def _save(path, plan, name, shard, labels, loss_mask, copied_bytes):
    facts = {
        "micro_batch": name,
        "digest": "%016x" % plan.digest,
        "tp": plan.coordinates.tp,
        "cp": plan.coordinates.cp,
        "sources": list(plan.sources),
        "token_count": plan.load.token_count,
        "causal_work": plan.load.causal_work,
        "copied_bytes": copied_bytes,
    }
    np.savez(path,
             facts=json.dumps(facts),
             rows=shard.reshape(-1, micro_batch.ROW_BYTES),
             entries=np.array(plan.embeddings.entries),
             runs=np.array(plan.runs),
             labels=labels,
             loss_mask=loss_mask,
             label_runs=np.array(plan.label_runs))


def step(number, batch, job, rank, member, worker, results):
    """One micro-batch."""
    member.set_phase("step %d" % number)
    plan = job.compose_plan(rank, batch.batch)
    print("%s: plan %016x, %d copies for %d rows" % (
        batch.name, plan.digest, len(plan.embeddings.entries),
        plan.embeddings.destination_rows), flush=True)
    with worker.session(_session_bytes(batch, plan)) as session:
        shard, labels, loss_mask, copied = _shard(worker, session, plan, batch)
        member.barrier(BARRIER, number, scope="language", digest=plan.digest)
        restored = _prove(session, plan, batch, shard)
        print("%s: worker moved %d bytes; %d rows gathered from all ranks, "
              "equal byte for byte" % (batch.name, copied, restored),
              flush=True)
        _save(results / ("%s-%d.npz" % (batch.name, rank)), plan, batch.name,
              shard, labels, loss_mask, copied)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--results", type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    job = shardwright.connect(arguments.coordinator, arguments.job)
    worker = shardwright.worker(arguments.worker)
    with job.member(arguments.rank) as member:
        for number, batch in enumerate(micro_batch.all_micro_batches()):
            step(number, batch, job, arguments.rank, member, worker,
                 arguments.results)


if __name__ == "__main__":
    main()

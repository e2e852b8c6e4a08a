"""One trainer process, of the rank that main.py gives it.

Knows nothing of the other ranks. Asks the coordinator for its own plans only,
and has its worker carry them out on shared memory: an encoder's trainer sends
the rows of its lane's photographs over the bridge, a language rank's has its
shard made of what comes and of its text. No other photograph's row ever gets to
it. Then the shards go back as if they were gradients, and each row must come
home. What a rank got it leaves in RESULTS/NAME-RANK.npz; standard output is
progress for people.
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


def _session_bytes(batch, route):
    """Tensors, their gradients, labels and mask, and some slack."""
    rows = 2 * sum(route.sources.values()) + route.shard_rows
    rest = batch.labels.nbytes + batch.loss_mask.nbytes
    return rows * micro_batch.ROW_BYTES + 2 * rest + (1 << 16)


def _save(results, batch, route, bridged, **fields):
    facts = {
        "micro_batch": batch.name,
        "tp": route.coordinates.tp,
        "cp": route.coordinates.cp,
        "sent_bytes": bridged.sent_bytes,
        "received_bytes": bridged.received_bytes,
        **fields.pop("facts", {}),
    }
    np.savez(results / ("%s-%d.npz" % (batch.name, route.rank)),
             facts=json.dumps(facts), **fields)


def encoder_step(number, batch, job, route, session, results):
    """Sends the lane's rows, and gets them back as gradients."""
    images = session.array(batch.images(route.coordinates.lane))
    forward = session.bridge_forward(
        route, {"images": images}, sequence=2 * number)
    # What cannot be mistaken for the rows.
    gradient = session.array(~images)
    session.bridge_backward(
        route, out={"images": gradient}, sequence=2 * number + 1)
    _require_equal(gradient, images, "rows that came home")
    print("%s: sent %d of %d rows in %d messages; all came home, equal byte "
          "for byte" % (batch.name, route.sent_rows, len(images),
                        len(route.transfers)), flush=True)
    _save(results, batch, route, forward)


def _check_text(plan, batch, gradient):
    """The gradient of the text: its own rows, and zero for others'."""
    wanted = np.zeros_like(batch.text)
    text = list(plan.sources).index("text")
    for entry in plan.embeddings.entries:
        if entry.source == text:
            rows = slice(entry.source_row, entry.source_row + entry.row_count)
            wanted[rows] = batch.text[rows]
    _require_equal(gradient, wanted, "text rows that came home")


def language_step(number, batch, job, route, session, results):
    """Has the shard made, and sends it back as a gradient."""
    plan = job.compose_plan(route.rank, batch.batch)
    forward = session.bridge_forward(
        route, {"text": session.array(batch.text)}, sequence=2 * number)
    shard = forward.result
    labels = session.run_labels(plan, session.array(batch.labels))
    loss_mask = session.run_labels(plan, session.array(batch.loss_mask))
    _require_equal(labels, plan.shard_labels(batch.labels), "labels")
    _require_equal(loss_mask, plan.shard_labels(batch.loss_mask), "loss mask")
    backward = session.bridge_backward(route, shard, sequence=2 * number + 1)
    _check_text(plan, batch, backward.result["text"])
    print("%s: shard of %d rows in %d copies; %d came over the bridge in %d "
          "messages" % (batch.name, route.shard_rows,
                        len(plan.embeddings.entries), route.received_rows,
                        len(route.transfers)), flush=True)
    _save(results, batch, route, forward,
          facts={
              "sources": list(plan.sources),
              "token_count": plan.load.token_count,
              "causal_work": plan.load.causal_work,
          },
          rows=shard.reshape(-1, micro_batch.ROW_BYTES),
          entries=np.array(plan.embeddings.entries),
          runs=np.array(plan.runs),
          labels=labels,
          loss_mask=loss_mask,
          label_runs=np.array(plan.label_runs))


def step(number, batch, job, rank, member, worker, results):
    """One micro-batch."""
    member.set_phase("step %d" % number)
    route = job.route_plan(rank, batch.batch)
    member.barrier(BARRIER, number, digest=route.digest)
    run = encoder_step if route.role == "sends" else language_step
    with worker.session(_session_bytes(batch, route)) as session:
        run(number, batch, job, route, session, results)


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

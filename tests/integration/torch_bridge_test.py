"""Does the bridge of the PyTorch adapter do what plain PyTorch does?

Two encoder ranks and two language ranks, as real workers and over Gloo, against
broadcasting, aligning and sharding with autograd, bit for bit. Where python3
has no PyTorch, all is skipped; another Python, with NumPy, runs it once the
programs are built:

    PYTHONPATH=client/python:. PYTHON tests/integration/torch_bridge_test.py
"""

import contextlib
import importlib.util
import unittest

import shardwright
from tests.integration import bridge_job
from tests.integration.bridge_job import ENCODERS, RANKS

torch = None
if importlib.util.find_spec("torch"):
  import torch
  from shardwright.torch_adapter import PartitionAdapter
  from shardwright.torch_bridge import BridgeSession

HIDDEN = 24
SEQ_LENGTH = 16
LANGUAGE = (2, 3)


def positions(name, rank):
  """Of the rows of the sequence that a language rank owns."""
  index, everything = rank - LANGUAGE[0], torch.arange(SEQ_LENGTH)
  if name == "cp2":
    chunks = everything.reshape(4, -1)
    return torch.cat([chunks[index], chunks[3 - index]])
  return everything.reshape(2, -1)[index] if name == "tp2" else everything


def bits(tensor):
  """Tells 0 from -0."""
  return tensor.detach().contiguous().view(torch.uint8)


class MicroBatch:
  """The leaves of all ranks, and what plain PyTorch makes of them."""

  def __init__(self, job, seed, dtype, images=True):
    self.name = job.name
    self.batch = bridge_job.batch_of(seed, seq_length=SEQ_LENGTH, images=images)
    routes = [job.layout.route_plan(rank, self.batch) for rank in RANKS]
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
      return torch.randn(shape, generator=generator).to(dtype)

    # An encoder is one layer: the gradient must go on to what is behind it.
    self.features = [random(routes[rank].sources["images"], HIDDEN)
                     for rank in ENCODERS]
    self.text = random(routes[2].sources["text"], HIDDEN)
    self.gradients = {rank: random(*routes[rank].shard_shape((HIDDEN,)))
                      for rank in LANGUAGE}
    if self.is_replicated:
      self.gradients[3] = self.gradients[2]

  @property
  def is_replicated(self):
    """Whether all language ranks hold the same shard."""
    return self.name == "tp2-whole"

  def reference(self):
    """By rank, the shard; and by rank, the gradient of its leaf."""
    features = [leaf.clone().requires_grad_() for leaf in self.features]
    text = self.text.clone().requires_grad_()
    is_image = torch.tensor([list(ids) for ids in self.batch["samples"]]
                           ) == bridge_job.IMAGE
    whole = torch.zeros(*is_image.shape, HIDDEN, dtype=text.dtype)
    images = torch.cat([leaf.tanh() for leaf in features])
    for at, rows in ((~is_image, text), (is_image, images)):
      whole = whole.masked_scatter(at[..., None], rows)
    shards = {rank: whole.transpose(0, 1).index_select(
        0, positions(self.name, rank)) for rank in LANGUAGE}
    gradients = {
        rank: torch.autograd.grad(shards[rank], text, self.gradients[rank],
                                  retain_graph=True)[0]
        for rank in LANGUAGE}
    # Ranks that hold the same have the same gradient: nothing is summed.
    owners = LANGUAGE[:1] if self.is_replicated else LANGUAGE
    gradients.update(zip(ENCODERS, torch.autograd.grad(
        [shards[rank] for rank in owners], features,
        [self.gradients[rank] for rank in owners])))
    return shards, gradients


class Trainer:
  """One rank, with its micro-batches under way."""

  def __init__(self, job, rank, session):
    self.rank = rank
    self.adapter = PartitionAdapter(job.job, rank)
    self.session = session
    self.is_frozen = False
    self.under_way = {}

  def forward(self, micro_batch, sequence, backward_sequence):
    is_encoder = self.rank in ENCODERS
    leaf = (micro_batch.features[self.rank] if is_encoder else
            micro_batch.text).clone().requires_grad_(
                backward_sequence is not None and not self.is_frozen)
    rows = {"images": leaf.tanh()} if is_encoder else {"text": leaf}
    result = self.adapter.bridge(
        self.session, rows, micro_batch.batch, sequence=sequence,
        backward_sequence=backward_sequence)
    self.under_way[micro_batch] = leaf, result
    return result

  def backward(self, micro_batch):
    """Returns the gradient of the leaf."""
    leaf, result = self.under_way.pop(micro_batch)
    # An encoder rank has a scalar, and gives no gradient of it.
    result.backward(micro_batch.gradients.get(self.rank))
    return leaf.grad


@unittest.skipUnless(torch, "SKIPPED, this Python has no PyTorch")
class TorchBridgeTest(unittest.TestCase):

  def start(self, name, size_bytes=1 << 20):
    """A job, and a trainer for each of its ranks."""
    job = bridge_job.Job(self, name)
    stack = contextlib.ExitStack()
    self.addCleanup(stack.close)
    return job, [
        Trainer(job, rank, stack.enter_context(BridgeSession(
            shardwright.worker(job.workers[rank].address), size_bytes)))
        for rank in RANKS]

  def on_all_ranks(self, job, step):
    """What step(rank) returned, by rank."""
    results = {}

    def run(rank, *_):
      results[rank] = step(rank)

    failures = job.on_all_ranks(run, None, None)
    self.assertEqual(failures, [None] * 4)
    return results

  def assert_same(self, got, expected):
    self.assertEqual(got.shape, expected.shape)
    self.assertEqual(got.dtype, expected.dtype)
    self.assertTrue(torch.equal(bits(got), bits(expected)))

  def check_results(self, results, micro_batch, requires_grad=True):
    shards, _ = micro_batch.reference()
    for rank, result in results.items():
      self.assertEqual(result.requires_grad, requires_grad)
      if rank in ENCODERS:
        self.assertEqual((result.dim(), result.item()), (0, 0))
      else:
        self.assert_same(result, shards[rank])

  def test_shards_and_gradients_are_those_of_broadcast_align_and_shard(self):
    for name in bridge_job.LAYOUTS:
      job, trainers = self.start(name)
      sequence = 0
      for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for images in (True, False):
          with self.subTest(layout=name, dtype=dtype, images=images):
            batch = MicroBatch(job, sequence, dtype, images)
            numbers = (sequence, sequence + 1)
            results = self.on_all_ranks(
                job, lambda r: trainers[r].forward(batch, *numbers))
            self.check_results(results, batch)
            got = self.on_all_ranks(
                job, lambda r: trainers[r].backward(batch))
            for rank, expected in batch.reference()[1].items():
              self.assert_same(got[rank], expected)
          sequence += 2

  def test_micro_batches_may_be_in_flight_between_their_passes(self):
    job, trainers = self.start("cp2")
    batches = [MicroBatch(job, seed, torch.float32) for seed in range(3)]
    # One forward, one backward: each pass at its place in the order of all.
    for batch, numbers in zip(batches, ((0, 2), (1, 4), (3, 5))):
      batch.numbers = numbers

    def schedule(rank):
      trainer, (first, second, third) = trainers[rank], batches
      results, gradients = [], []
      results.append(trainer.forward(first, *first.numbers))
      results.append(trainer.forward(second, *second.numbers))
      gradients.append(trainer.backward(first))
      results.append(trainer.forward(third, *third.numbers))
      gradients.append(trainer.backward(second))
      gradients.append(trainer.backward(third))
      return results, gradients

    got = self.on_all_ranks(job, schedule)
    for k, batch in enumerate(batches):
      self.check_results({rank: got[rank][0][k] for rank in RANKS}, batch)
      for rank, expected in batch.reference()[1].items():
        self.assert_same(got[rank][1][k], expected)

  def test_what_is_frozen_takes_part_in_the_backward_pass(self):
    job, trainers = self.start("tp2")
    batch = MicroBatch(job, 1, torch.float32)

    for trainer in trainers:
      trainer.is_frozen = trainer.rank != 1
    results = self.on_all_ranks(
        job, lambda r: trainers[r].forward(batch, 0, 1))
    self.check_results(results, batch)
    got = self.on_all_ranks(job, lambda r: trainers[r].backward(batch))
    self.assert_same(got.pop(1), batch.reference()[1][1])
    self.assertEqual(set(got.values()), {None})

  def test_without_a_backward_sequence_nothing_requires_a_gradient(self):
    job, trainers = self.start("cp2")
    for sequence, dtype in enumerate((torch.float32, torch.float16)):
      batch = MicroBatch(job, sequence, dtype)
      results = self.on_all_ranks(
          job, lambda r: trainers[r].forward(batch, sequence, None))
      self.check_results(results, batch, requires_grad=False)

  def test_bad_input_is_refused_with_field_and_value(self):
    job, trainers = self.start("tp2", size_bytes=1 << 10)
    batch = MicroBatch(job, 1, torch.float32)
    text, adapter = batch.text, trainers[2].adapter
    needs = text.clone().requires_grad_()

    def call(sources, sequence=0, backward_sequence=None, session=None):
      return adapter.bridge(
          session or trainers[2].session, sources, batch.batch,
          sequence=sequence, backward_sequence=backward_sequence)

    for reason, words, bad in (
        ("INVALID_TENSOR", "no tensor: the plan's sources are text",
         lambda: call({})),
        ("INVALID_TENSOR", "no source 'images'",
         lambda: call({"images": text})),
        ("INVALID_TENSOR", r"source 'text' is .* of shape \(3, 24\), must be",
         lambda: call({"text": text[:3]})),
        ("INVALID_TENSOR", "text' is on meta, must be cpu or cuda",
         lambda: call({"text": text.to("meta")})),
        ("INVALID_ARGUMENT", "sequence is 0.5, must be an integer",
         lambda: call({"text": text}, 0.5)),
        ("INVALID_ARGUMENT", "backward_sequence is 4, must be above .*, 4",
         lambda: call({"text": text}, 4, 4)),
        ("INVALID_TENSOR", "backward_sequence is None, and a source requires",
         lambda: call({"text": needs})),
        ("INVALID_TENSOR", "backward_sequence is 1, and torch.int32 has no",
         lambda: call({"text": text.int()}, 0, 1)),
        ("SESSION_FULL", r"take \d+ bytes, size_bytes .* is 1024",
         lambda: call({"text": text})),
        ("INVALID_TENSOR", "size_bytes is 0", lambda: BridgeSession(None, 0)),
        ("INVALID_TENSOR", "device is meta",
         lambda: BridgeSession(None, 1, "meta")),
    ):
      with self.subTest(words), self.assertRaisesRegex(
          shardwright.ShardwrightError, words) as raised:
        bad()
      self.assertEqual(raised.exception.reason, reason)


if __name__ == "__main__":
  unittest.main()

"""Plans on NumPy arrays, against the definition in plain index arithmetic."""

import itertools
import unittest

import numpy

import shardwright

_HIDDEN = 3


def _layout(tp=1, cp=1, sequence_parallel=False, pp=1):
    return shardwright.Layout(
        f"""
name: lm
world_size: {tp * cp * pp}
modules:
- name: language
  role: LANGUAGE
  first_rank: 0
  rank_count: {tp * cp * pp}
  parallelism: {{tp: {tp}, cp: {cp}, pp: {pp},
                 sequence_parallel: {str(sequence_parallel).lower()}}}
"""
    )


def _label_positions(cp, cp_rank, cu_seqlens):
    """Chunks r and 2 * cp - 1 - r of each document, in that order."""
    if cp == 1:
        return numpy.arange(cu_seqlens[-1])
    parts = []
    for begin, end in itertools.pairwise(cu_seqlens):
        chunks = numpy.arange(begin, end).reshape(2 * cp, -1)
        parts += [chunks[cp_rank], chunks[2 * cp - 1 - cp_rank]]
    return numpy.concatenate(parts)


def _embedding_positions(tp, cp, sequence_parallel, rank, cu_seqlens):
    positions = _label_positions(cp, rank // tp, cu_seqlens)
    if sequence_parallel:
        positions = positions.reshape(tp, -1)[rank % tp]
    return positions


class ShardTest(unittest.TestCase):
    cases = [
        # tp, cp, sequence parallel, B, cu_seqlens
        (1, 1, False, 2, (0, 8)),
        (2, 1, True, 2, (0, 8)),
        (1, 2, False, 3, (0, 16)),
        (2, 2, True, 2, (0, 32)),
        (3, 2, True, 1, (0, 48)),
        (2, 2, False, 2, (0, 16)),
        (1, 2, False, 1, (0, 4, 4, 16)),
        (2, 2, True, 1, (0, 8, 16, 40)),
    ]

    def for_each_rank(self):
        for tp, cp, sequence_parallel, batch, cu_seqlens in self.cases:
            layout = _layout(tp, cp, sequence_parallel)
            dense = len(cu_seqlens) == 2
            for rank in range(tp * cp):
                plan = layout.shard_plan(
                    rank,
                    seq_length=cu_seqlens[-1],
                    micro_batch=batch,
                    cu_seqlens_padded=None if dense else cu_seqlens,
                )
                positions = _embedding_positions(
                    tp, cp, sequence_parallel, rank, cu_seqlens
                )
                labels = _label_positions(cp, rank // tp, cu_seqlens)
                with self.subTest(tp=tp, cp=cp, rank=rank, starts=cu_seqlens):
                    yield plan, positions, labels

    def embeddings(self, plan):
        shape = (plan.seq_length, plan.micro_batch, _HIDDEN)
        count = numpy.prod(shape)
        return numpy.arange(count, dtype=numpy.float32).reshape(shape)

    def test_shard_is_the_definition(self):
        for plan, positions, _ in self.for_each_rank():
            embeddings = self.embeddings(plan)
            numpy.testing.assert_array_equal(
                plan.shard(embeddings), embeddings[positions]
            )

    def test_labels_are_the_definition(self):
        for plan, _, positions in self.for_each_rank():
            labels = numpy.random.default_rng(1).integers(
                0, 1000, (plan.micro_batch, plan.seq_length)
            )
            numpy.testing.assert_array_equal(
                plan.shard_labels(labels), labels[:, positions]
            )

    def test_runs_spell_the_positions(self):
        for plan, positions, labels in self.for_each_rank():
            for runs, expected in (
                (plan.runs, positions),
                (plan.label_runs, labels),
            ):
                spelt = [p for run in runs for p in range(run[0], sum(run))]
                self.assertEqual(spelt, list(expected))

    def test_adjoint_puts_rows_back_and_zeros_the_rest(self):
        for plan, positions, _ in self.for_each_rank():
            embeddings = self.embeddings(plan)
            expected = numpy.zeros_like(embeddings)
            expected[positions] = embeddings[positions]
            numpy.testing.assert_array_equal(
                plan.adjoint(plan.shard(embeddings, copy=True)), expected
            )

    def test_digest_is_equal_on_all_ranks(self):
        layout = _layout(tp=2, cp=2, sequence_parallel=True)
        plans = [layout.shard_plan(r, seq_length=16) for r in range(4)]
        self.assertEqual(len({plan.digest for plan in plans}), 1)
        self.assertNotEqual(
            plans[0].digest, layout.shard_plan(0, seq_length=24).digest
        )

    def test_even_tp_with_sequence_parallel_is_a_view(self):
        plan = _layout(tp=2, cp=2, sequence_parallel=True).shard_plan(
            1, seq_length=16, micro_batch=2
        )
        embeddings = self.embeddings(plan)
        self.assertTrue(plan.embeddings.is_view)
        self.assertTrue(numpy.shares_memory(plan.shard(embeddings), embeddings))
        copy = plan.shard(embeddings, copy=True)
        self.assertFalse(numpy.shares_memory(copy, embeddings))
        numpy.testing.assert_array_equal(copy, plan.shard(embeddings))

    def test_result_goes_where_out_says(self):
        plan = _layout(cp=2).shard_plan(0, seq_length=8)
        embeddings = self.embeddings(plan)
        out = numpy.full((4, 1, _HIDDEN), -1, numpy.float32)
        self.assertIs(plan.shard(embeddings, out=out), out)
        numpy.testing.assert_array_equal(out, embeddings[[0, 1, 6, 7]])

    def test_later_stages_have_labels_only(self):
        plan = _layout(cp=2, pp=2).shard_plan(2, seq_length=8)
        self.assertEqual(plan.coordinates.pp, 1)
        self.assertIsNone(plan.embeddings)
        self.assertEqual(plan.shard_labels(numpy.ones((1, 8))).shape, (1, 4))
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            plan.shard(numpy.ones((8, 1, _HIDDEN)))
        self.assertEqual(caught.exception.reason, "NO_EMBEDDINGS")

    def test_load_counts_padding_and_causal_work(self):
        layout = _layout(cp=2)
        plans = [
            layout.shard_plan(
                r, seq_length=8, cu_seqlens_padded=[0, 8], cu_seqlens=[0, 7]
            )
            for r in range(2)
        ]
        self.assertEqual([p.load.token_count for p in plans], [4, 4])
        self.assertEqual([p.load.padding_token_count for p in plans], [1, 0])
        self.assertEqual(sum(p.load.causal_work for p in plans), 36)

    def test_arrays_that_do_not_fit_are_refused(self):
        plan = _layout(cp=2).shard_plan(0, seq_length=8)
        good = numpy.zeros((8, 1, _HIDDEN), numpy.float32)
        read_only = numpy.zeros((4, 1, _HIDDEN), numpy.float32)
        read_only.flags.writeable = False
        for arguments in [
            {"embeddings": good[:6]},
            {"embeddings": good.tolist()},
            {"embeddings": numpy.zeros((8, 1, 2 * _HIDDEN))[:, :, ::2]},
            {"embeddings": good, "out": numpy.zeros((4, 1, _HIDDEN))},
            {"embeddings": good, "out": good},
            {"embeddings": good, "out": read_only},
            {"embeddings": good.astype(object)},
        ]:
            with self.subTest(str(arguments)[:60]):
                with self.assertRaises(shardwright.ShardwrightError) as caught:
                    plan.shard(**arguments)
                self.assertEqual(caught.exception.reason, "INVALID_ARRAY")

    def test_rows_of_nothing_are_refused(self):
        for cp in 1, 2:  # A view, and a copy.
            plan = _layout(cp=cp).shard_plan(0, seq_length=8, micro_batch=2)
            for call in (
                lambda: plan.shard(numpy.zeros((8, 2, 0))),
                lambda: plan.shard_labels(numpy.zeros((2, 8, 0))),
                lambda: plan.adjoint(numpy.zeros((8 // cp, 2, 0))),
            ):
                with self.assertRaises(shardwright.ShardwrightError) as caught:
                    call()
                self.assertEqual(caught.exception.reason, "INVALID_ARRAY")

    def test_integers_never_wrap(self):
        layout = _layout(cp=2)
        huge = 2**64 + 8
        for arguments, name, value in [
            ({"rank": huge}, "rank", huge),
            ({"rank": 0.5}, "rank", 0.5),
            ({"seq_length": huge}, "seq_length", huge),
            ({"seq_length": True}, "seq_length", True),
            ({"micro_batch": -huge}, "micro_batch", -huge),
            ({"cu_seqlens_padded": [0, huge]}, "cu_seqlens_padded[1]", huge),
            (
                {"cu_seqlens_padded": numpy.array([0, 2**63], numpy.uint64)},
                "cu_seqlens_padded[1]",
                2**63,
            ),
            (
                {"cu_seqlens_padded": [0, 8], "cu_seqlens": [0, 7.5]},
                "cu_seqlens[1]",
                7.5,
            ),
        ]:
            with self.subTest(arguments):
                with self.assertRaises(shardwright.ShardwrightError) as caught:
                    layout.shard_plan(
                        **{"rank": 0, "seq_length": 8, **arguments}
                    )
                error = caught.exception
                self.assertEqual(error.code, shardwright.Code.INVALID_ARGUMENT)
                self.assertIn(name, error.message)
                self.assertIn(str(value), error.message)

    def test_integers_of_any_kind_will_do(self):
        layout = _layout(cp=2)
        expected = layout.shard_plan(0, seq_length=8, cu_seqlens_padded=[0, 8])
        for kind in numpy.int32, numpy.uint8, numpy.uint64, object:
            plan = layout.shard_plan(
                numpy.int32(0),
                seq_length=numpy.uint16(8),
                cu_seqlens_padded=numpy.array([0, 8], kind),
            )
            self.assertEqual(plan.digest, expected.digest)

    def test_starts_of_documents_have_one_dimension(self):
        layout = _layout(cp=2)
        for starts in [[[0, 4], [4, 8]], [[0, 4], [8]], 8]:
            for name in "cu_seqlens_padded", "cu_seqlens":
                arguments = {"cu_seqlens_padded": [0, 4, 4, 8], name: starts}
                with self.subTest(arguments):
                    with self.assertRaises(
                        shardwright.ShardwrightError
                    ) as caught:
                        layout.shard_plan(0, seq_length=8, **arguments)
                    self.assertIn(
                        f"{name} must be a list", caught.exception.message
                    )

    def test_overlapping_output_is_refused(self):
        plan = _layout(cp=2).shard_plan(0, seq_length=8)
        embeddings = self.embeddings(plan)
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            plan.shard(embeddings, out=embeddings[2:6])
        self.assertEqual(caught.exception.reason, "INVALID_TENSOR")

    def test_sequence_that_does_not_divide_names_the_next_that_does(self):
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            _layout(cp=2).shard_plan(0, seq_length=10)
        self.assertEqual(caught.exception.reason, "INVALID_BATCH")
        self.assertIn("next valid S is 12", str(caught.exception))


_IMAGE = 501


class ComposeTest(unittest.TestCase):
    batch = {
        "micro_batch_size": 2,
        "seq_length": 8,
        "special_token_ids": {"images": _IMAGE},
        "samples": [
            {"input_ids": [7, _IMAGE, _IMAGE, 8, 9, 9, 9, 9]},
            {"input_ids": [9, 8, 7, 7, _IMAGE, 7, 7, 7]},
        ],
    }

    def sources(self, ids):
        """Rows by source, and what aligning them gives: [S, B, hidden]."""
        aligned = numpy.zeros((*ids.T.shape, _HIDDEN), numpy.float32)
        sources = {}
        for name, is_source in (
            ("text", ids != _IMAGE),
            ("images", ids == _IMAGE),
        ):
            rows = numpy.random.default_rng(len(name)).random(
                (is_source.sum(), _HIDDEN), numpy.float32
            )
            sources[name] = rows
            aligned.transpose(1, 0, 2)[is_source] = rows
        return sources, aligned

    def test_compose_is_align_and_shard(self):
        ids = numpy.array([s["input_ids"] for s in self.batch["samples"]])
        sources, aligned = self.sources(ids)
        layout = _layout(tp=2, cp=2, sequence_parallel=True)
        for rank in range(4):
            plan = layout.compose_plan(rank, self.batch)
            self.assertEqual(dict(plan.sources), {"text": 13, "images": 3})
            positions = _embedding_positions(2, 2, True, rank, (0, 8))
            local = plan.compose(sources)
            numpy.testing.assert_array_equal(local, aligned[positions])
            for name, gradient in plan.adjoint(local).items():
                owned = gradient.any(axis=1)
                numpy.testing.assert_array_equal(
                    gradient[owned], sources[name][owned]
                )

    def test_every_row_is_owned_once(self):
        ids = numpy.array([s["input_ids"] for s in self.batch["samples"]])
        sources, _ = self.sources(ids)
        layout = _layout(tp=2, cp=2, sequence_parallel=True)
        total = {name: 0 for name in sources}
        for rank in range(4):
            plan = layout.compose_plan(rank, self.batch)
            gradients = plan.adjoint(plan.compose(sources))
            for name in total:
                total[name] = total[name] + gradients[name]
        for name, rows in sources.items():
            numpy.testing.assert_array_equal(total[name], rows)

    def test_arrays_serve_as_samples(self):
        ids = [numpy.array(s["input_ids"]) for s in self.batch["samples"]]
        layout = _layout(cp=2)
        self.assertEqual(
            layout.compose_plan(0, {**self.batch, "samples": ids}).digest,
            layout.compose_plan(0, self.batch).digest,
        )

    def test_packed_documents_compose_too(self):
        ids = numpy.array([[1, _IMAGE, 2, 3, 4, _IMAGE, _IMAGE, 5, 6, 7, 8, 9]])
        sources, aligned = self.sources(ids)
        batch = {
            "micro_batch_size": 1,
            "seq_length": 12,
            "special_token_ids": {"images": _IMAGE},
            "samples": ids,
            "cu_seqlens_padded": [[0, 4, 4, 12]],
        }
        layout = _layout(cp=2)
        for rank in range(2):
            plan = layout.compose_plan(rank, batch)
            positions = _label_positions(2, rank, (0, 4, 4, 12))
            numpy.testing.assert_array_equal(
                plan.compose(sources), aligned[positions]
            )

    def test_json_is_that_of_the_command_line(self):
        plan = _layout(cp=2).compose_plan(0, self.batch)
        json = plan.to_json(positions=True)
        self.assertEqual(json["digest"], f"{plan.digest:016x}")
        (rank,) = json["ranks"]
        self.assertEqual(rank["embedding_shape"], [4, 2, None])
        self.assertEqual(rank["embedding_positions"], [0, 1, 6, 7])
        self.assertEqual(
            rank["rows"][:2],
            [[["text", 0], ["text", 6]], [["images", 0], ["text", 7]]],
        )

    def test_wrong_batches_are_refused(self):
        layout = _layout(cp=2)
        for change in [
            {"samples": [[7] * 8]},
            {"samples": [[7] * 7, [7] * 8]},
            {"samples": [[7.5] * 8, [7] * 8]},
            {"counts": {"images": 4}},
            {"counts": {"sounds": 1}},
            {"counts": {"images": -1}},
            {"counts": {"text": 12}},
            {"counts": {"text": 2**64 + 13}},
            {"counts": {"images": 3.0}},
            {"counts": {5: 3}},
            {"counts": [3]},
            {"encoder_rows": {"images": []}},
            {"encoder_rows": {"images": [[3]]}},
            {"encoder_rows": {"images": None}},
            {"encoder_rows": {"text": [13]}},
            {"special_token_ids": {"images": 2**64 + _IMAGE}},
            {"seq_length": 2**64 + 8},
            {"seq_length": None},
            {"samples": 16},
            {"samples": numpy.array(16)},
            {"samples": [[[7] * 8], [7] * 8]},
            {"samples": [{"ids": [7] * 8}, [7] * 8]},
            {"samples": numpy.full((2, 8), 2**64 - 7, numpy.uint64)},
            {"cu_seqlens_padded": [0, 8]},
            {"special_token_ids": {"images": 7, "sounds": 7}},
            {"tokens": []},
            {"micro_batch_size": -1},
        ]:
            with self.subTest(change):
                with self.assertRaises(shardwright.ShardwrightError) as caught:
                    layout.compose_plan(0, {**self.batch, **change})
                self.assertEqual(caught.exception.reason, "INVALID_BATCH")

    def test_counts_and_encoder_rows_that_add_up_are_accepted(self):
        layout = _layout(cp=2)
        for change in [
            {"counts": {"text": 13}},
            {"counts": {"text": 13, "images": 3}},
            {"counts": {}, "encoder_rows": {}},
            {"encoder_rows": {"images": numpy.array([3], numpy.uint8)}},
        ]:
            with self.subTest(change):
                plan = layout.compose_plan(0, {**self.batch, **change})
                self.assertEqual(plan.sources, {"text": 13, "images": 3})

    def test_count_that_differs_is_refused_with_both_numbers(self):
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            _layout(cp=2).compose_plan(
                0, {**self.batch, "counts": {"images": 4}}
            )
        self.assertRegex(caught.exception.message, r"(?s)images.*[34].*[34]")

    def test_sources_that_do_not_fit_are_refused(self):
        plan = _layout(cp=2).compose_plan(0, self.batch)
        text = numpy.zeros((13, _HIDDEN), numpy.float32)
        images = numpy.zeros((3, _HIDDEN), numpy.float32)
        for sources in [
            {},
            {"text": text},
            {"text": text, "images": images[:2]},
            {"text": text, "images": images, "sounds": images},
            {"text": text, "images": images.astype(numpy.float64)},
        ]:
            with self.subTest(list(sources)):
                with self.assertRaises(shardwright.ShardwrightError) as caught:
                    plan.compose(sources)
                self.assertEqual(caught.exception.reason, "INVALID_ARRAY")

    def test_plan_of_the_other_kind_is_refused(self):
        plan = _layout(cp=2).compose_plan(0, self.batch)
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            plan.shard(numpy.zeros((8, 2, _HIDDEN)))
        self.assertEqual(caught.exception.reason, "WRONG_PLAN")


if __name__ == "__main__":
    unittest.main()

"""The PyTorch adapter against PyTorch's own indexing, bit for bit.

On the GPU too, where there is one. Where python3 has no PyTorch, all is
skipped; another Python runs it:

    PYTHONPATH=client/python PYTHON client/python/torch_adapter_test.py
"""

import importlib.util
import itertools
import types
import unittest

import shardwright

torch = None
if importlib.util.find_spec("torch"):
    import torch
    from shardwright.torch_adapter import PartitionAdapter

_HIDDEN = 8
_IMAGE_ID = 511


def _layout(tp=1, cp=1, pp=1):
    return shardwright.Layout(
        f"""
name: lm
world_size: {tp * cp * pp + 1}
modules:
- {{name: language, role: LANGUAGE, first_rank: 0, rank_count: {tp * cp * pp},
   parallelism: {{tp: {tp}, cp: {cp}, pp: {pp},
                 sequence_parallel: {str(tp > 1).lower()}}}}}
- {{name: images, role: ENCODER, first_rank: {tp * cp * pp}, rank_count: 1}}
edges:
- {{from: images, to: language}}
"""
    )


def _label_positions(cp, cp_rank, cu_seqlens):
    """Chunks r and 2 * cp - 1 - r of each document, in that order."""
    if cp == 1:
        return torch.arange(cu_seqlens[-1])
    parts = []
    for begin, end in itertools.pairwise(cu_seqlens):
        chunks = torch.arange(begin, end).reshape(2 * cp, -1)
        parts += [chunks[cp_rank], chunks[2 * cp - 1 - cp_rank]]
    return torch.cat(parts)


def _positions(tp, cp, rank, cu_seqlens):
    """Of embeddings, and of labels."""
    labels = _label_positions(cp, rank // tp, cu_seqlens)
    return labels.reshape(tp, -1)[rank % tp], labels


def _packed(cu_seqlens, **changes):
    """Enough of Megatron's PackedSeqParams."""
    starts = torch.tensor(cu_seqlens, dtype=torch.int32)
    fields = {
        "qkv_format": "thd",
        "cu_seqlens_q": starts,
        "cu_seqlens_q_padded": starts,
    }
    return types.SimpleNamespace(**{**fields, **changes})


def _bits(tensor):
    """Tells 0 from -0."""
    return tensor.contiguous().view(torch.uint8)


_CASES = [
    # tp, cp, B, cu_seqlens
    (1, 1, 2, (0, 8)),
    (2, 1, 2, (0, 8)),  # A view.
    (1, 2, 3, (0, 16)),
    (1, 2, 1, (0, 16)),  # A view on cp rank 1.
    (2, 2, 2, (0, 32)),
    (3, 2, 1, (0, 48)),
    (1, 2, 1, (0, 4, 4, 16)),
    (2, 2, 1, (0, 8, 16, 40)),
]


@unittest.skipUnless(torch, "SKIPPED, this Python has no PyTorch")
class TorchAdapterTest(unittest.TestCase):
    device = "cpu"

    def random(self, shape, dtype):
        """What one seed gives."""
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(shape, generator=generator) * 1000
        return values.to(dtype).to(self.device)

    def assert_same(self, got, expected):
        self.assertEqual(got.shape, expected.shape)
        self.assertEqual(got.dtype, expected.dtype)
        self.assertTrue(torch.equal(_bits(got), _bits(expected)))

    def for_each_rank(self):
        for tp, cp, batch, cu_seqlens in _CASES:
            layout = _layout(tp, cp)
            packed = None if len(cu_seqlens) == 2 else _packed(cu_seqlens)
            for rank in range(tp * cp):
                adapter = PartitionAdapter(layout, rank)
                rows, label_rows = _positions(tp, cp, rank, cu_seqlens)
                yield (
                    f"tp={tp} cp={cp} rank={rank} starts={cu_seqlens}",
                    adapter,
                    (cu_seqlens[-1], batch),
                    packed,
                    rows.to(self.device),
                    label_rows.to(self.device),
                )

    def check_shard(self, dtype):
        for name, adapter, shape, packed, *rows in self.for_each_rank():
            with self.subTest(name):
                self.check_shard_of(adapter, shape, packed, *rows, dtype)

    def check_shard_of(self, adapter, shape, packed, rows, label_rows, dtype):
        s, b = shape
        whole = self.random((s, b, _HIDDEN), dtype).requires_grad_()
        labels = torch.arange(b * s, device=self.device).reshape(b, s)
        mask = self.random((b, s), torch.float32)
        local, local_labels, local_mask, same = adapter.shard(
            whole, labels, mask, packed
        )
        self.assertIs(same, packed)
        expected = whole.index_select(0, rows)
        self.assert_same(local, expected)
        self.assert_same(local_labels, labels.index_select(1, label_rows))
        self.assert_same(local_mask, mask.index_select(1, label_rows))
        self.assertFalse(local_labels.requires_grad)
        self.assertFalse(local_mask.requires_grad)

        gradient = self.random(tuple(local.shape), dtype) + 1
        self.assert_same(
            torch.autograd.grad(local, whole, gradient)[0],
            torch.autograd.grad(expected, whole, gradient)[0],
        )

    def test_shard_is_indexing_in_fp32(self):
        self.check_shard(torch.float32)

    def test_shard_is_indexing_in_bf16(self):
        self.check_shard(torch.bfloat16)

    def test_every_type_has_its_name(self):
        adapter = PartitionAdapter(_layout(cp=2), 0)
        rows = _positions(1, 2, 0, (0, 8))[0].to(self.device)
        for dtype in (
            torch.float16,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
            torch.int32,
            torch.int64,
            torch.bool,
        ):
            with self.subTest(dtype=dtype):
                whole = self.random((8, 2, 3), dtype)
                local = adapter.shard(whole, None, None)[0]
                self.assertEqual(local.dtype, dtype)
                self.assertTrue(
                    torch.equal(
                        local.view(torch.uint8),
                        whole.view(torch.uint8).index_select(0, rows),
                    )
                )

    def test_the_gradient_is_the_derivative(self):
        if self.device == "cuda":
            self.skipTest("the numeric derivative needs fp64, on the CPU")
        for name, adapter, (s, b), packed, *_ in self.for_each_rank():
            whole = self.random((s, b, 2), torch.float64).requires_grad_()
            mask = self.random((b, s), torch.float64).requires_grad_()

            def both(embeddings, loss_mask, adapter=adapter, packed=packed):
                out = adapter.shard(embeddings, None, loss_mask, packed)
                return out[0], out[2]

            with self.subTest(name):
                self.assertTrue(torch.autograd.gradcheck(both, (whole, mask)))

    def test_gradients_of_all_ranks_add_up_to_the_whole(self):
        layout, whole = _layout(2, 2), self.random((16, 2, 4), torch.float32)
        whole.requires_grad_()
        for rank in range(4):
            local = PartitionAdapter(layout, rank).shard(whole, None, None)[0]
            local.sum().backward()  # An expanded gradient, not contiguous.
        self.assert_same(whole.grad, torch.ones_like(whole))

    def test_what_is_one_run_is_a_view(self):
        whole = self.random((8, 2, 4), torch.float32)
        labels = torch.zeros((2, 8), dtype=torch.int64, device=self.device)
        local, same, _, _ = PartitionAdapter(_layout(tp=2), 1).shard(
            whole, labels, None
        )
        self.assertEqual(local.data_ptr(), whole[4:].data_ptr())
        self.assertIs(same, labels)

    def test_a_tensor_that_is_not_contiguous_is_taken(self):
        whole = self.random((2, 8, 4), torch.float32).transpose(0, 1)
        rows = _positions(1, 2, 1, (0, 8))[0].to(self.device)
        local = PartitionAdapter(_layout(cp=2), 1).shard(whole, None, None)[0]
        self.assert_same(local, whole.index_select(0, rows))

    def test_a_later_stage_has_labels_alone(self):
        adapter = PartitionAdapter(_layout(cp=2, pp=2), 2)
        mask = self.random((1, 8), torch.float32)
        nothing, labels, local, packed = adapter.shard(None, None, mask)
        self.assertEqual((nothing, labels, packed), (None, None, None))
        self.assert_same(local, mask[:, [0, 1, 6, 7]])
        self.assertEqual(adapter.shard(None, None, None), (None,) * 4)
        with self.assertRaisesRegex(shardwright.ShardwrightError, "stage 1"):
            adapter.shard(mask.reshape(8, 1, 1), None, None)

    def test_starts_without_padding_do_where_there_are_no_others(self):
        whole = self.random((16, 1, 4), torch.float32)
        adapter = PartitionAdapter(_layout(cp=2), 0)
        expected = adapter.shard(whole, None, None, _packed((0, 4, 16)))[0]
        unpadded = _packed((0, 4, 16), cu_seqlens_q_padded=None)
        got = adapter.shard(whole, None, None, unpadded)[0]
        self.assert_same(got, expected)

    def test_a_shape_that_was_seen_is_not_planned_again(self):
        calls = []

        class Counting:
            def shard_plan(self, rank, **shape):
                calls.append(shape)
                return layout.shard_plan(rank, **shape)

        layout, adapter = _layout(cp=2), PartitionAdapter(Counting(), 0)
        for s in (8, 16, 8):
            adapter.shard(self.random((s, 1, 2), torch.float32), None, None)
        self.assertEqual([shape["seq_length"] for shape in calls], [8, 16])

    def batch(self, cu_seqlens):
        """A pack, or two samples: ids, and every third token an image's."""
        samples = 1 if len(cu_seqlens) > 2 else 2
        ids = torch.arange(samples * cu_seqlens[-1]) % 100
        ids[::3] = _IMAGE_ID
        ids = ids.reshape(samples, -1)
        batch = {
            "micro_batch_size": samples,
            "seq_length": cu_seqlens[-1],
            "special_token_ids": {"images": _IMAGE_ID},
            "samples": list(ids),
        }
        if samples == 1:
            batch["cu_seqlens_padded"] = [list(cu_seqlens)]
        return batch, ids == _IMAGE_ID

    def check_compose(self, dtype, cu_seqlens, frozen=()):
        """Against masked_scatter, transposing and indexing."""
        batch, is_image = self.batch(cu_seqlens)
        is_image = is_image.to(self.device)
        packed = _packed(cu_seqlens) if len(is_image) == 1 else None
        count = int(is_image.sum())
        rows = {"text": is_image.numel() - count, "images": count}
        sources = {
            name: self.random((n, _HIDDEN), dtype).requires_grad_(
                name not in frozen
            )
            for name, n in rows.items()
        }
        wanted = [s for s in sources.values() if s.requires_grad]
        for rank in range(4):
            embedding_rows, label_rows = (
                p.to(self.device) for p in _positions(2, 2, rank, cu_seqlens)
            )
            local, labels, none, _ = PartitionAdapter(
                _layout(2, 2), rank
            ).compose(sources, batch, is_image.long(), None, packed)
            self.assertIsNone(none)
            self.assert_same(
                labels, is_image.long().index_select(1, label_rows)
            )
            whole = torch.zeros(
                *is_image.shape, _HIDDEN, dtype=dtype, device=self.device
            )
            for name, at in (("text", ~is_image), ("images", is_image)):
                whole = whole.masked_scatter(at[..., None], sources[name])
            expected = whole.transpose(0, 1).index_select(0, embedding_rows)
            self.assert_same(local, expected)
            gradient = self.random(tuple(local.shape), dtype)
            for got, want in zip(
                torch.autograd.grad(local, wanted, gradient),
                torch.autograd.grad(expected, wanted, gradient),
            ):
                self.assert_same(got, want)

    def test_compose_is_aligning_and_sharding(self):
        for dtype in (torch.float32, torch.bfloat16):
            for cu_seqlens in ((0, 32), (0, 8, 16, 40)):
                with self.subTest(dtype=dtype, starts=cu_seqlens):
                    self.check_compose(dtype, cu_seqlens)

    def test_a_frozen_source_of_compose_needs_no_gradient(self):
        self.check_compose(torch.float32, (0, 32), frozen=("text",))

    def test_compose_takes_a_plan_made_ahead(self):
        layout, (batch, is_image) = _layout(cp=2), self.batch((0, 8))
        count = int(is_image.sum())
        sources = {
            "text": self.random((16 - count, 4), torch.float32),
            "images": self.random((count, 4), torch.float32),
        }
        adapter = PartitionAdapter(layout, 1)
        plan = layout.compose_plan(1, batch)
        self.assert_same(
            adapter.compose(sources, plan)[0],
            adapter.compose(sources, batch)[0],
        )

    def test_a_rank_without_a_role_gets_nothing_of_a_bridge(self):
        batch, _ = self.batch((0, 8))
        bridge = PartitionAdapter(_layout(pp=2), 1).bridge
        numbers = {"sequence": 0, "backward_sequence": 1}
        self.assertIsNone(bridge(None, {}, batch, **numbers))
        rows = self.random((3, 4), torch.float32)
        with self.assertRaisesRegex(
            shardwright.ShardwrightError, "no source 'text'.* are none"
        ):
            bridge(None, {"text": rows}, batch, **numbers)

    def test_bad_input_is_refused_with_its_name(self):
        adapter = PartitionAdapter(_layout(cp=2), 0)
        whole = self.random((8, 2, 4), torch.float32)
        mask = self.random((2, 8), torch.float32)
        batch, _ = self.batch((0, 8))
        packed = _packed((0, 8))
        nothing = _packed((0, 8), cu_seqlens_q=None, cu_seqlens_q_padded=None)
        for words, call in (
            ("embeddings is a list", lambda: adapter.shard([1], None, None)),
            (
                r"embeddings has shape \(8, 2\), must be \[S, B, H\]",
                lambda: adapter.shard(whole[..., 0], None, None),
            ),
            (
                r"embeddings \(2, 8\), loss_mask \(2, 4\)",
                lambda: adapter.shard(whole, None, mask[:, :4]),
            ),
            (
                "on meta, must be cpu or cuda",
                lambda: adapter.shard(whole.to("meta"), None, None),
            ),
            ("neither", lambda: adapter.shard(whole, None, mask, nothing)),
            ("next valid S", lambda: adapter.shard(whole[:6], None, None)),
            (
                "no source 'audio': the plan's sources are text, images",
                lambda: adapter.compose({"audio": mask}, batch),
            ),
            ("no tensor", lambda: adapter.compose({}, batch)),
            (
                r"source 'text' is torch.float32 of shape \(2, 8\), must be",
                lambda: adapter.compose({"text": mask}, batch),
            ),
            (
                "batch has no cu_seqlens_padded",
                lambda: adapter.compose(
                    {"text": mask}, batch, packed_seq_params=packed
                ),
            ),
        ):
            with self.subTest(words=words), self.assertRaisesRegex(
                shardwright.ShardwrightError, words
            ):
                call()


@unittest.skipUnless(
    torch and torch.cuda.is_available(), "SKIPPED, PyTorch sees no GPU"
)
class TorchAdapterGpuTest(TorchAdapterTest):
    device = "cuda"

    def test_a_type_without_a_name_is_refused(self):
        with self.assertRaisesRegex(
            shardwright.ShardwrightError, "not torch.float64"
        ):
            PartitionAdapter(_layout(cp=2), 0).shard(
                self.random((8, 2, 4), torch.float64), None, None
            )

    def test_work_is_in_the_current_stream(self):
        whole = self.random((4096, 1, 1024), torch.bfloat16)
        adapter = PartitionAdapter(_layout(cp=2), 0)
        rows = _positions(1, 2, 0, (0, 4096))[0].cuda()
        adapter.shard(whole, None, None)  # Opens the GPU, which may wait.
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            # `late` is not written yet when another stream would read it.
            torch.cuda._sleep(100_000_000)
            late = whole + 1
            local = adapter.shard(late, None, None)[0]
        stream.synchronize()
        self.assert_same(local, (whole + 1).index_select(0, rows))


if __name__ == "__main__":
    unittest.main()

"""Packing pads as TransformerEngine does, and what it packs can be sharded."""

import unittest

import numpy as np
import shardwright

LAYOUT = """
name: cp2
world_size: 2
modules:
- {name: language, role: LANGUAGE, first_rank: 0, rank_count: 2,
   parallelism: {cp: 2}}
"""


class PadDocumentsTest(unittest.TestCase):

    def test_pads_each_document_and_restarts_positions(self):
        packed = shardwright.pad_documents(
            [1, 1, 2, 2, 2], [10, 11, 20, 21, 22], [0, 2, 5], factor=4)
        self.assertEqual(packed.input_ids.tolist(), [1, 1, 0, 0, 2, 2, 2, 0])
        self.assertEqual(packed.labels.tolist(),
                         [10, 11, -100, -100, 20, 21, 22, -100])
        self.assertEqual(packed.cu_seqlens_padded.tolist(), [0, 4, 8])
        self.assertEqual(packed.position_ids.tolist(), [0, 1, 2, 3, 0, 1, 2, 3])

    def test_the_pack_can_be_sharded(self):
        packed = shardwright.pad_documents(
            [1, 1, 2, 2, 2], [10, 11, 20, 21, 22], [0, 2, 5], factor=4)
        layout = shardwright.Layout(LAYOUT)
        want = {
            0: ([1, 0, 2, 0], [10, -100, 20, -100], [0, 3, 0, 3]),
            1: ([1, 0, 2, 2], [11, -100, 21, 22], [1, 2, 1, 2]),
        }
        for rank, expected in want.items():
            plan = layout.shard_plan(
                rank, seq_length=8, micro_batch=1,
                cu_seqlens_padded=packed.cu_seqlens_padded.tolist())
            for whole, local in zip(
                    (packed.input_ids, packed.labels, packed.position_ids),
                    expected):
                self.assertEqual(
                    plan.shard_labels(whole[None])[0].tolist(), local)

    def test_published_lengths(self):
        for lengths, factor, want in (
            ([3, 2, 4], 8, [0, 8, 16, 24]),
            ([2, 7, 4, 10], 6, [0, 6, 18, 24, 36]),
            ([7, 11, 5], 4, [0, 8, 20, 28]),
            ([4, 0, 3], 4, [0, 4, 4, 8]),
        ):
            cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
            tokens = np.arange(cu_seqlens[-1])
            packed = shardwright.pad_documents(
                tokens, tokens, cu_seqlens, factor)
            self.assertEqual(packed.cu_seqlens_padded.tolist(), want)

    def test_refuses_sizes_that_do_not_fit(self):
        for ids, labels, cu_seqlens, factor in (
            ([1, 2], [1, 2], [0, 3], 4),
            ([1, 2], [1], [0, 2], 4),
            ([1, 2], [1, 2], [1, 2], 4),
            ([1, 2], [1, 2], [0, 3, 2], 4),
            ([1, 2], [1, 2], [0, 2], 0),
        ):
            with self.assertRaises(ValueError):
                shardwright.pad_documents(ids, labels, cu_seqlens, factor)


if __name__ == "__main__":
    unittest.main()

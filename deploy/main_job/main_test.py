"""put_together() accepts right shards, and no others."""

import unittest

import numpy as np

import main
import micro_batch

RANKS = (4, 5, 6, 7)
SOURCES = ["text", "images"]


def shards_of(batch):
    """Right shards by an obvious rule: rank 4 + k owns the k-th quarter of the
    positions; labels go by pairs of ranks."""
    ids = batch.input_ids
    samples, length = ids.shape
    is_image = ids == micro_batch.IMAGE_ID
    source_row = np.where(is_image,
                          is_image.ravel().cumsum().reshape(ids.shape) - 1,
                          (~is_image).ravel().cumsum().reshape(ids.shape) - 1)
    shards = []
    for k, rank in enumerate(RANKS):
        first, count = k * length // 4, length // 4
        entries = [(int(is_image[b, s]), source_row[b, s],
                    (s - first) * samples + b, 1, 1)
                   for s in range(first, first + count)
                   for b in range(samples)]
        rows = np.stack([batch.sources[SOURCES[source]][row]
                         for source, row, _, _, _ in entries])
        half = slice(k // 2 * length // 2, (k // 2 + 1) * length // 2)
        shards.append(main.Shard(
            rank=rank, facts={"sources": SOURCES}, rows=rows,
            entries=np.array(entries), runs=np.array([(first, count)]),
            labels=batch.labels[:, half].copy(),
            loss_mask=batch.loss_mask[:, half].copy(),
            label_runs=np.array([(half.start, length // 2)])))
    return shards


class PutTogetherTest(unittest.TestCase):

    def setUp(self):
        self.batch = micro_batch.dense()
        self.shards = shards_of(self.batch)

    def test_right_shards_give_the_photographs(self):
        for batch in micro_batch.all_micro_batches():
            held = main.put_together(batch, shards_of(batch))
            main.compare_pixels(batch, held)
            self.assertEqual(set(held.owners), set(held.token_owners.ravel()))

    def test_one_wrong_byte_is_found(self):
        self.shards[2].rows[17, 300] ^= 1
        with self.assertRaisesRegex(main.BytesDiffer, "1 values differ"):
            main.put_together(self.batch, self.shards)

    def test_a_row_with_two_owners_is_found(self):
        self.shards.append(self.shards[0])
        with self.assertRaisesRegex(main.BytesDiffer, "owned twice"):
            main.put_together(self.batch, self.shards)

    def test_a_row_with_no_owner_is_found(self):
        self.shards[3].entries = self.shards[3].entries[:-1]
        with self.assertRaises(main.BytesDiffer):
            main.put_together(self.batch, self.shards)

    def test_one_wrong_label_is_found(self):
        self.shards[1].labels[0, 0] += 1
        with self.assertRaisesRegex(main.BytesDiffer, "labels of rank 5"):
            main.put_together(self.batch, self.shards)

    def test_a_missing_label_shard_is_found(self):
        shards = self.shards
        shards[3].labels = shards[3].labels[:, :8]
        shards[3].loss_mask = shards[3].loss_mask[:, :8]
        shards[3].label_runs = np.array([(self.batch.labels.shape[1] // 2, 8)])
        with self.assertRaisesRegex(main.BytesDiffer, "label owners"):
            main.put_together(self.batch, shards)


if __name__ == "__main__":
    unittest.main()

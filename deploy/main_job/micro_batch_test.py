"""The micro-batches are what the main job says they are."""

import unittest

import numpy as np

import micro_batch


class MicroBatchTest(unittest.TestCase):

    def setUp(self):
        self.all = micro_batch.all_micro_batches()

    def test_photographs_come_back_from_their_rows(self):
        for batch in self.all:
            for photograph in batch.photographs:
                first = photograph.first_row
                rows = batch.sources["images"][first:first +
                                               photograph.row_count]
                np.testing.assert_array_equal(
                    micro_batch.from_patches(rows, photograph.grid),
                    photograph.pixels)

    def test_every_row_has_its_token(self):
        for batch in self.all:
            images = batch.input_ids == micro_batch.IMAGE_ID
            self.assertEqual(images.sum(), len(batch.sources["images"]))
            self.assertEqual((~images).sum(), len(batch.sources["text"]))

    def test_lanes_of_the_encoder_have_whole_photographs(self):
        for batch in self.all:
            self.assertEqual(len(batch.lane_rows), micro_batch.ENCODER_LANES)
            for lane, count in enumerate(batch.lane_rows):
                self.assertEqual(len(batch.images(lane)), count)

    def test_text_rows_tell_the_bytes_apart(self):
        rows = micro_batch.embed(np.arange(256))
        self.assertEqual(len(np.unique(rows, axis=0)), 256)

    def test_lengths_are_padded_as_the_layout_needs(self):
        dense, packed = self.all
        self.assertEqual(dense.batch["seq_length"] % 8, 0)
        (starts,) = packed.batch["cu_seqlens_padded"]
        self.assertEqual([start % 4 for start in starts], [0] * len(starts))
        self.assertEqual(starts[-1], packed.batch["seq_length"])

    def test_only_text_that_follows_is_predicted(self):
        for batch in self.all:
            predicted = batch.labels != micro_batch.IGNORE_LABEL
            np.testing.assert_array_equal(predicted, batch.loss_mask == 1)
            b, s = np.nonzero(predicted)
            np.testing.assert_array_equal(batch.labels[b, s],
                                          batch.input_ids[b, s + 1])


if __name__ == "__main__":
    unittest.main()

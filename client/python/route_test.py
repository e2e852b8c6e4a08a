"""Routes: what each rank sends and receives, as the shard plan wants it."""

import unittest

import shardwright

_IMAGE = 501
_LAYOUT = """
name: vlm-6
world_size: 6
modules:
- {name: images, role: ENCODER, first_rank: 0, rank_count: 2}
- {name: language, role: LANGUAGE, first_rank: 2, rank_count: 4,
   parallelism: {tp: 2, cp: 2, sequence_parallel: true}}
edges:
- {from: images, to: language}
"""
_BATCH = {
    "micro_batch_size": 2,
    "seq_length": 8,
    "special_token_ids": {"images": _IMAGE},
    "samples": [
        [7, _IMAGE, _IMAGE, 8, 9, 9, 9, 9],
        [9, 8, 7, 7, _IMAGE, 7, 7, 7],
    ],
}


class RouteTest(unittest.TestCase):

    def setUp(self):
        self.layout = shardwright.Layout(_LAYOUT)
        self.routes = [self.layout.route_plan(r, _BATCH) for r in range(6)]

    def test_roles_and_sources_say_what_a_rank_brings(self):
        self.assertEqual(
            [route.role for route in self.routes],
            ["sends"] * 2 + ["receives"] * 4,
        )
        self.assertEqual([r.sources for r in self.routes[:2]],
                         [{"images": 2}, {"images": 1}])
        for route in self.routes[2:]:
            self.assertEqual(route.sources, {"text": 13})
            self.assertEqual(route.shard_rows, 4)
            self.assertEqual(route.shard_shape((3,)), (2, 2, 3))

    def test_digest_is_that_of_the_composed_plan(self):
        plan = self.layout.compose_plan(2, _BATCH)
        self.assertEqual({r.digest for r in self.routes}, {plan.digest})

    def test_each_rank_receives_the_image_rows_that_it_owns(self):
        for rank in range(2, 6):
            plan = self.layout.compose_plan(rank, _BATCH)
            images = list(plan.sources).index("images")
            owned = sorted(
                row
                for e in plan.embeddings.entries
                if e.source == images
                for row in range(e.source_row, e.source_row + e.row_count)
            )
            received = sorted(
                # Lane 1 of the encoder begins behind the two rows of lane 0.
                2 * transfer.source_rank + row
                for transfer in self.routes[rank].transfers
                for run in transfer.rows
                for row in range(run.position, run.position + run.count)
            )
            self.assertEqual(received, owned)
            self.assertEqual(self.routes[rank].received_rows, len(owned))
            self.assertEqual(self.routes[rank].received,
                             {"images": len(owned)})

    def test_both_ends_tell_of_the_same_transfers(self):
        sent = {t for r in self.routes[:2] for t in r.transfers}
        self.assertEqual(
            sent, {t for r in self.routes[2:] for t in r.transfers})
        self.assertEqual(sum(r.sent_rows for r in self.routes), 3)
        for transfer in sent:
            self.assertEqual(transfer.returned, (0, transfer.row_count))

    def test_json_leaves_rows_out_unless_asked(self):
        (transfer,) = self.routes[1].to_json()["transfers"]
        self.assertNotIn("rows", transfer)
        (transfer,) = self.routes[1].to_json(rows=True)["transfers"]
        self.assertEqual(transfer["rows"], [[0, 1]])

    def test_ranks_that_take_no_part_have_nothing(self):
        text = _LAYOUT.replace("world_size: 6", "world_size: 10").replace(
            "rank_count: 4", "rank_count: 8").replace(
            "{tp: 2,", "{tp: 2, pp: 2,")
        route = shardwright.Layout(text).route_plan(6, _BATCH)
        self.assertEqual(route.coordinates.pp, 1)
        self.assertIsNone(route.role)
        self.assertEqual((route.sources, route.transfers), ({}, ()))

    def test_what_is_wrong_with_a_batch_is_told(self):
        batch = {**_BATCH, "counts": {"images": 4}}
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            self.layout.route_plan(0, batch)
        self.assertEqual(caught.exception.reason, "INVALID_BATCH")
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            self.layout.route_plan(6, _BATCH)
        self.assertEqual(caught.exception.reason, "RANK_NOT_FOUND")


if __name__ == "__main__":
    unittest.main()

"""Layouts read from text: who a rank is, and what is refused."""

import unittest

import shardwright

_VLM = """
name: vlm-8
world_size: 8
modules:
- {name: images, role: ENCODER, first_rank: 0, rank_count: 4,
   parallelism: {tp: 2}}
- {name: language, role: LANGUAGE, first_rank: 4, rank_count: 4,
   parallelism: {tp: 2, cp: 2, sequence_parallel: true}}
edges:
- {from: images, to: language}
"""


class LayoutTest(unittest.TestCase):
    def setUp(self):
        self.layout = shardwright.Layout(_VLM)

    def test_rank_knows_its_place_and_its_groups(self):
        rank = self.layout.rank(7)
        self.assertEqual(rank.job, "vlm-8")
        self.assertEqual(rank.module, "language")
        self.assertEqual(rank.role, "language")
        self.assertEqual((rank.coordinates.tp, rank.coordinates.cp), (1, 1))
        self.assertEqual(rank.parallelism["tp"], 2)
        self.assertTrue(rank.parallelism["sequence_parallel"])
        self.assertEqual(rank.groups["tp"].ranks, (6, 7))
        self.assertEqual(rank.groups["tp"].position, 1)
        self.assertEqual(rank.groups["cp"].ranks, (5, 7))
        self.assertEqual(rank.groups["tp_cp"].name, "language/tp_cp/0")

    def test_encoder_rank_has_no_embedding_groups(self):
        rank = self.layout.rank(2)
        self.assertEqual((rank.module, rank.role), ("images", "encoder"))
        self.assertNotIn("embd", rank.groups)

    def test_groups_are_those_of_the_command_line(self):
        groups = self.layout.groups()
        self.assertEqual(groups["language"]["tp"], [[4, 5], [6, 7]])
        self.assertEqual(groups["images"]["dp"], [[0, 2], [1, 3]])

    def test_unknown_rank_is_not_found(self):
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            self.layout.rank(8)
        self.assertEqual(caught.exception.code, shardwright.Code.NOT_FOUND)
        self.assertEqual(caught.exception.reason, "RANK_NOT_FOUND")

    def test_rank_that_is_no_int64_is_refused(self):
        for rank in (2**64 + 5, -(2**63) - 1, 5.0, "5", None):
            with self.subTest(rank):
                with self.assertRaises(shardwright.ShardwrightError) as caught:
                    self.layout.rank(rank)
                error = caught.exception
                self.assertEqual(error.code, shardwright.Code.INVALID_ARGUMENT)
                self.assertIn(f"rank is {rank!r}", error.message)

    def test_timeout_that_is_no_time_is_refused(self):
        for timeout in (float("inf"), float("nan"), 1e30, "1"):
            with self.subTest(timeout):
                with self.assertRaises(shardwright.ShardwrightError) as caught:
                    shardwright.connect("a:1", "j", retry_timeout=timeout)
                self.assertIn("retry_timeout", caught.exception.message)

    def test_bad_layout_gives_all_problems_with_their_lines(self):
        text = _VLM.replace("tp: 2}", "tp: 3}")
        text = text.replace("to: language", "to: sky")
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            shardwright.Layout(text, "bad.yaml")
        error = caught.exception
        self.assertEqual(error.reason, "INVALID_LAYOUT")
        self.assertIn("bad.yaml:", error.message)
        self.assertEqual(len(error.details["violations"]), 2)

    def test_missing_file_is_an_os_error(self):
        with self.assertRaises(OSError):
            shardwright.Layout.from_file("/nonexistent/layout.yaml")

    def test_coordinator_that_is_not_there_is_unreachable(self):
        job = shardwright.connect("127.0.0.1:1", "vlm-8", retry_timeout=0)
        with self.assertRaises(shardwright.ShardwrightError) as caught:
            job.rank(0)
        self.assertEqual(caught.exception.code, shardwright.Code.UNAVAILABLE)
        self.assertEqual(caught.exception.reason, "UNREACHABLE")
        self.assertIn("127.0.0.1:1", caught.exception.message)


if __name__ == "__main__":
    unittest.main()

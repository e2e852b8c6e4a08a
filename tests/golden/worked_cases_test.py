"""Cases worked out by hand, and what must be refused, through shardctl.

The golden file says that random answers agree with Megatron-Core; these say why
an answer is as it is, and that what Megatron-Core gets wrong in silence is an
error here.
"""

import json
import unittest

from tests.integration import processes


def module(name, role, first_rank, rank_count, **parallelism):
  return {
      "name": name,
      "role": role,
      "first_rank": first_rank,
      "rank_count": rank_count,
      "parallelism": parallelism
  }


def layout_of(*modules):
  return {
      "name": "worked",
      "world_size": sum(m["rank_count"] for m in modules),
      "modules": list(modules)
  }


def language(rank_count, first_rank=0, **parallelism):
  """A layout of a language module, with an encoder below its first rank."""
  modules = [
      module("language", "LANGUAGE", first_rank, rank_count, **parallelism)
  ]
  if first_rank > 0:
    modules.insert(0, module("images", "ENCODER", 0, first_rank))
  return layout_of(*modules)


def ask(layout, *arguments):
  path = processes.temporary_directory() / "layout.json"
  path.write_text(json.dumps(layout))
  return processes.shardctl(*arguments, "--layout", path, "-o", "json")


def groups(layout):
  return ask(layout, "layout", "groups").json["modules"][-1]["groups"]


def plan_shard(layout, seq_length, *arguments):
  return ask(layout, "plan", "shard", "--module", "language", "--seq-length",
             seq_length, "--rows", *arguments)


def plan_thd(layout, cu_seqlens_padded, seq_length=None):
  return plan_shard(
      layout, cu_seqlens_padded[-1] if seq_length is None else seq_length,
      "--cu-seqlens-padded", ",".join(map(str, cu_seqlens_padded)))


def compose(layout, batch, *arguments):
  path = processes.temporary_directory() / "batch.json"
  path.write_text(json.dumps(batch))
  return ask(layout, "plan", "compose", "--batch", path, *arguments)


def singletons(ranks):
  return [[rank] for rank in ranks]


class GroupsTest(unittest.TestCase):

  def check(self, layout, expected):
    actual = groups(layout)
    self.assertEqual({kind: actual[kind] for kind in expected}, expected)

  def test_data_context_and_tensor_parallel(self):
    self.check(
        language(8, tp=2, cp=2), {
            "tp": [[0, 1], [2, 3], [4, 5], [6, 7]],
            "cp": [[0, 2], [1, 3], [4, 6], [5, 7]],
            "dp": [[0, 4], [1, 5], [2, 6], [3, 7]],
            "dp_cp": [[0, 2, 4, 6], [1, 3, 5, 7]],
            "tp_cp": [[0, 1, 2, 3], [4, 5, 6, 7]],
            "mp": [[0, 1], [2, 3], [4, 5], [6, 7]],
            "tp_dp": [[0, 1, 4, 5], [2, 3, 6, 7]],
            "tp_dp_cp": [list(range(8))],
            "pp": singletons(range(8)),
        })

  def test_pipeline_is_the_slowest_dimension(self):
    self.check(
        language(16, tp=2, cp=2, pp=2), {
            "pp": [[i, i + 8] for i in range(8)],
            "dp": [[0, 4], [1, 5], [2, 6], [3, 7], [8, 12], [9, 13], [10, 14],
                   [11, 15]],
            "cp": [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14],
                   [13, 15]],
            "tp_dp_cp": [list(range(8)), list(range(8, 16))],
        })
    self.check(
        language(8, tp=2, pp=2), {
            "dp": [[0, 2], [1, 3], [4, 6], [5, 7]],
            "pp": [[0, 4], [1, 5], [2, 6], [3, 7]],
            "mp": [[0, 1, 4, 5], [2, 3, 6, 7]],
        })

  def test_expert_view_at_an_offset(self):
    self.check(
        language(4, first_rank=4, tp=2, ep=4), {
            "tp": [[4, 5], [6, 7]],
            "dp": [[4, 6], [5, 7]],
            "tp_dp": [[4, 5, 6, 7]],
            "ep": [[4, 5, 6, 7]],
            "expert_dp": singletons(range(4, 8)),
            "tp_ep_pp": [[4, 5, 6, 7]],
        })
    self.check(
        language(4, first_rank=4, tp=2, pp=2), {
            "tp": [[4, 5], [6, 7]],
            "pp": [[4, 6], [5, 7]],
            "mp": [[4, 5, 6, 7]],
            "expert_dp": [[4, 5], [6, 7]],
            "tp_ep_pp": [[4, 6], [5, 7]],
            "embd": [[4, 6], [5, 7]],
            "pos_embd": [[4], [5]],
        })
    self.check(
        language(16, tp=2, pp=2, ep=4), {
            "ep": [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11],
                   [12, 13, 14, 15]],
            "expert_dp": [[0, 4], [1, 5], [2, 6], [3, 7], [8, 12], [9, 13],
                          [10, 14], [11, 15]],
            "tp_ep_pp": [[0, 1, 2, 3, 8, 9, 10, 11],
                         [4, 5, 6, 7, 12, 13, 14, 15]],
        })

  def test_rematerialised_weight_shards(self):
    self.check(
        language(4, first_rank=4, tp=2, gtp_remat=2, ep=2, expert_gtp_remat=2),
        {
            "gtp_remat": [[4, 6], [5, 7]],
            "dp": singletons(range(4, 8)),
            "gtp_remat_dp_cp": [[4, 6], [5, 7]],
            "mp": [[4, 5, 6, 7]],
            "ep": [[4, 5], [6, 7]],
            "expert_gtp_remat": [[4, 6], [5, 7]],
            "tp_ep_gtp_remat_pp": [[4, 5, 6, 7]],
        })

  def test_encoders_share_no_embeddings(self):
    path = processes.temporary_directory() / "layout.json"
    path.write_text(json.dumps(language(4, first_rank=4)))
    encoder = processes.shardctl("layout", "groups", "--layout", path, "-o",
                                 "json").json["modules"][0]["groups"]
    self.assertNotIn("embd", encoder)
    self.assertNotIn("pos_embd", encoder)
    self.assertIn("tp", encoder)


class DenseTest(unittest.TestCase):

  def test_rank_r_owns_chunk_r_and_its_mirror(self):
    ranks = plan_shard(language(2, cp=2), 8).json["ranks"]
    self.assertEqual([rank["embedding_positions"] for rank in ranks],
                     [[0, 1, 6, 7], [2, 3, 4, 5]])
    ranks = plan_shard(language(4, cp=4), 16).json["ranks"]
    self.assertEqual([rank["embedding_positions"] for rank in ranks],
                     [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11],
                      [6, 7, 8, 9]])
    for r, rank in enumerate(plan_shard(language(8, cp=8), 64).json["ranks"]):
      self.assertEqual(rank["embedding_runs"], [[4 * r, 4], [60 - 4 * r, 4]] if
                       r < 7 else [[28, 8]])

  def sum_of(self, rank):
    """Of an embedding whose element [s, b, h] is 1000 s + h + b; B 2, H 16."""
    return sum(1000 * s + h + b
               for s in rank["embedding_positions"]
               for b in range(2)
               for h in range(16))

  def test_sequence_parallel_slices_what_context_parallel_leaves(self):
    layout = language(4, tp=2, cp=2, sequence_parallel=True)
    ranks = plan_shard(layout, 64, "--micro-batch", 2).json["ranks"]
    self.assertEqual(
        [(rank["cp"], rank["tp"], rank["embedding_positions"][0],
          rank["embedding_positions"][-1], self.sum_of(rank))
         for rank in ranks], [(0, 0, 0, 15, 3844096), (0, 1, 48, 63, 28420096),
                              (1, 0, 16, 31, 12036096),
                              (1, 1, 32, 47, 20228096)])
    for rank in ranks:
      self.assertEqual(sum(rank["label_positions"]), 1008)
      self.assertTrue(rank["view"])
      self.assertEqual(rank["embedding_shape"], [16, 2, None])

  def test_context_parallel_alone_balances(self):
    for rank in plan_shard(language(8, cp=8), 64).json["ranks"]:
      self.assertEqual(self.sum_of(rank), 8066048)
      self.assertEqual(sum(rank["label_positions"]), 252)

  def test_sequence_parallel_alone_slices(self):
    layout = language(8, tp=8, sequence_parallel=True)
    for t, rank in enumerate(plan_shard(layout, 64).json["ranks"]):
      self.assertEqual(self.sum_of(rank), 898048 + 2048000 * t)
      self.assertEqual(rank["label_runs"], [[0, 64]])

  def test_later_stages_have_labels_and_no_embeddings(self):
    layout = language(4, cp=2, pp=2)
    first, _, later, _ = plan_shard(layout, 8).json["ranks"]
    self.assertEqual(later["pp"], 1)
    for key in ("embedding_shape", "embedding_runs", "embedding_positions"):
      self.assertIsNone(later[key])
    self.assertFalse(later["view"])
    self.assertEqual(later["label_positions"], first["label_positions"])


class ThdTest(unittest.TestCase):

  def check(self, cu_seqlens_padded, positions, **sizes):
    count = sizes.get("tp", 1) * sizes["cp"]
    ranks = plan_thd(language(count, **sizes), cu_seqlens_padded).json["ranks"]
    self.assertEqual([rank["embedding_positions"] for rank in ranks],
                     positions)

  def test_each_document_is_balanced_by_itself(self):
    self.check([0, 8, 24], [[0, 1, 6, 7, 8, 9, 10, 11, 20, 21, 22, 23],
                            [2, 3, 4, 5, 12, 13, 14, 15, 16, 17, 18, 19]],
               cp=2)
    self.check([0, 4, 12, 24],
               [[0, 3, 4, 5, 10, 11, 12, 13, 14, 21, 22, 23],
                [1, 2, 6, 7, 8, 9, 15, 16, 17, 18, 19, 20]],
               cp=2)
    self.check([0, 8, 24, 40],
               [[0, 7, 8, 9, 22, 23, 24, 25, 38, 39],
                [1, 6, 10, 11, 20, 21, 26, 27, 36, 37],
                [2, 5, 12, 13, 18, 19, 28, 29, 34, 35],
                [3, 4, 14, 15, 16, 17, 30, 31, 32, 33]],
               cp=4)

  def test_sequence_parallel_slices_the_local_pack(self):
    self.check([0, 8, 24], [[0, 1, 6, 7, 8, 9], [10, 11, 20, 21, 22, 23],
                            [2, 3, 4, 5, 12, 13], [14, 15, 16, 17, 18, 19]],
               cp=2,
               tp=2,
               sequence_parallel=True)

  def test_empty_documents_are_passed_over(self):
    self.check([0, 4, 4, 12], [[0, 3, 4, 5, 10, 11], [1, 2, 6, 7, 8, 9]], cp=2)

  def test_short_and_long_documents_side_by_side(self):
    ranks = plan_thd(language(8, cp=8), [0, 16, 16, 48]).json["ranks"]
    self.assertEqual(ranks[0]["embedding_positions"], [0, 15, 16, 17, 46, 47])
    self.assertEqual(ranks[7]["embedding_positions"], [7, 8, 30, 31, 32, 33])


class ComposeTest(unittest.TestCase):
  """Alignment, context and sequence parallel in one step: S 16, B 2."""

  IMAGE = 501

  def batch(self, **fields):
    samples = [[7] * 16, [7] * 16]
    samples[0][2:6] = [self.IMAGE] * 4
    samples[1][4:10] = [self.IMAGE] * 6
    return {
        "micro_batch_size": 2,
        "seq_length": 16,
        "special_token_ids": {"images": self.IMAGE},
        "samples": [{"input_ids": ids} for ids in samples],
        **fields
    }

  layout = layout_of(
      module("images", "ENCODER", 0, 1),
      module(
          "language", "LANGUAGE", 1, 4, tp=2, cp=2, sequence_parallel=True))

  def test_each_rank_gets_its_rows_straight_from_the_sources(self):
    expected = {
        (0, 0): ("T0 T1 V0 V1", "T12 T13 T14 T15"),
        (0, 1): ("T8 T9 T10 T11", "T18 T19 T20 T21"),
        (1, 0): ("V2 V3 T2 T3", "V4 V5 V6 V7"),
        (1, 1): ("T4 T5 T6 T7", "V8 V9 T16 T17"),
    }
    labels = {0: [[0, 4], [12, 4]], 1: [[4, 8]]}
    letter = {"text": "T", "images": "V"}
    for rank in compose(self.layout, self.batch()).json["ranks"]:
      samples = [
          " ".join(letter[row[b][0]] + str(row[b][1])
                   for row in rank["rows"])
          for b in range(2)
      ]
      self.assertEqual(tuple(samples), expected[rank["cp"], rank["tp"]])
      self.assertEqual(rank["label_runs"], labels[rank["cp"]])

  def refused(self, batch, *words):
    answer = compose(self.layout, batch)
    self.assertEqual(answer.exit_code, 5, answer)
    for word in words:
      self.assertIn(word, answer.err)
    self.assertRegex(answer.err, r"batch\.json:1: ")

  def test_counts_that_do_not_match_name_both_numbers(self):
    self.refused(self.batch(counts={"images": 9}), "images", "9", "10")
    compose(self.layout, self.batch(counts={"images": 10})).json

  def test_special_ids_must_differ(self):
    self.refused(
        self.batch(special_token_ids={
            "images": self.IMAGE,
            "audio": self.IMAGE
        }), "images", "audio", str(self.IMAGE))

  def test_samples_must_have_the_sequence_length(self):
    batch = self.batch()
    batch["samples"][1]["input_ids"].pop()
    self.refused(batch, "samples[1]", "15", "16")

  def test_an_encoder_rank_has_no_plan(self):
    self.assertEqual(
        compose(self.layout, self.batch(), "--rank", 0).exit_code, 4)


class RefusalTest(unittest.TestCase):

  def refused(self, answer, *words):
    self.assertEqual(answer.exit_code, 5, answer)
    self.assertEqual(answer.out, "")
    self.assertTrue(answer.err.startswith("error: "), answer.err)
    for word in words:
      self.assertIn(word, answer.err)

  def test_dense_lengths(self):
    self.refused(plan_shard(language(2, cp=2), 6), "6", "8")
    plan_shard(language(2, cp=2), 8).json
    wide = language(8, tp=4, cp=2, sequence_parallel=True)
    self.refused(plan_shard(wide, 24), "24", "2*cp*tp", "16", "32", "+8")
    ranks = plan_shard(wide, 32).json["ranks"]
    self.assertEqual(ranks[0]["embedding_shape"], [4, 1, None])
    narrow = language(3, tp=3, sequence_parallel=True)
    ranks = plan_shard(narrow, 9).json["ranks"]
    self.assertEqual(ranks[0]["embedding_shape"], [3, 1, None])
    self.refused(plan_shard(narrow, 10), "10", "tp", "3")

  def test_lengths_are_checked_on_later_stages_too(self):
    layout = language(4, cp=2, pp=2)
    self.refused(plan_shard(layout, 6, "--rank", 2), "6", "8")

  def test_thd_local_tokens_must_divide_by_tp(self):
    layout = language(8, tp=4, cp=2, sequence_parallel=True)
    self.refused(plan_thd(layout, [0, 12]), "S/cp=6", "tp = 4")

  def test_thd_boundaries_name_the_sequence(self):
    self.refused(
        plan_thd(language(2, cp=2), [0, 6, 16]), "6", "2*cp",
        "cu_seqlens_padded[1]")

  def test_thd_total_must_be_the_sequence_length(self):
    self.refused(plan_thd(language(2, cp=2), [0, 8], 16), "8", "16")

  def test_thd_must_start_at_zero_and_not_fall(self):
    self.refused(plan_thd(language(2, cp=2), [4, 8]), "4")
    self.refused(plan_thd(language(2, cp=2), [0, 16, 8, 24]), "16", "8")

  def test_thd_has_one_sample(self):
    self.refused(
        plan_shard(
            language(2, cp=2), 8, "--micro-batch", 2, "--cu-seqlens-padded",
            "0,8"), "2", "1")

  def test_encoders_own_no_sequence(self):
    layout = language(2, first_rank=2)
    answer = ask(layout, "plan", "shard", "--module", "images", "--seq-length",
                 8)
    self.refused(answer, "encoder")

  def test_unknown_modules_and_ranks_are_not_found(self):
    layout = language(2, first_rank=2)
    answer = ask(layout, "plan", "shard", "--module", "langage",
                 "--seq-length", 8)
    self.assertEqual(answer.exit_code, 4, answer)
    self.assertIn("language", answer.err)
    for rank in (0, 4, -1):
      answer = plan_shard(layout, 8, "--rank", rank)
      self.assertEqual(answer.exit_code, 4, answer)

  def test_data_parallel_sizes_need_not_divide_one_another(self):
    layout = layout_of(
        module("images", "ENCODER", 0, 3),
        module("language", "LANGUAGE", 3, 4, tp=2))
    self.assertEqual(ask(layout, "layout", "groups").exit_code, 0)


if __name__ == "__main__":
  unittest.main()

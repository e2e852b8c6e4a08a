"""Routes worked out by hand, through shardctl: who sends which rows to whom.

The first cases are those that Megatron-Core's bridge knows, with their lanes
and ranks; then come those that it refuses.
"""

import json
import unittest

from tests.integration import processes

IMAGE = 501


def layout_of(images, language):
  """Encoder ranks first. `images` and `language`: (rank_count, sizes)."""
  modules = []
  first = 0
  for name, role, (count, sizes) in (("images", "ENCODER", images),
                                     ("language", "LANGUAGE", language)):
    modules.append({
        "name": name,
        "role": role,
        "first_rank": first,
        "rank_count": count,
        "parallelism": sizes
    })
    first += count
  return {
      "name": "routes",
      "world_size": first,
      "modules": modules,
      "edges": [{"from": "images", "to": "language"}]
  }


def batch_of(images, micro_batch_size=1, seq_length=16, **fields):
  """A sample for each number in `images`: so many image tokens, then text."""
  return {
      "micro_batch_size": micro_batch_size,
      "seq_length": seq_length,
      "special_token_ids": {"images": IMAGE},
      "samples": [{
          "input_ids": [IMAGE] * count + [7] * (seq_length - count)
      } for count in images],
      **fields
  }


def ask(layout, batch, *arguments):
  directory = processes.temporary_directory()
  (directory / "layout.json").write_text(json.dumps(layout))
  (directory / "batch.json").write_text(json.dumps(batch))
  return processes.shardctl("plan", "route", "--layout",
                            directory / "layout.json", "--batch",
                            directory / "batch.json", "-o", "json", *arguments)


def routes(layout, batch):
  """{(source rank, destination rank): rows}."""
  answer = ask(layout, batch, "--rows").json
  links = {(t["source_rank"], t["destination_rank"]): t["rows"]
           for t in answer["transfers"]}
  assert len(links) == len(answer["transfers"]), "a pair is named twice"
  return links


class MegatronsRoutesTest(unittest.TestCase):
  """Here all ranks of a lane's stage take part, not only its leader."""

  def check(self, images, language, samples, links, micro_batch_size=1):
    layout = layout_of(images, language)
    batch = batch_of([4] * samples, micro_batch_size)
    self.assertEqual(sorted(routes(layout, batch)), sorted(links))

  def test_more_encoder_lanes_than_language_lanes(self):
    self.check((4, {}), (4, {"tp": 2}), 4,
               [(0, 4), (0, 5), (1, 4), (1, 5), (2, 6), (2, 7), (3, 6), (3, 7)],
               micro_batch_size=2)

  def test_as_many(self):
    self.check((4, {"tp": 2}), (4, {"tp": 2}), 2,
               [(0, 4), (0, 5), (1, 4), (1, 5), (2, 6), (2, 7), (3, 6), (3, 7)])

  def test_fewer(self):
    self.check((4, {"tp": 4}), (4, {}), 4,
               [(0, 4), (1, 5), (2, 6), (3, 7)])

  def test_pipeline_stages(self):
    self.check((4, {"tp": 2}), (4, {"tp": 2, "pp": 2}), 2,
               [(s, d) for s in range(4) for d in (4, 5)], micro_batch_size=2)
    sizes = {"tp": 2, "pp": 2}
    self.check((8, sizes), (8, sizes), 2,
               [(4, 8), (4, 9), (5, 8), (5, 9),
                (6, 10), (6, 11), (7, 10), (7, 11)])

  def test_rematerialised_weight_shards_are_lanes(self):
    self.check((4, {"tp": 2}), (4, {"tp": 2, "gtp_remat": 2}), 2,
               [(0, 4), (0, 5), (1, 4), (1, 5), (2, 6), (2, 7), (3, 6), (3, 7)])
    self.check((2, {}), (4, {"gtp_remat": 2}), 4,
               [(0, 2), (0, 3), (1, 4), (1, 5)])

  def test_other_order_of_dimensions(self):
    sizes = {"tp": 2, "pp": 2, "order": "tp-gtp_remat-cp-pp-dp"}
    self.check((8, sizes), (8, sizes), 2,
               [(2, 8), (2, 9), (3, 8), (3, 9),
                (6, 12), (6, 13), (7, 12), (7, 13)])

  def test_samples_need_not_have_equal_counts(self):
    layout = layout_of((1, {}), (2, {}))
    links = routes(layout, batch_of([1, 2, 3, 6], micro_batch_size=2))
    self.assertEqual(links, {(0, 1): [[0, 3]], (0, 2): [[3, 9]]})
    links = routes(layout, batch_of([0, 3, 1, 2], micro_batch_size=2))
    self.assertEqual(links, {(0, 1): [[0, 3]], (0, 2): [[3, 3]]})

  def test_ranks_of_a_lane_divide_its_rows(self):
    for tp, rows, parts in ((4, 10, [3, 3, 2, 2]), (2, 7, [4, 3]),
                            (4, 3, [1, 1, 1])):
      links = routes(layout_of((tp, {"tp": tp}), (1, {})), batch_of([rows]))
      self.assertEqual([count for [[_, count]] in links.values()], parts)


class BeyondMegatronTest(unittest.TestCase):

  def test_lanes_that_do_not_divide_one_another(self):
    links = routes(layout_of((3, {}), (2, {})), batch_of([2] * 6, 3))
    self.assertEqual(links, {(0, 3): [[0, 4]], (1, 3): [[0, 2]],
                             (1, 4): [[2, 2]], (2, 4): [[0, 4]]})

  def test_more_encoder_lanes_than_samples(self):
    links = routes(layout_of((4, {}), (2, {})), batch_of([2, 3]))
    self.assertEqual(links, {(0, 4): [[0, 2]], (1, 5): [[0, 3]]})

  def test_uneven_fan_in(self):
    links = routes(layout_of((2, {}), (1, {})), batch_of([1, 6], 2))
    self.assertEqual(links, {(0, 2): [[0, 1]], (1, 2): [[0, 6]]})

  def test_context_parallel_on_both_sides(self):
    links = routes(layout_of((2, {"cp": 2}), (2, {"cp": 2})), batch_of([16]))
    self.assertEqual(links, {(0, 2): [[0, 4]], (0, 3): [[4, 4]],
                             (1, 2): [[12, 4]], (1, 3): [[8, 4]]})

  def test_alignment_with_context_and_sequence_parallel(self):
    batch = batch_of([0, 0], micro_batch_size=2)
    batch["samples"][0]["input_ids"][2:6] = [IMAGE] * 4
    batch["samples"][1]["input_ids"][4:10] = [IMAGE] * 6
    sizes = {"tp": 2, "cp": 2, "sequence_parallel": True}
    layout = layout_of((1, {}), (4, sizes))
    self.assertEqual(routes(layout, batch), {(0, 1): [[0, 2]],
                                             (0, 3): [[2, 6]],
                                             (0, 4): [[8, 2]]})
    answer = ask(layout, batch, "--row-bytes", 100).json
    self.assertEqual(answer["total_rows"], 10)
    self.assertEqual(answer["rows_if_broadcast"], 40)
    self.assertEqual([t["bytes"] for t in answer["transfers"]],
                     [200, 600, 200])

  def test_packs(self):
    batch = batch_of([24], seq_length=24, cu_seqlens_padded=[[0, 8, 24]])
    links = routes(layout_of((1, {}), (2, {"cp": 2})), batch)
    self.assertEqual(links, {(0, 1): [[0, 2], [6, 6], [20, 4]],
                             (0, 2): [[2, 4], [12, 8]]})

  def test_lanes_that_share_a_sample(self):
    batch = batch_of([8], encoder_rows={"images": [2, 0, 6]})
    links = routes(layout_of((3, {}), (1, {})), batch)
    self.assertEqual(links, {(0, 3): [[0, 2]], (2, 3): [[0, 6]]})

  def test_text_alone_moves_nothing(self):
    layout = layout_of((2, {}), (2, {"tp": 2}))
    for batch in (batch_of([0]), batch_of([0], special_token_ids={})):
      answer = ask(layout, batch).json
      self.assertEqual(answer["transfers"], [])
      self.assertEqual(answer["total_rows"], 0)
      self.assertRegex(answer["digest"], "^[0-9a-f]{16}$")

  def test_without_an_edge_nothing_moves(self):
    layout = layout_of((1, {}), (1, {}))
    layout["edges"] = []
    self.assertEqual(ask(layout, batch_of([4])).json["transfers"], [])


class RefusalTest(unittest.TestCase):

  def refused(self, batch, *words):
    answer = ask(layout_of((2, {}), (1, {})), batch)
    self.assertEqual(answer.exit_code, 5, answer)
    self.assertEqual(answer.out, "")
    for word in words:
      self.assertIn(word, answer.err)

  def test_counts_that_differ_name_both_numbers(self):
    self.refused(batch_of([4], counts={"images": 5}), "counts.images", "5", "4")

  def test_encoder_rows_must_add_up_over_the_lanes(self):
    self.refused(batch_of([4], encoder_rows={"images": [1, 2]}),
                 "encoder_rows.images", "3", "4")
    self.refused(batch_of([4], encoder_rows={"images": [4]}),
                 "encoder_rows.images", "1 entries", "2 lanes")
    self.refused(batch_of([4], encoder_rows={"images": [-1, 5]}), "negative")

  def test_all_problems_come_at_once(self):
    self.refused(
        batch_of([4], counts={"images": 5}, encoder_rows={"images": [1, 2]}),
        "counts.images", "encoder_rows.images")


if __name__ == "__main__":
  unittest.main()

"""Is every bad layout refused, whole, at the right line, by file and by wire?

Each case is a layout.yaml with one thing or several wrong. `shardctl layout
validate` must name all of them; the coordinator must say the same in the same
words, and have applied nothing.
"""

import json
import re
import unittest

from tests.integration import processes

GOOD = """\
name: vlm-8
world_size: 8
modules:
- name: images
  role: ENCODER
  first_rank: 0
  rank_count: 4
  parallelism: {tp: 2}
- name: language
  role: LANGUAGE
  first_rank: 4
  rank_count: 4
  parallelism:
    tp: 2
    cp: 2
    sequence_parallel: true
edges:
- from: images
  to: language
"""

# Name: what to replace in GOOD by what, and for each problem its line, its
# field, and words that the sentence must have.
CASES = {
    "gap": ([("  first_rank: 4", "  first_rank: 5"),
             ("world_size: 8", "world_size: 9")],
            [(2, "world_size", ["rank 4"])]),
    "overlap": ([("  first_rank: 4", "  first_rank: 3"),
                 ("world_size: 8", "world_size: 7")],
                [(11, "modules[1]", ["3", "images"])]),
    "rank_count_does_not_divide": (
        [("  rank_count: 4\n  parallelism: {tp: 2}",
          "  rank_count: 4\n  parallelism: {tp: 3}")],
        [(None, "modules[0]", ["4", "tp*gtp_remat*cp*pp = 3"])]),
    "duplicate_rank": (
        [("  first_rank: 0\n  rank_count: 4", "  ranks: [0, 1, 2, 2]")],
        [(6, "modules[0].ranks", ["2"])]),
    "duplicate_name": ([("- name: language", "- name: images"),
                        ("  to: language", "  to: images")],
                       [(9, "modules[1].name", ["images"])]),
    "no_language_module": ([("  role: LANGUAGE", "  role: ENCODER")],
                           [(None, "modules", ["LANGUAGE", "0"])]),
    "two_language_modules": ([("  role: ENCODER", "  role: LANGUAGE")],
                             [(None, "modules", ["LANGUAGE", "2"])]),
    "unknown_field": ([("    sequence_parallel: true",
                        "    sequence_paralel: true")],
                      [(16, "modules[1].parallelism.sequence_paralel",
                        ["unknown", "'sequence_parallel'"])]),
    "repeated_key": ([("    cp: 2", "    tp: 2")],
                     [(15, "modules[1].parallelism.tp", ["twice", "14"])]),
    "edge_to_nowhere": ([("  to: language", "  to: langage")],
                        [(19, "edges[0].to", ["langage", "'language'"])]),
    "edge_to_itself": ([("  to: language", "  to: images")],
                       [(None, "edges[0]", ["images"])]),
    "zero_size": ([("    tp: 2\n", "    tp: 0\n")],
                  [(14, "modules[1].parallelism.tp", ["0"])]),
    "huge_size": ([("    tp: 2\n", "    tp: 9223372036854775807\n")],
                  [(14, "modules[1].parallelism.tp",
                    ["9223372036854775807"])]),
    "size_beyond_64_bits": ([("    tp: 2\n", "    tp: 18446744073709551616\n")],
                            [(14, "modules[1].parallelism.tp",
                              ["18446744073709551616"])]),
    "negative_size": ([("    cp: 2\n", "    cp: -2\n")],
                      [(15, "modules[1].parallelism.cp", ["-2"])]),
    "sizes_whose_product_overflows": (
        [("    tp: 2\n    cp: 2\n",
          "    tp: 4294967296\n    cp: 4294967296\n")],
        [(14, "modules[1].parallelism", ["4294967296"])]),
    "huge_world": ([("world_size: 8", "world_size: 9000000000000000000")],
                   [(2, "world_size", ["9000000000000000000", "16777216"])]),
    "zero_world": ([("world_size: 8", "world_size: 0")],
                   [(2, "world_size", ["0"])]),
    "wrong_type": ([("world_size: 8", "world_size: eight")],
                   [(2, "world_size", ["eight"])]),
    "unknown_role": ([("  role: ENCODER", "  role: ENCODR")],
                     [(5, "modules[0].role", ["ENCODR", "ENCODER"])]),
    "bad_name": ([("name: vlm-8", "name: VLM 8")],
                 [(1, "name", ["VLM 8"])]),
    "unknown_dimension_in_order": (
        [("    cp: 2\n", "    cp: 2\n    order: tp-cp-dp-qq\n")],
        [(16, "modules[1].parallelism.order", ["qq"])]),
    "several_at_once": (
        [("    cp: 2\n", "    cp: 0\n"), ("  to: language", "  to: nowhere"),
         ("name: vlm-8", "name: ''")],
        [(1, "name", []), (15, "modules[1].parallelism.cp", ["0"]),
         (19, "edges[0].to", ["nowhere"])]),
}

# What no layout can be read from: these never reach a coordinator.
UNREADABLE = {
    "empty": "",
    "only_a_comment": "# nothing\n",
    "binary": "\x00\x01\x02\x7fELF",
    "a_list": "- 1\n- 2\n",
    "a_word": "layout\n",
    "broken": "name: [\nworld_size: }\n",
}

LINE = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+): (?P<rest>.+)$", re.M)


def problems_of(text):
  """[(line, "field: description (hint)")] of an error text."""
  return [(int(m["line"]), m["rest"]) for m in LINE.finditer(text)]


class BadLayoutsTest(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.coordinator = processes.Coordinator()
    cls.addClassCleanup(cls.coordinator.kill)

  def write(self, text):
    path = processes.temporary_directory() / "layout.yaml"
    path.write_bytes(text.encode())
    return path

  def check(self, replacements, expected):
    text = GOOD
    for old, new in replacements:
      self.assertEqual(text.count(old), 1, old)
      text = text.replace(old, new)
    path = self.write(text)

    offline = processes.shardctl("layout", "validate", path)
    self.assertEqual(offline.exit_code, 5, offline)
    self.assertEqual(offline.out, "")
    problems = problems_of(offline.err)
    for line, field, words in expected:
      self.assertTrue(
          any((line is None or line == got) and rest.startswith(field) and all(
              word in rest for word in words) for got, rest in problems),
          f"line {line}, {field}, {words} not in\n{offline.err}")
    self.assertEqual(len(problems), len(set(problems)), offline.err)
    self.assertIn(f"{len(problems)} problem", offline.err)

    applied = self.coordinator.shardctl("apply", "-f", path)
    self.assertEqual(applied.exit_code, 5, applied)
    self.assertEqual(problems_of(applied.err), problems)
    self.assertEqual(self.layouts(), [])

  def layouts(self):
    return self.coordinator.shardctl("get", "layouts", "-o",
                                     "json").json["layouts"]

  def test_good_layout_is_good(self):
    path = self.write(GOOD)
    checked = processes.shardctl("layout", "validate", path)
    self.assertEqual(checked.exit_code, 0, checked)
    answer = self.coordinator.shardctl("apply", "-f", path, "--dry-run")
    self.assertEqual(answer.exit_code, 0, answer)
    self.assertEqual(self.layouts(), [])

  def test_problems_are_data_too(self):
    path = self.write(GOOD.replace("    cp: 2", "    cp: 0"))
    answer = processes.shardctl("layout", "validate", path, "-o", "json")
    self.assertEqual(answer.exit_code, 5)
    report = json.loads(answer.out)
    self.assertFalse(report["valid"])
    self.assertIsNone(report["digest"])
    self.assertEqual(report["problems"][0]["line"], 15)
    self.assertEqual(report["problems"][0]["field"],
                     "modules[1].parallelism.cp")
    self.assertTrue(report["problems"][0]["description"])

  def test_unreadable_files_say_so(self):
    for name, text in UNREADABLE.items():
      with self.subTest(name):
        path = self.write(text)
        for answer in (processes.shardctl("layout", "validate", path),
                       self.coordinator.shardctl("apply", "-f", path)):
          self.assertEqual(answer.exit_code, 5, answer)
          self.assertTrue(problems_of(answer.err), answer)
    self.assertEqual(self.layouts(), [])

  def test_files_that_are_not_there(self):
    directory = processes.temporary_directory()
    for path in (directory / "none.yaml", directory):
      answer = processes.shardctl("layout", "validate", path)
      self.assertEqual(answer.exit_code, 5, answer)
      self.assertIn(str(path), answer.err)


def add_cases():
  for name, (replacements, expected) in CASES.items():

    def test(self, replacements=replacements, expected=expected):
      self.check(replacements, expected)

    setattr(BadLayoutsTest, f"test_{name}", test)


add_cases()

if __name__ == "__main__":
  unittest.main()

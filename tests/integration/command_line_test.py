"""Is the command line what scripts rely on: exit codes, streams, same bytes?"""

import json
import socket
import unittest

from tests.integration import processes

LAYOUT = {
    "name": "vlm-8",
    "world_size": 8,
    "modules": [
        {"name": "images", "role": "ENCODER", "first_rank": 0, "rank_count": 4,
         "parallelism": {"tp": 2}},
        {"name": "language", "role": "LANGUAGE", "first_rank": 4,
         "rank_count": 4,
         "parallelism": {"tp": 2, "cp": 2, "sequence_parallel": True}},
    ],
    "edges": [{"from": "images", "to": "language"}],
}

BATCH = {
    "micro_batch_size": 2,
    "seq_length": 8,
    "special_token_ids": {"images": 501},
    "samples": [{"input_ids": [7, 501, 501, 8, 9, 9, 9, 9]},
                {"input_ids": [9, 8, 7, 7, 501, 7, 7, 7]}],
}

PLAN_SHARD = ["plan", "shard", "--module", "language", "--seq-length", "24"]


class CommandLineTest(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    directory = processes.temporary_directory()
    cls.layout = directory / "layout.json"
    cls.layout.write_text(json.dumps(LAYOUT))
    cls.batch = directory / "batch.json"
    cls.batch.write_text(json.dumps(BATCH))
    cls.coordinator = processes.Coordinator()
    cls.addClassCleanup(cls.coordinator.kill)
    cls.coordinator.apply(LAYOUT).json

  def online(self, *arguments, job="vlm-8", **options):
    return self.coordinator.shardctl(*arguments, "--job", job, **options)

  def offline(self, *arguments, **options):
    return processes.shardctl(*arguments, "--layout", self.layout, **options)

  def test_offline_and_online_give_the_same_bytes(self):
    for command in (
        ["layout", "groups"],
        PLAN_SHARD,
        PLAN_SHARD + ["--rows", "--micro-batch", "3"],
        PLAN_SHARD + ["--rank", "6"],
        PLAN_SHARD + ["--cu-seqlens-padded", "0,8,24", "--rows"],
        PLAN_SHARD +
        ["--cu-seqlens-padded", "0,8,24", "--cu-seqlens", "0,5,16"],
        ["plan", "compose", "--batch", self.batch],
        ["plan", "compose", "--batch", self.batch, "--rank", "5", "--rows"],
    ):
      for output in ("json", "table"):
        with self.subTest(command=command, output=output):
          offline = self.offline(*command, "-o", output)
          online = self.online(*command, "-o", output)
          self.assertEqual(offline.exit_code, 0, offline)
          self.assertEqual(online.out, offline.out)
          self.assertEqual(offline.err, "")

  def test_get_groups_is_layout_groups(self):
    self.assertEqual(
        self.online("get", "groups", "-o", "json").out,
        self.offline("layout", "groups", "-o", "json").out)

  def test_errors_are_the_same_offline_and_online(self):
    for command in (
        PLAN_SHARD + ["--rank", "3"],
        PLAN_SHARD + ["--rank", "99"],
        PLAN_SHARD + ["--cu-seqlens-padded", "0,6,24"],
        ["plan", "shard", "--module", "images", "--seq-length", "24"],
        ["plan", "shard", "--module", "none", "--seq-length", "24"],
        ["plan", "shard", "--module", "language", "--seq-length", "0"],
        ["plan", "shard", "--module", "language", "--seq-length", "-8"],
        ["plan", "shard", "--module", "language", "--seq-length",
         "9223372036854775807"],
    ):
      with self.subTest(command=command):
        offline = self.offline(*command)
        online = self.online(*command)
        self.assertIn(offline.exit_code, (4, 5), offline)
        self.assertEqual(online.exit_code, offline.exit_code)
        self.assertEqual(online.err, offline.err)
        self.assertEqual(offline.out, "")

  def test_usage_errors_are_2(self):
    for command in ([], ["plan"], ["plot"], ["plan", "shard"],
                    PLAN_SHARD, ["apply"], ["layout", "validate"],
                    ["get", "layouts"], PLAN_SHARD + ["--layout", "x", "-o",
                                                      "xml"],
                    ["get", "ranks", "--coordinator", "127.0.0.1:1"],
                    ["layout", "groups", "--layout", "x", "--coordinator",
                     "127.0.0.1:1", "--job", "x"],
                    ["describe", "rank", "seven", "--coordinator",
                     "127.0.0.1:1", "--job", "x"]):
      with self.subTest(command=command):
        answer = processes.shardctl(*command)
        self.assertEqual(answer.exit_code, 2, answer)
        self.assertEqual(answer.out, "")
        self.assertTrue(answer.err)

  def test_help_and_version_are_no_errors(self):
    for command in (["--help"], ["plan", "shard", "--help"], ["version"]):
      answer = processes.shardctl(*command)
      self.assertEqual(answer.exit_code, 0, answer)
      self.assertTrue(answer.out)
    self.assertIn("version",
                  processes.shardctl("version", "-o", "json").json)

  def test_nobody_there_is_3(self):
    with socket.socket() as reserved:  # Bound, and not listening.
      reserved.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{reserved.getsockname()[1]}"
      for command in (["health"], ["get", "layouts"],
                      ["layout", "groups", "--job", "x"]):
        answer = processes.shardctl(*command, "--coordinator", address)
        self.assertEqual(answer.exit_code, 3, answer)
        self.assertTrue(answer.err.startswith("error: "), answer.err)

  def test_what_is_not_there_is_4(self):
    for command in (["get", "ranks"], ["get", "groups"], ["get", "workers"],
                    ["describe", "rank", "0"], PLAN_SHARD):
      answer = self.online(*command, job="none")
      self.assertEqual(answer.exit_code, 4, answer)
      self.assertIn("none", answer.err)
    answer = self.online("describe", "rank", "8")
    self.assertEqual(answer.exit_code, 4, answer)

  def test_stale_generation_is_8_and_changes_nothing(self):
    other = dict(LAYOUT, name="stale")
    first = self.coordinator.apply(other).json
    self.assertTrue(first["changed"])
    changed = json.loads(json.dumps(other))
    changed["modules"][0]["parallelism"] = {"tp": 4}
    for stale in (0, first["generation"] + 1):
      answer = self.coordinator.apply(changed, "--if-generation", str(stale))
      self.assertEqual(answer.exit_code, 8, answer)
      self.assertIn(str(first["generation"]), answer.err)
    again = self.coordinator.apply(other).json
    self.assertEqual(again, dict(first, changed=False))
    tried = self.coordinator.apply(changed, "--dry-run").json
    self.assertTrue(tried["changed"] and tried["dry_run"])
    self.assertFalse(self.coordinator.apply(other).json["changed"])
    last = self.coordinator.apply(changed, "--if-generation",
                                  str(first["generation"])).json
    self.assertGreater(last["generation"], first["generation"])

  def test_get_and_describe_tell_of_the_layout(self):
    layouts = self.coordinator.shardctl("get", "layouts", "-o",
                                        "json").json["layouts"]
    mine = [layout for layout in layouts if layout["name"] == "vlm-8"][0]
    self.assertEqual((mine["world_size"], mine["module_count"],
                      mine["member_count"]), (8, 2, 0))
    ranks = self.online("get", "ranks", "-o", "json").json["ranks"]
    self.assertEqual([rank["rank"] for rank in ranks], list(range(8)))
    self.assertEqual(
        {key: ranks[6][key] for key in ("module", "tp", "cp", "lane")},
        {"module": "language", "tp": 0, "cp": 1, "lane": 0})
    self.assertIsNone(ranks[6]["worker"])
    rank = self.online("describe", "rank", "6", "-o", "json").json
    self.assertEqual(rank["coordinates"]["cp"], 1)
    by_kind = {group["kind"]: group["ranks"] for group in rank["groups"]}
    self.assertEqual(by_kind["tp"], [6, 7])
    self.assertEqual(by_kind["cp"], [4, 6])
    self.assertEqual(rank["members"], [])
    for command in (["get", "ranks"], ["describe", "rank", "6"],
                    ["get", "workers"], ["get", "groups"]):
      self.assertTrue(self.online(*command).out)
    health = self.coordinator.shardctl("health", "-o", "json").json
    self.assertEqual(health["status"], "SERVING")

  def test_pictures_follow_the_locale_and_have_no_color_in_a_pipe(self):
    plain = self.offline(*PLAN_SHARD, environment={"LC_ALL": "C"})
    plain.out.encode("ascii")
    self.assertIn("####", plain.out)
    utf8 = self.offline(*PLAN_SHARD, environment={"LC_ALL": "C.UTF-8"})
    self.assertIn("████", utf8.out)
    for answer in (plain, utf8):
      self.assertNotIn("\x1b", answer.out)


if __name__ == "__main__":
  unittest.main()

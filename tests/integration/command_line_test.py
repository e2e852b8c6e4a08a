"""Is the command line what scripts rely on: exit codes, streams, same bytes?"""

import json
import os
import pty
import re
import shutil
import socket
import subprocess
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
        ["plan", "route", "--batch", self.batch],
        ["plan", "route", "--batch", self.batch, "--rows", "--row-bytes", "64"],
        ["plan", "compare", "--lengths", "512,300,7"],
        ["plan", "compare", "--cu-seqlens", "0,9,9,40", "--cp", "1,3"],
        ["explain", "rank", "2"],
        ["explain", "rank", "7"],
    ):
      for output in ("json", "yaml", "table", "wide"):
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
        ["explain", "rank", "8"],
        ["explain", "rank", "-1"],
        ["plan", "compare", "--lengths", "5,-1"],
        ["plan", "compare", "--lengths", "0"],
        ["plan", "compare", "--lengths", "5", "--cp", "0"],
        ["plan", "compare", "--lengths", "5", "--tp", "0"],
        ["plan", "compare", "--cu-seqlens", "1,5"],
        ["plan", "compare", "--cu-seqlens", "0,5,4"],
        ["plan", "compare", "--lengths-file", "/nowhere"],
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

  def test_zeros_before_a_number_mean_nothing(self):
    for padded, plain in (
        (["explain", "rank", "07"], ["explain", "rank", "7"]),
        (["plan", "shard", "--module", "language", "--seq-length", "024",
          "--micro-batch", "03", "--cu-seqlens-padded", "0,08,024", "--rank",
          "06"],
         ["plan", "shard", "--module", "language", "--seq-length", "24",
          "--micro-batch", "3", "--cu-seqlens-padded", "0,8,24", "--rank",
          "6"]),
        (["plan", "route", "--batch", self.batch, "--row-bytes", "064"],
         ["plan", "route", "--batch", self.batch, "--row-bytes", "64"]),
        (["plan", "compare", "--lengths", "010,011", "--cp", "02", "--tp",
          "02"],
         ["plan", "compare", "--lengths", "10,11", "--cp", "2", "--tp", "2"]),
        (["plan", "compare", "--cu-seqlens", "0,010,020"],
         ["plan", "compare", "--cu-seqlens", "0,10,20"]),
    ):
      with self.subTest(command=padded):
        self.assertEqual(self.offline(*padded, "-o", "json").out,
                         self.offline(*plain, "-o", "json").out)
    for command in (["describe", "rank", "06"],
                    ["get", "events", "--after", "08"]):
      self.assertEqual(self.online(*command).exit_code, 0)
    answer = self.coordinator.apply(LAYOUT, "--if-generation", "0999")
    self.assertEqual(answer.exit_code, 8, answer)

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

  def test_compare_needs_no_layout_and_reads_files_and_pipes(self):
    listed = processes.shardctl("plan", "compare", "--lengths", "512,300,7",
                                "--cp", "2,4", "-o", "json")
    piped = processes.shardctl("plan", "compare", "--lengths-file", "-", "--cp",
                               "2,4", "-o", "json", stdin="512\n300, 7\n")
    self.assertEqual(piped.out, listed.out)
    self.assertEqual([size["cp"] for size in listed.json["sizes"]], [2, 4])
    default = processes.shardctl("plan", "compare", "--lengths", "9", "-o",
                                 "json").json
    self.assertEqual([size["cp"] for size in default["sizes"]], [1, 2, 4, 8])
    repeated = processes.shardctl("plan", "compare", "--lengths", "9", "--cp",
                                  "4,4,1,1,4", "-o", "json").json
    self.assertEqual([size["cp"] for size in repeated["sizes"]], [4, 1])
    bad = processes.shardctl("plan", "compare", "--lengths-file", "-",
                             stdin="5 six")
    self.assertEqual(bad.exit_code, 5, bad)
    self.assertIn("entry 2, 'six'", bad.err)
    for usage in ([], ["--lengths", "5", "--cu-seqlens", "0,5"],
                  ["--lengths", "5", "--job", "x"], ["--lengths", "x"]):
      self.assertEqual(processes.shardctl("plan", "compare", *usage).exit_code,
                       2)

  def test_compare_lists_no_more_ranks_than_a_program_can_want(self):
    command = ["plan", "compare", "--lengths", "9", "--cp", "65536,1"]
    answer = processes.shardctl(*command, "-o", "json")
    self.assertEqual(answer.exit_code, 5, answer)
    self.assertIn("cp: 65537 cp ranks together are above 65536", answer.err)
    self.assertEqual(processes.shardctl(*command).exit_code, 0)

  def test_slips_in_commands_and_options_get_a_suggestion(self):
    for command, guess in ((["layuot", "groups"], "layout"),
                           (["get", "member"], "members"),
                           (["explain", "clqiue"], "clique"),
                           (PLAN_SHARD + ["--layuot", "x"], "--layout"),
                           (["health", "--cordinator=x:1"], "--coordinator"),
                           (["get", "members", "--outptu", "json"],
                            "--output"),
                           (["health", "--coordinator", "x:1", "--outptu",
                             "json"], "--output"),
                           (["--outptu", "json", "version"], "--output"),
                           (["explain", "rank", "--layuot", "x", "3"],
                            "--layout"),
                           (["version", "-o", "jsn"], "json")):
      answer = processes.shardctl(*command)
      self.assertEqual(answer.exit_code, 2, answer)
      self.assertIn(f"did you mean '{guess}'?", answer.err)
    answer = self.offline("plan", "shard", "--module", "langauge",
                          "--seq-length", "24")
    self.assertIn("did you mean 'language'?", answer.err)
    answer = self.online("layout", "groups", job="vlm_8")
    self.assertEqual(answer.exit_code, 4, answer)
    self.assertIn("did you mean 'vlm-8'?", answer.err)

  def test_usage_errors_say_one_thing_in_words_of_the_command_line(self):
    clique = ["explain", "clique", "a", "--coordinator", "x:1", "--job", "y"]
    for command, problem, path in (
        (["plam"], "'plam' is not known here: did you mean 'plan'?", ""),
        (["plan"],
         "a command is required, one of shard, compose, route, compare",
         " plan"),
        (["plan", "compare", "--lengths", "3", "--cp", "x"],
         "--cp: 'x' is not a number", " plan compare"),
        (PLAN_SHARD[:-1] + ["99999999999999999999", "--layout", "x"],
         "--seq-length: '99999999999999999999' is out of range: "
         "from -9223372036854775808 to 9223372036854775807", " plan shard"),
        (["explain", "rank", "0x5", "--layout", "x"],
         "rank: '0x5' is not a number", " explain rank"),
        (["plan", "route", "--row-bytes", "0", "--layout", "x", "--batch", "x"],
         "--row-bytes: '0' is out of range: from 1 to 16777216", " plan route"),
        (["plan", "compare", "--lengths", "3", "--tp"], "--tp needs a value",
         " plan compare"),
        (["plan", "compare"],
         "one of --lengths, --lengths-file, --cu-seqlens is required",
         " plan compare"),
        (["plan", "compare", "--lengths", "3", "--cu-seqlens", "0,3"],
         "only one of --lengths, --lengths-file, --cu-seqlens can be given",
         " plan compare"),
        (["version", "-o", "jsn"],
         "--output: 'jsn' is not one of table, wide, json, yaml: "
         "did you mean 'json'?", " version"),
        (["version", "-o", "xml"],
         "--output: 'xml' is not one of table, wide, json, yaml", " version"),
        (["--no-color", "get", "layouts"],
         "'--no-color' must come after 'shardctl get layouts'",
         " get layouts"),
        (["-o", "json", "version"],
         "'-o' must come after 'shardctl version'", " version"),
        (["get", "layouts", "extra"], "'extra' is not known here",
         " get layouts"),
        (["version", "--no-color=maybe"],
         "--no-color: 'maybe' is neither true nor false", " version"),
        (clique + ["--kind", "foo"],
         "--kind: 'foo' is not one of worker, trainer", " explain clique"),
        (["health", "--coordinator", "127.0.0.1"],
         "--coordinator: '127.0.0.1' has no port: HOST:PORT", " health"),
        (["layout", "groups", "--coordinator", "[::1]", "--job", "x"],
         "--coordinator: '[::1]' has no port: HOST:PORT", " layout groups"),
        (["explain", "rank"], "rank is required", " explain rank"),
        (["explain", "rank", "3", "4", "--layout", "x"],
         "'4' is not known here", " explain rank"),
    ):
      with self.subTest(command=command):
        answer = processes.shardctl(*command)
        self.assertEqual(answer.exit_code, 2)
        self.assertEqual(
            answer.err, f"error: {problem}\ntry: shardctl{path} --help\n")

  def test_arguments_that_are_not_utf8_are_refused(self):
    for command in (["get", "members", "--coordinator", "127.0.0.1:1", "--job"],
                    ["layout", "validate", "-o", "json"]):
      answer = processes.shardctl(*command, os.fsdecode(b"a\xff"))
      self.assertEqual(answer.exit_code, 5, answer)
      self.assertEqual(answer.out, "")
      self.assertEqual(
          answer.err,
          f"error: argument {len(command) + 1}, 'a\\xff', is not UTF-8\n")

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
                    ["get", "members"], ["get", "communicators"],
                    ["get", "events"], ["explain", "clique", "language/tp/0"],
                    ["explain", "rank", "0"], ["describe", "worker", "0"],
                    ["describe", "rank", "0"], PLAN_SHARD):
      answer = self.online(*command, job="none")
      self.assertEqual(answer.exit_code, 4, answer)
      self.assertIn("none", answer.err)
    for command in (["describe", "rank", "8"], ["explain", "rank", "8"],
                    ["describe", "worker", "0"],
                    ["explain", "clique", "language/tp/99"]):
      answer = self.online(*command)
      self.assertEqual(answer.exit_code, 4, answer)
    unknown = self.online("describe", "worker", "99")
    self.assertEqual(unknown.exit_code, 4, unknown)
    self.assertIn("rank 99 is not in [0, 8)", unknown.err)
    answer = self.coordinator.shardctl("explain", "missing", "none")
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

  def test_colors_come_on_a_terminal_only_and_can_be_refused(self):
    command = [processes.program("client/cli/shardctl"), *PLAN_SHARD,
               "--layout", str(self.layout)]
    on = {"TERM": "xterm-256color", "NO_COLOR": ""}
    self.assertIn("\x1b[", on_terminal(command, on))
    self.assertNotIn("\x1b[", on_terminal(command, dict(on, NO_COLOR="1")))
    self.assertNotIn("\x1b[", on_terminal(command, dict(on, TERM="dumb")))
    self.assertNotIn("\x1b[", on_terminal(command + ["--no-color"], on))


def on_terminal(command, environment):
  """What a command prints on a terminal of its own."""
  try:
    pid, terminal = pty.fork()
  except OSError as error:
    raise unittest.SkipTest(f"SKIPPED, no terminal to be had: {error}")
  if pid == 0:
    os.execve(command[0], command, dict(os.environ, **environment))
  text = b""
  try:
    while chunk := os.read(terminal, 65536):
      text += chunk
  except OSError:  # The terminal's other side is closed: that is its end.
    pass
  os.close(terminal)
  os.waitpid(pid, 0)
  return text.decode()


class CompletionTest(unittest.TestCase):
  """The scripts, in the real shells."""

  def complete(self, *words, shell="bash"):
    """What the shell would offer for the last of `words`."""
    script = processes.shardctl("completion", "bash")
    self.assertEqual(script.exit_code, 0, script)
    quoted = " ".join(f"'{word}'" for word in ("shardctl",) + words)
    answer = subprocess.run(
        ["bash", "-c", f"{script.out}\nCOMP_WORDS=({quoted})\n"
         f"COMP_CWORD={len(words)}\n_shardctl\n"
         "printf '%s\\n' \"${COMPREPLY[@]}\""],
        capture_output=True, encoding="utf-8", check=True,
        cwd=processes.temporary_directory())
    self.assertEqual(answer.stderr, "")
    return answer.stdout.split()

  def test_commands_at_every_depth(self):
    self.assertIn("explain", self.complete(""))
    self.assertEqual(self.complete("lay"), ["layout"])
    self.assertEqual(self.complete("explain", "c"), ["clique"])
    self.assertEqual(self.complete("plan", "com"), ["compose", "compare"])

  def test_options_of_the_command_and_no_others(self):
    self.assertEqual(self.complete("plan", "shard", "--mo"), ["--module"])
    self.assertEqual(self.complete("plan", "shard", "--layout", "x", "--ro"),
                     ["--rows"])
    self.assertEqual(self.complete("health", "--mo"), [])

  def test_nothing_is_offered_twice(self):
    script = processes.shardctl("completion", "bash").out
    for words in re.findall(r" words='(.*?)'", script):
      self.assertEqual(len(set(words.split())), len(words.split()), words)

  def test_values_that_are_choices(self):
    self.assertEqual(self.complete("get", "members", "-o", ""),
                     ["table", "wide", "json", "yaml"])
    self.assertEqual(self.complete("get", "members", "--output", "=", "j"),
                     ["json"])
    self.assertEqual(self.complete("explain", "clique", "--kind", "t"),
                     ["trainer"])
    self.assertEqual(self.complete("health", "--coordinator", ""), [])

  def test_files(self):
    directory = processes.temporary_directory()
    (directory / "my.yaml").touch()
    prefix = f"{directory}/my"
    for words in (("layout", "validate"), ("apply", "-f"),
                  ("explain", "rank", "5", "--layout")):
      self.assertEqual(self.complete(*words, prefix), [f"{prefix}.yaml"])

  def test_every_command_of_the_help_is_offered(self):

    def walk(command):
      text = processes.shardctl(*command, "--help").out
      names = re.findall(r"^  ([a-z]+) ", text.partition("Subcommands:\n")[2],
                         re.M)
      offered = self.complete(*command, "")
      for name in names:
        self.assertIn(name, offered)
        walk(command + [name])
      options = re.findall(r"^ +(?:-\w,)?(--[a-z-]+)", text, re.M)
      self.assertTrue(options)
      for option in options:
        self.assertIn(option, self.complete(*command, "--"))

    walk([])

  @unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
  def test_zsh_completes_with_it_too(self):
    script = processes.shardctl("completion", "zsh").out
    subprocess.run(["zsh", "-n"], input=script, encoding="utf-8", check=True)
    # What does not begin with "c" is left out by zsh itself.
    answer = subprocess.run(
        ["zsh", "-f", "-c", f"{script}\nCOMP_WORDS=(shardctl explain c)\n"
         "COMP_CWORD=2\nemulate -L sh\n_shardctl\n"
         "print -l -- \"${COMPREPLY[@]}\""],
        capture_output=True, encoding="utf-8", check=False,
        env=dict(os.environ, HOME=str(processes.temporary_directory())))
    self.assertTrue({"rank", "clique"} < set(answer.stdout.split()),
                    answer.stdout + answer.stderr)
    self.assertNotIn("--layout", answer.stdout)


if __name__ == "__main__":
  unittest.main()

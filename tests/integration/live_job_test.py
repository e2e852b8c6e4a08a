"""Does the command line tell who waits for whom, of a job that runs?"""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import unittest

from tests.integration import processes

ROOT = pathlib.Path(__file__).absolute().parents[2]
LAYOUT_FILE = ROOT / "deploy/layouts/main_job.yaml"
JOB = "main-job"
RANKS = range(8)


class Watch:
  """shardctl watch, its lines as they come."""

  def __init__(self, *arguments):
    self._process = subprocess.Popen(
        [processes.program("client/cli/shardctl"), "watch", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")

  def line(self):
    return self._process.stdout.readline()

  def json(self):
    return json.loads(self.line())

  def hang_up(self):
    self._process.stdout.close()

  def signal(self, number):
    self._process.send_signal(number)

  def end(self):
    """Its exit code, and what it said beside its results."""
    try:
      exit_code = self._process.wait(processes.PATIENCE_S)
    finally:
      self._process.kill()
    err = self._process.stderr.read()
    self._process.stderr.close()
    self._process.stdout.close()
    return exit_code, err

  def interrupt(self):
    self.signal(signal.SIGINT)
    return self.end()

  def close(self):
    self._process.kill()
    self._process.wait()
    self._process.stdout.close()
    self._process.stderr.close()


def layout(name, **parallelism):
  return {"name": name, "world_size": 4,
          "modules": [{"name": "language", "role": "LANGUAGE",
                       "first_rank": 0, "rank_count": 4,
                       "parallelism": parallelism}]}


class WatchTest(unittest.TestCase):

  def setUp(self):
    self.store = processes.temporary_directory() / "store.db"
    self.coordinator = processes.Coordinator(self.store)
    self.addCleanup(lambda: self.coordinator.kill())
    self.coordinator.apply(layout("one")).json

  def watch(self, *arguments):
    watch = Watch(*arguments, "--coordinator", self.coordinator.address, "-o",
                  "json")
    self.addCleanup(watch.close)
    return watch

  def restart(self, stop=processes.Coordinator.kill):
    address = self.coordinator.address
    stop(self.coordinator)
    self.coordinator = processes.Coordinator(self.store, listen=address)
    self.assertEqual(self.coordinator.address, address)

  def test_layouts_come_as_they_are_applied_and_ctrl_c_ends_it_well(self):
    watch = self.watch("layouts")
    first = watch.json()
    self.assertEqual((first["job"], first["world_size"]), ("one", 4))
    self.coordinator.apply(layout("two")).json
    second = watch.json()
    self.assertEqual(second["job"], "two")
    self.assertGreater(second["revision"], first["revision"])
    self.assertEqual(watch.interrupt(), (0, ""))

  def test_layouts_resume_from_a_revision(self):
    first = self.watch("layouts").json()
    watch = self.watch("layouts", "--revision", str(first["revision"]))
    self.coordinator.apply(layout("one", tp=2)).json
    changed = watch.json()
    self.assertEqual(changed["job"], "one")
    self.assertGreater(changed["revision"], first["revision"])

  def test_layouts_go_on_by_themselves_after_a_restart(self):
    watch = self.watch("layouts")
    watch.json()
    self.restart()
    self.coordinator.apply(layout("two")).json
    self.assertEqual(watch.json()["job"], "two")
    watch.signal(signal.SIGTERM)
    exit_code, err = watch.end()
    self.assertEqual(exit_code, 0)
    self.assertIn("trying again", err)

  def test_watching_outlives_a_restart_in_good_order(self):
    layouts = self.watch("layouts")
    events = self.watch("events", "--job", "one")
    layouts.json()
    events.json()
    self.restart(processes.Coordinator.terminate)
    self.coordinator.apply(layout("two")).json
    self.coordinator.apply(layout("one", tp=2)).json
    self.assertEqual(layouts.json()["job"], "two")
    self.assertEqual(layouts.json()["job"], "one")
    while events.json()["type"] != "layout_applied":
      pass
    for watch in (layouts, events):
      watch.signal(signal.SIGTERM)
      exit_code, err = watch.end()
      self.assertEqual(exit_code, 0, err)

  def test_revision_of_another_store_is_refused(self):
    watch = self.watch("layouts", "--revision", "1000")
    exit_code, err = watch.end()
    self.assertEqual(exit_code, 5, err)

  def test_watch_of_layouts_ends_when_nobody_reads(self):
    watch = self.watch("layouts")
    watch.json()
    watch.hang_up()
    self.assertEqual(watch.end(), (0, ""))

  def test_events_come_and_ctrl_c_ends_it_well(self):
    watch = self.watch("events", "--job", "one")
    first = watch.json()
    self.coordinator.apply(layout("one", tp=2)).json
    second = watch.json()
    self.assertGreater(second["number"], first["number"])
    self.assertEqual(watch.interrupt(), (0, ""))

  def test_events_go_on_after_a_restart(self):
    watch = self.watch("events", "--job", "one")
    watch.json()
    self.restart()
    self.coordinator.apply(layout("one", tp=2)).json
    self.assertIn("job=one", watch.json()["text"])
    self.assertEqual(watch.interrupt()[0], 0)

  def test_watching_misses_nothing_of_a_coordinator_that_forgot_all(self):
    self.coordinator.kill()
    self.coordinator = processes.Coordinator()
    self.coordinator.apply(layout("one")).json
    layouts = self.watch("layouts")
    events = self.watch("events", "--job", "one")
    seen = layouts.json()
    events.json()
    address = self.coordinator.address
    self.coordinator.kill()
    path = processes.temporary_directory() / "one"
    path.write_text(json.dumps(layout("one", tp=2)))
    self.coordinator = processes.Coordinator(
        listen=address, arguments=["--layout", path])
    self.assertEqual(self.coordinator.address, address)
    self.coordinator.apply(layout("two")).json
    again = layouts.json()
    self.assertEqual((again["job"], again["generation"]), ("one", 1))
    self.assertGreater(again["revision"], seen["revision"])
    self.coordinator.apply(layout("one", tp=4)).json
    self.assertIn("generation=1 ", events.json()["text"])

  def test_nobody_there_is_3_and_no_such_job_is_4(self):
    for command in (["layouts", "--job", "none"], ["events", "--job", "none"]):
      self.assertEqual(self.watch(*command).end()[0], 4)
    address = self.coordinator.address
    self.coordinator.kill()
    for command in (["layouts"], ["events", "--job", "one"]):
      watch = Watch(*command, "--coordinator", address)
      self.assertEqual(watch.end()[0], 3)


class LiveJobTest(unittest.TestCase):

  @classmethod
  def setUpClass(cls):
    cls.coordinator = processes.Coordinator(lease_ttl_s=3)
    cls.addClassCleanup(cls.coordinator.kill)
    answer = cls.coordinator.shardctl("apply", "-f", LAYOUT_FILE, "-o", "json")
    assert answer.json["changed"]
    cls.workers = {}
    for rank in RANKS:
      cls.start(rank)
    processes.wait_until(cls.is_formed, "all cliques")

  @classmethod
  def start(cls, rank):
    worker = processes.Worker(cls.coordinator.address, JOB, rank)
    cls.addClassCleanup(worker.kill)
    cls.workers[rank] = worker

  @classmethod
  def ask(cls, *arguments):
    return cls.coordinator.shardctl(*arguments, "--job", JOB)

  @classmethod
  def is_formed(cls):
    members = cls.ask("get", "members", "-o", "json").json["members"]
    return [member["phase"] for member in members] == ["ready"] * len(RANKS)

  def test_members_and_workers_say_where_they_are(self):
    members = self.ask("get", "members", "-o", "json").json["members"]
    self.assertEqual([member["rank"] for member in members], list(RANKS))
    for member in members:
      self.assertEqual((member["kind"], member["state"]), ("WORKER", "LIVE"))
      self.assertIsNotNone(member["last_seen_time"])
    wide = self.ask("get", "members", "-o", "wide").out
    self.assertIn(members[3]["address"], wide)
    self.assertNotIn(members[3]["address"], self.ask("get", "members").out)

  def test_worker_describes_itself(self):
    worker = self.ask("describe", "worker", "5", "-o", "json").json
    self.assertEqual((worker["job"], worker["rank"], worker["pid"]),
                     (JOB, 5, self.workers[5].pid))
    by_name = {clique["name"]: clique for clique in worker["cliques"]}
    self.assertEqual(by_name["language/tp/0"]["ranks"], [4, 5])
    self.assertEqual(by_name["language/tp/0"]["state"], "ACTIVE")
    self.assertGreater(by_name["language/tp/0"]["attempt"], 0)
    self.assertEqual(by_name["language/bridge/0"]["ranks"],
                     [4, 5, 6, 7, 0, 1, 2, 3])
    self.assertEqual(by_name["language/bridge/0"]["state"], "ACTIVE")
    # A clique of one needs no attempt.
    self.assertIsNone(by_name["language/pp/1"]["attempt"])
    self.assertIn("language/tp/0", self.ask("describe", "worker", "5").out)
    nobody = self.ask("describe", "worker", "99")
    self.assertEqual(nobody.exit_code, 4, nobody)

  def test_encoder_is_in_the_bridge_of_the_language_module(self):
    worker = self.ask("describe", "worker", "1", "-o", "json").json
    by_name = {clique["name"]: clique for clique in worker["cliques"]}
    self.assertEqual(by_name["language/bridge/0"]["state"], "ACTIVE")
    self.assertIn("language/bridge/0", self.ask("describe", "rank", "1").out)
    bridge = self.ask("explain", "clique", "language/bridge/0", "--all", "-o",
                      "json").json["members"]
    self.assertEqual([member["member"]["rank"] for member in bridge],
                     [4, 5, 6, 7, 0, 1, 2, 3])
    self.assertIn("language/bridge/0", self.ask("get", "communicators").out)

  def test_formed_clique_waits_for_nobody(self):
    clique = self.ask("explain", "clique", "images/tp/0", "-o", "json").json
    self.assertEqual(clique["clique"]["state"], "ACTIVE")
    self.assertEqual(clique["members"], [])
    everybody = self.ask("explain", "clique", "images/tp/0", "--all", "-o",
                         "json").json["members"]
    self.assertEqual([member["member"]["rank"] for member in everybody], [0, 1])
    self.assertEqual([member["state"] for member in everybody],
                     ["CONNECTED", "CONNECTED"])

  def test_clique_that_waits_names_who_blocks_and_forms_again(self):
    self.workers[7].kill()
    processes.wait_until(
        lambda: [member for member in self.ask(
            "explain", "clique", "language/tp/1", "-o", "json").json["members"]
                 if member["member"]["state"] == "LOST"], "rank 7 to be lost")
    clique = self.ask("explain", "clique", "language/tp/1", "-o", "json").json
    self.assertEqual(clique["clique"]["state"], "GATHERING")
    self.assertEqual(clique["clique"]["missing"]["ranges"], "7")
    self.assertIn(clique["clique"]["last_abort_reason"],
                  ("PEER_LOST", "PEER_FAILED"))
    member = clique["members"][0]
    self.assertTrue(member["blocking"])
    self.assertEqual(member["member"]["rank"], 7)
    self.assertIsNotNone(member["member"]["last_seen_time"])
    text = self.ask("explain", "clique", "language/tp/1").out
    self.assertIn("waits for 1 of 2 workers", text)
    self.assertIn("rank 7:", text)
    self.assertIn("language/tp/1",
                  self.ask("get", "communicators", "--inactive").out)
    # Its worker uses the coordinator's words.
    waits = self.ask("describe", "worker", "6", "-o", "json").json["cliques"]
    self.assertIn(("language/tp/1", "GATHERING"),
                  [(clique["name"], clique["state"]) for clique in waits])
    self.assertNotIn("images/tp/0",
                     self.ask("get", "communicators", "--inactive").out)
    gone = self.ask("describe", "worker", "7")
    self.assertEqual(gone.exit_code, 3, gone)
    self.assertIn("LOST", gone.err)
    types = {event["type"] for event in self.ask("get", "events", "-o",
                                                 "json").json["events"]}
    self.assertIn("member_lost", types)
    self.start(7)
    processes.wait_until(self.is_formed, "all cliques again")

  def test_slips_in_names_get_a_suggestion(self):
    answer = self.ask("explain", "clique", "langauge/tp/1")
    self.assertEqual(answer.exit_code, 4, answer)
    self.assertIn("did you mean 'language/tp/1'?", answer.err)
    answer = self.ask("explain", "clique", "language")
    self.assertIn(answer.exit_code, (4, 5), answer)
    answer = self.coordinator.shardctl("get", "members", "--job", "mian-job")
    self.assertEqual(answer.exit_code, 4, answer)
    self.assertIn("did you mean 'main-job'?", answer.err)

  def test_every_example_of_every_help_works(self):
    examples = list(all_examples([]))
    self.assertGreater(len(examples), 30)
    directory = processes.temporary_directory()
    environment = dict(os.environ, HOME=str(directory), PATH=":".join(
        [str(pathlib.Path(processes.program("client/cli/shardctl")).parent),
         os.environ["PATH"]]))
    for example in examples:
      if "REPORT" in example:  # Needs a set that was cut short.
        continue
      with self.subTest(example=example):
        here = example.replace("127.0.0.1:7070", self.coordinator.address)
        if " watch " in here:
          watch = Watch(*shlex.split(here)[2:])
          self.assertTrue(watch.line())
          self.assertEqual(watch.interrupt(), (0, ""))
          continue
        ran = subprocess.run(["bash", "-c", here], cwd=ROOT, env=environment,
                             capture_output=True, encoding="utf-8",
                             timeout=processes.PATIENCE_S, check=False)
        self.assertEqual((ran.returncode, ran.stderr), (0, ""), ran.stdout)


def all_examples(command):
  """The examples of a command's help, and of those below it."""
  text = processes.shardctl(*command, "--help").out
  examples = re.findall(r"^  (shardctl .*)$",
                        text.partition("Examples:\n")[2], re.M)
  below = re.findall(r"^  ([a-z]+) ", text.partition("Subcommands:\n")[2], re.M)
  if not below and not examples:
    raise AssertionError(f"{command} has no example")
  yield from examples
  for name in below:
    yield from all_examples(command + [name])


if __name__ == "__main__":
  unittest.main()

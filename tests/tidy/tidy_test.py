"""Every rule of tidy.py finds what it is for, and the tree keeps them all."""

import pathlib
import unittest

import tidy

TOP_FOLDERS = ("client", "coordinator", "deploy", "proto", "tests", "worker")
SUFFIXES = (".BUILD", ".bazel", ".bzl", ".cc", ".cu", ".cuh", ".h", ".md",
            ".proto", ".py", ".sh", ".txt", ".yaml")


def tree():
  """The text files of the source tree, by their paths."""
  # A test runs beside links to its sources.
  root = pathlib.Path(__file__).resolve().parents[2]
  paths = [path for path in root.iterdir() if path.is_file()]
  for folder in TOP_FOLDERS:
    paths += (root / folder).rglob("*")
  files = {}
  for path in paths:
    if path.suffix in SUFFIXES and "corpus" not in path.parts:
      files[str(path.relative_to(root))] = path.read_text(encoding="utf-8")
  return files


REASONS = """# Architecture

## Error reasons

| reason | code | cause | what to do |
| --- | --- | --- | --- |
| `JOB_NOT_FOUND` | NOT_FOUND | no such job | look |
"""
THROWS = 'return Error(absl::StatusCode::k%s, "%s", "...");\n'
GUARD = "#ifndef A_B_H_\n#define A_B_H_\n#endif  // A_B_H_\n"


def function(line_count, indent=""):
  lines = ["int64_t Foo::Bar(int a,", "                 int b) const {"]
  lines += ["  if (a) {", "    b();", "  }"] + ["  b();"] * (line_count - 6)
  return "".join(f"{indent}{line}\n" for line in lines + ["}"])


# For each rule: files that it must leave alone, and files that it must not,
# with a part of what it says of them.
CASES = {
    tidy.own_includes: (
        [{"coordinator/rpc/a.cc": '#include "coordinator/core/b.h"\n'},
         {"worker/main.cc": '#include "worker/rpc/server.h"\n'},
         {"tests/a_test.cc": '#include "coordinator/core/b.h"\n'}],
        [({"coordinator/core/a.cc": '#include "coordinator/rpc/b.h"\n'},
          "coordinator/core/ may include"),
         ({"coordinator/core/a.cc": '#include "proto/sync/mutex.h"\n'},
          "proto/sync/mutex.h"),
         ({"worker/rpc/a.h": '#include "coordinator/core/b.h"\n'}, "worker/"),
         ({"client/cc/a.h": '#include "tests/b.h"\n'}, "tests/b.h")]),
    tidy.library_includes: (
        [{"coordinator/rpc/a.cc": '#include "grpcpp/server.h"\n'},
         {"worker/kernels/copy.cu": "#include <cuda_runtime.h>\n"},
         {"worker/comm/nccl_communicator.cc": '#include "nccl.h"\n'}],
        [({"coordinator/core/a.cc": '#include "grpcpp/server.h"\n'}, "gRPC"),
         ({"proto/plan/grid.h": '#include "shardwright/v1/plan.pb.h"\n'},
          "generated messages"),
         ({"worker/exec/copy.h": "#include <cuda_runtime.h>\n"}, "CUDA"),
         ({"worker/exec/a.cc": '#include "nccl.h"\n'}, "NCCL"),
         ({"coordinator/planner/a.cc": '#include "spdlog/spdlog.h"\n'},
          "spdlog"),
         ({"coordinator/core/a.cc": "#include <thread>\n"}, "threads")]),
    tidy.reserved_calls: (
        [{"worker/agent/a.cc": "Mutex mutex;  // Not a std::mutex.\n"},
         {"coordinator/main.cc": "return absl::Now();\n"},
         {"coordinator/core/a.cc": "absl::Time now;\nclock_();\n"}],
        [({"worker/agent/a.h": "std::mutex mutex_;\n"}, "mutex.h"),
         ({"worker/agent/a.cc": "std::unique_lock<std::mutex> l(m);\n"},
          "mutex.h"),
         ({"coordinator/core/a.cc": "now = absl::Now();\n"}, "argument"),
         ({"proto/plan/a.cc": "std::chrono::steady_clock::now();\n"},
          "argument"),
         ({"worker/agent/a_test.cc": "absl::SleepFor(kPause);\n"}, "condition"),
         ({"tests/integration/a_test.py": "time.sleep(1)\n"}, "condition"),
         ({"coordinator/core/a.cc": "std::random_device random;\n"}, "seed"),
         ({"worker/agent/a.h": "  friend class AgentTest;\n"}, "public")]),
    tidy.names: (
        [{"proto/plan/grid.h": "class Grid {\n"},
         {"worker/a.h": "class Communicator {\n"}],
        [({"proto/plan/string_utils.h": ""}, "name it"),
         ({"common/a.h": ""}, "name it"),
         ({"worker/a.h": "class RankHelper {\n"}, "RankHelper"),
         ({"worker/a.h": "struct LeaseManager {\n"}, "LeaseManager"),
         ({"proto/a.proto": "message CommonHeader {\n"}, "CommonHeader")]),
    tidy.todos: (
        [{"worker/a.cc": "// TODO(#12): shorten.\n"}],
        [({"worker/a.cc": "// TODO: shorten.\n"}, "issue"),
         ({"worker/a.py": "# TODO(somebody): shorten.\n"}, "issue"),
         ({"a.md": "FIXME\n"}, "issue")]),
    tidy.line_lengths: (
        [{"a.cc": "x" * 80 + "\n"},
         {"a.cc": 'R"(' + "x" * 90 + ')"\n'},
         {"a.h": "// https://example.com/" + "x" * 80 + "\n"}],
        [({"a.cc": "x" * 81 + "\n"}, "81 columns"),
         ({"a.cc": 'R"(\n)"\n' + "x" * 81 + "\n"}, "81 columns"),
         ({"a.py": "x" * 81 + "\n"}, "81 columns")]),
    tidy.file_lengths: (
        [{"a.h": "\n" * 200}, {"a.cc": "\n" * 500}, {"a.md": "\n" * 999}],
        [({"a.h": "\n" * 201}, "at most 200"),
         ({"a.cc": "\n" * 501}, "at most 500"),
         ({"worker/kernels/a.cuh": "\n" * 401}, "at most 400")]),
    tidy.function_lengths: (
        [{"a.cc": function(70) + "\n" + function(70)},
         {"a.h": "class Foo {\n public:\n" + function(70, "  ") + "};\n"},
         {"a.py": "def f():\n" + "  g()\n" * 69 + "\n\n" + "g()\n" * 90}],
        [({"a.cc": function(71)}, "Bar() has 71 lines"),
         ({"a.cc": "int x;\n\n" + function(9) + "\n" + function(71)}, "Bar()"),
         ({"a.h": "class Foo {\n public:\n" + function(71, "  ") + "};\n"},
          "Bar() has 71 lines"),
         ({"a.py": "def f():\n" + "  g()\n" * 70}, "f() has 71 lines")]),
    tidy.header_guards: (
        [{"a/b.h": GUARD}],
        [({"a/c.h": GUARD}, "A_C_H_"), ({"a/b.h": "#pragma once\n"}, "A_B_H_")]
    ),
    tidy.targets: (
        [{"a/BUILD.bazel": 'hdrs = ["b.h"]', "a/b.h": ""},
         {"a/BUILD.bazel": 'srcs = ["c/b_test.py"]', "a/c/b_test.py": ""}],
        [({"a/BUILD.bazel": 'srcs = ["ab.h"]', "a/b.h": ""}, "no target"),
         ({"a/BUILD.bazel": "", "a/b_test.cc": ""}, "no target"),
         ({"BUILD.bazel": '"b_test.py"', "a/b_test.py": ""}, "no target")]),
    tidy.environment: (
        [{"a.cc": 'std::getenv("NO_COLOR");\n', "a.md": "`NO_COLOR`"},
         {"a.py": 'os.environ["TEST_TMPDIR"]\n'}],
        [({"a.cc": 'std::getenv("NO_COLOR");\n'}, "NO_COLOR"),
         ({"a.py": 'os.environ.get("SHARDWRIGHT_X")\n'}, "SHARDWRIGHT_X"),
         ({"a.sh": 'x="${SHARDWRIGHT_X:-}"\n'}, "SHARDWRIGHT_X")]),
    tidy.proto_comments: (
        [{"a.proto": "// A sum.\nmessage Sum {\n  int64 value = 1;\n}\n"},
         {"a.proto": "message AddRequest {\n  int64 a = 1;  // Optional.\n}"}],
        [({"a.proto": "message Sum {\n"}, "message Sum has no comment"),
         ({"a.proto": "// Of a.\n\nenum State {\n"}, "enum State has no"),
         ({"a.proto": "service Sums {\n"}, "service Sums has no comment"),
         ({"a.proto": "  rpc Add(AddRequest) returns (Sum);\n"}, "rpc Add"),
         ({"a.proto": "message AddRequest {\n  // One.\n  int64 a = 1;\n}\n"},
          "AddRequest.a is Required, or what?"),
         ({"a.proto": "  int64 wait_ms = 1;\n"}, "Duration"),
         ({"a.proto": "  uint64 size = 1;\n"}, "signed")]),
    tidy.reasons: (
        [{"ARCHITECTURE.md": REASONS,
          "client/cc/a.cc": THROWS % ("NotFound", "JOB_NOT_FOUND")}],
        [({"ARCHITECTURE.md": REASONS}, "given by nobody"),
         ({"ARCHITECTURE.md": REASONS,
           "client/cc/a.cc": THROWS % ("Aborted", "JOB_NOT_FOUND")},
          "JOB_NOT_FOUND is ABORTED"),
         ({"ARCHITECTURE.md": REASONS,
           "client/cc/a.cc": THROWS % ("NotFound", "RANK_NOT_FOUND")},
          "RANK_NOT_FOUND is not in"),
         ({"ARCHITECTURE.md": REASONS,
           "client/python/a.py": 'raise invalid(\n  "RANK_NOT_FOUND", "x")\n'},
          "RANK_NOT_FOUND is not in"),
         ({"ARCHITECTURE.md": REASONS,
           "a.proto": "  //   ABORTED   JOB_NOT_FOUND: no such job.\n"},
          "ABORTED JOB_NOT_FOUND")]),
    tidy.private_paths: (
        [{"a.md": "`/usr/local/cuda`, client/home/x\n"}],
        [({"a.md": "see /home/somebody\n"}, "one machine"),
         ({"a.sh": "cd /root/x\n"}, "one machine")]),
}


class TidyTest(unittest.TestCase):

  def test_every_rule_has_cases(self):
    self.assertEqual(set(CASES), set(tidy.RULES))

  def test_rules_leave_good_files_alone(self):
    for rule, (good, _) in CASES.items():
      for files in good:
        with self.subTest(rule=rule.__name__, files=files):
          self.assertEqual(list(rule(files)), [])

  def test_rules_find_what_they_are_for(self):
    for rule, (_, bad) in CASES.items():
      for files, message in bad:
        with self.subTest(rule=rule.__name__, files=files):
          found = [text for _, _, text in rule(files)]
          self.assertTrue(any(message in text for text in found), found)

  def test_a_long_function_may_only_shrink(self):
    tidy.LONG_FUNCTIONS = {("a.cc", "Foo::Bar"): 90}
    self.addCleanup(setattr, tidy, "LONG_FUNCTIONS", {})
    for line_count, message in ((90, None), (91, "at most 90"),
                                (80, "has shrunk to 80"), (9, "shrunk")):
      found = [text for _, _, text in
               tidy.function_lengths({"a.cc": function(line_count)})]
      self.assertEqual(len(found), 0 if message is None else 1, found)
      self.assertIn(message or "", "".join(found))
    found = list(tidy.function_lengths({"a.cc": ""}))
    self.assertIn("is gone", found[0][2])

  def test_tree(self):
    files = tree()
    self.assertIn("proto/sync/mutex.h", files)
    for rule in tidy.RULES:
      with self.subTest(rule=rule.__name__):
        found = [f"{path}:{line}: {text}" for path, line, text in rule(files)]
        self.assertEqual(found, [], "\n" + "\n".join(found))


if __name__ == "__main__":
  unittest.main()

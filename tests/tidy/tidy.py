"""The house rules that neither compiler nor build can see.

A rule is a function from the files of the tree, {path: text}, to what is wrong
in them: (path, line, message). tidy_test.py shows each rule good and bad files,
and then all of them the tree. Flags are //deploy:readme_test's.
"""

import ast
import re

MAX_COLUMNS = 80
MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = {".h": 200, ".cc": 500, ".py": 500, ".cu": 400, ".cuh": 400}

# Functions that are longer, and how long they may be. Only ever shorten this.
LONG_FUNCTIONS = {}

# Who may include which of our own folders; the longest prefix of a file
# counts. What is not listed is free: tests/, main.cc files.
OWN_INCLUDES = {
    "proto/plan/": "proto/plan/ proto/status/ shardwright/v1/",
    "proto/option/": "proto/option/",
    "proto/status/": "proto/status/ shardwright/v1/",
    "proto/sync/": "proto/sync/",
    "proto/time/": "proto/time/",
    "coordinator/": "coordinator/ proto/ shardwright/v1/",
    "coordinator/core/":
        "coordinator/core/ coordinator/storage/ proto/plan/ proto/status/ "
        "proto/time/ shardwright/v1/",
    "coordinator/planner/": "coordinator/planner/ proto/plan/ proto/status/",
    "coordinator/storage/": "coordinator/storage/ proto/status/",
    "worker/": "worker/ client/cc/ proto/ shardwright/v1/",
    "worker/exec/": "worker/exec/ worker/comm/ proto/plan/ proto/status/",
    "worker/device/":
        "worker/device/ worker/exec/ worker/kernels/ proto/plan/ proto/status/ "
        "proto/sync/",
    "worker/kernels/": "worker/kernels/ worker/exec/ proto/plan/",
    "worker/comm/": "worker/comm/ worker/device/ proto/status/ proto/sync/",
    "worker/agent/":
        "worker/agent/ worker/comm/ client/cc/ proto/ shardwright/v1/",
    "client/cc/": "client/cc/ proto/ shardwright/v1/",
    "client/json/": "client/json/ proto/ shardwright/v1/",
    "client/cli/":
        "client/cli/ client/cc/ client/json/ coordinator/planner/ proto/ "
        "shardwright/v1/",
    "client/native/":
        "client/native/ client/cc/ client/json/ coordinator/planner/ "
        "worker/device/ worker/exec/ proto/ shardwright/v1/",
}

# Libraries: the headers, and the files that may include them.
LIBRARY_INCLUDES = {
    "gRPC": (r"grpc(pp)?/|.*\.grpc\.pb\.h",
             r"proto/status/grpc_status|(coordinator|worker)/rpc/|client/cc/"),
    "generated messages": (
        r".*\.pb\.h|google/protobuf/",
        r"proto/(plan/(codec|document|layout_check)|status/|time/)|client/"
        r"|coordinator/(core|rpc)/|worker/(agent/|rpc/|\w*backend)|.*main\.cc"),
    "spdlog": (r"spdlog/|fmt/",
               r"coordinator/(main|rpc/)|worker/(main|agent/|rpc/)"),
    "CUDA": (r"cuda|cub/|nvtx3/",
             r"worker/(device/(cuda_|table_memory)|kernels/|comm/nccl_)"
             r"|tests/gpu/|.*_gpu_test\.cc"),
    "NCCL": (r"nccl", r"worker/comm/nccl_"),
    "Gloo": (r"gloo/", r"worker/comm/gloo_"),
    "SQLite": (r"sqlite3", r"coordinator/storage/(sqlite_|state_store_test)"),
    "yaml-cpp": (r"yaml-cpp/", r"proto/plan/document|client/cli/"),
    "CLI11": (r"CLI/", r"client/cli/|(coordinator|worker)/options"),
    "nlohmann_json": (r"nlohmann/", r"client/(cli|json|native)/"),
    "threads": (r"(thread|future|stop_token)$",
                r"proto/sync/|coordinator/rpc/|worker/|client/"),
    "files and streams": (r"(fstream|iostream|filesystem)$",
                          r".*main\.cc|.*_test\.cc|client/cli/|worker/"),
}

# What only some files may do: the text, the files, what to do instead.
RESERVED = {
    r"\bstd::((recursive_|timed_|shared_)*mutex|condition_variable\w*"
    r"|lock_guard|unique_lock|scoped_lock)\b|\babsl::Mutex":
        (r"proto/sync/mutex\.h|tests/|.*_benchmark\.cc",
         "use proto/sync/mutex.h"),
    r"\babsl::Now\(|\b(system|steady|high_resolution)_clock\b"
    r"|\b(clock_gettime|gettimeofday|std::time)\(":
        (r"coordinator/(main\.cc|rpc/)|worker/(main\.cc|agent/|comm/|rpc/)"
         r"|client/(cc|native|cli)/|tests/scale/|.*_(test|benchmark)\.cc",
         "take the time as an argument"),
    r"\bSleepFor\(|\bsleep_(for|until)\(|(?<![\w.])(u|nano)?sleep\(":
        (r"client/cc/(channel|lease_keeper|member)\.cc|client/native/member\.cc"
         r"|client/cli/(interruption|watch_commands)|tests/scale/"
         r"|worker/rpc/region_table\.cc",
         "wait for a condition"),
    r"\brandom_device\b|\bs?rand\(":
        (r".*/main\.cc|client/cc/(backoff\.h|(lease_keeper|member)\.cc)"
         r"|worker/rpc/session_table\.cc|tests/simulation/simulation_test\.cc",
         "take a seed as an argument"),
    r"\btime\.sleep\(":
        (r"deploy/main_job/(main|processes(_test)?)\.py"
         r"|tests/integration/processes\.py|tests/gpu/\w+\.py",
         "wait for a condition"),
    r"\bfriend class \w*Test\b": (r"$", "test through the public interface"),
}

CPP = (".h", ".cc", ".cu", ".cuh")
EXAMPLES = "tests/tidy/"  # Of what is wrong.


def _matching(files, *suffixes):
  return sorted((path, text) for path, text in files.items()
                if path.endswith(suffixes))


def _lines(text):
  return enumerate(text.splitlines(), 1)


def _includes(text):
  for number, line in _lines(text):
    found = re.match(r'#include [<"]([^>"]+)[>"]', line)
    if found:
      yield number, found[1]


def own_includes(files):
  """Each layer includes what is below it."""
  ours = ("proto/", "coordinator/", "worker/", "client/", "tests/",
          "shardwright/v1/")
  for path, text in _matching(files, *CPP):
    layers = [layer for layer in OWN_INCLUDES if path.startswith(layer)]
    if not layers or path.endswith("main.cc"):
      continue
    allowed = OWN_INCLUDES[max(layers, key=len)].split()
    for number, header in _includes(text):
      if header.startswith(ours) and not header.startswith(tuple(allowed)):
        yield path, number, f"{header}: {max(layers, key=len)} may include " \
            f"{', '.join(allowed)}"


def library_includes(files):
  """Each library has its place."""
  for path, text in _matching(files, *CPP):
    if path.startswith("tests/"):
      continue
    for number, header in _includes(text):
      for library, (headers, places) in LIBRARY_INCLUDES.items():
        if re.match(headers, header) and not re.match(places, path):
          yield path, number, f"{header}: {library} has no place here"


def reserved_calls(files):
  """Clocks, sleeps, chance and raw locks are for few files."""
  for path, text in _matching(files, ".py", *CPP):
    if path.startswith(EXAMPLES):
      continue
    for number, line in _lines(text):
      code = line.split("//")[0]
      for what, (places, instead) in RESERVED.items():
        found = re.search(what, code)
        if found and not re.match(places, path):
          yield path, number, f"{found[0]}: {instead}"


def names(files):
  """A name says what a thing is for."""
  vague = re.compile(r"(Utils?|Helpers?|Common|Managers?)(?![a-z])")
  for path, text in sorted(files.items()):
    if re.search(r"(^|[/_])(utils?|helpers?|common|managers?)([/_.]|$)", path):
      yield path, 1, "name it after what it does"
    if not path.endswith((".py", ".proto") + CPP):
      continue
    for number, line in _lines(text):
      found = re.match(r"\s*(class|struct|enum|message|namespace|service)\s+"
                       r"(\w+)", line)
      if found and vague.search(found[2]):
        yield path, number, f"{found[2]}: name it after what it does"


def todos(files):
  """What is to be done has an issue."""
  for path, text in sorted(files.items()):
    if path.startswith(EXAMPLES):
      continue
    for number, line in _lines(text):
      if re.search(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))", line):
        yield path, number, "write TODO(#issue), or do it"


def line_lengths(files):
  """As clang-format has it, which leaves raw strings alone."""
  raw = re.compile(r'R"\w*\(.*?\)\w*"', re.S)
  for path, text in _matching(files, ".py", ".proto", ".sh", ".bazel", *CPP):
    text = raw.sub(lambda found: "\n" * found[0].count("\n"), text)
    for number, line in _lines(text):
      if len(line) > MAX_COLUMNS and "://" not in line:
        yield path, number, f"{len(line)} columns, at most {MAX_COLUMNS}"


def file_lengths(files):
  for path, text in sorted(files.items()):
    for suffix, most in MAX_FILE_LINES.items():
      count = len(text.splitlines())
      if path.endswith(suffix) and count > most:
        yield path, 1, f"{count} lines, at most {most}"


def _functions(path, text):
  """(name, first line, lines) of what looks like a function definition."""
  if path.endswith(".py"):
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name, node.lineno, node.end_lineno - node.lineno + 1
    return
  # Formatted code: what a lone brace closes began at the same column, that of
  # a free function or of one within a class.
  lines = text.splitlines()
  for end, line in enumerate(lines):
    closes = re.fullmatch(r"( {2})?}", line)
    if not closes:
      continue
    opens = re.compile((closes[1] or "") + r"[A-Za-z_~]")
    begin = next((i for i in range(end, -1, -1) if opens.match(lines[i])), end)
    name = re.search(r"([\w:~]+)\(", " ".join(lines[begin:begin + 3]))
    if name and name[1] not in ("if", "for", "while", "switch"):
      yield name[1], begin + 1, end - begin + 1


def function_lengths(files):
  known = dict(LONG_FUNCTIONS)
  for path, text in _matching(files, ".py", *CPP):
    for name, number, count in _functions(path, text):
      most = known.pop((path, name), MAX_FUNCTION_LINES)
      if count > most:
        yield path, number, f"{name}() has {count} lines, at most {most}"
      elif MAX_FUNCTION_LINES < most and count < most:
        yield path, number, f"{name}() has shrunk to {count} lines: say so in" \
            " LONG_FUNCTIONS"
  for path, name in known:
    if path in files:
      yield path, 1, f"{name}() is gone: take it out of LONG_FUNCTIONS"


def header_guards(files):
  for path, text in _matching(files, ".h", ".cuh"):
    guard = re.sub(r"[/.]", "_", path).upper() + "_"
    for line in (f"#ifndef {guard}", f"#define {guard}"):
      if line not in text.splitlines():
        yield path, 1, f"has no line: {line}"


def targets(files):
  """What no target builds, nobody compiles or runs."""
  for path, _ in _matching(files, ".proto", "_test.py", *CPP):
    parts = path.split("/")
    for depth in range(len(parts) - 1, -1, -1):
      build = files.get("/".join(parts[:depth] + ["BUILD.bazel"]))
      if build is not None:
        break
    name = "/".join(parts[depth:])
    # Some packages make file names of a list of stems.
    if path.endswith((".proto", "_fuzz.cc")):
      name = name.removeprefix("shardwright/v1/").rsplit(".", 1)[0]
    if f'"{name}' not in (build or ""):
      yield path, 1, "is in no target of its package"


def environment(files):
  """Every variable that is read is in a document."""
  documents = "".join(text for _, text in _matching(files, ".md"))
  read = re.compile(r"""(?:getenv\(|environ\[|environ\.get\()["'](\w+)"""
                    r"""|\$\{(SHARDWRIGHT_\w+)""")
  for path, text in _matching(files, ".py", ".sh", ".bzl", *CPP):
    for number, line in _lines(text):
      for variable in filter(None, sum(read.findall(line), ())):
        if not (variable.startswith("TEST_") or variable in documents or
                path.startswith(EXAMPLES)):
          yield path, number, f"{variable} is read, but no document has it"


def proto_comments(files):
  """Who writes a client has only the comments of the contract."""
  for path, text in _matching(files, ".proto"):
    message, comment = "", ""
    for number, line in _lines(text):
      stripped = line.strip()
      if stripped.startswith("//"):
        comment += stripped
        continue
      found = re.match(r"(message|enum|service|rpc) (\w+)", stripped)
      if found and found[1] == "message":
        message = found[2]
      # What is asked and answered is said at the method.
      if found and not comment and not re.search(r"(Request|Response)$",
                                                 found[2]):
        yield path, number, f"{found[1]} {found[2]} has no comment"
      field = re.match(r"([\w.<>, ]+) (\w+) = \d+[^;]*;(.*)", stripped)
      if field:
        said = re.search(r"Required|Optional|[Ee]mpty|\b0 means",
                         comment + field[3])
        if message.endswith("Request") and not said:
          yield path, number, f"{message}.{field[2]} is Required, or what?"
        if re.search(r"_(ms|us|ns|sec|secs|seconds|millis)$", field[2]):
          yield path, number, f"{field[2]}: use Duration or Timestamp"
        if "uint" in field[1]:
          yield path, number, f"{field[2]}: use a signed type, or fixed64"
      comment = ""


def _reason_table(text):
  """{reason: codes} of ARCHITECTURE.md, with their line."""
  reasons, section = {}, False
  for number, line in _lines(text):
    if line.startswith("## "):
      section = line == "## Error reasons"
    cells = [cell.strip() for cell in line.split("|")]
    if not section or len(cells) < 4:
      continue
    code = cells[2] if re.fullmatch(r"[A-Z_]+", cells[2]) else None
    for reason in re.findall(r"`([A-Z_]+)`", cells[1]):
      reasons.setdefault(reason, (number, set()))[1].add(code)
  return reasons


def reasons(files):
  """ARCHITECTURE.md has every reason, with its code, and no other."""
  table = _reason_table(files["ARCHITECTURE.md"])
  used = set()
  for path, text in _matching(files, ".py", *CPP):
    if re.search(r"_test\.\w+$|^tests/|^deploy/", path):
      continue
    used.update(re.findall(r'"([A-Z_]{4,})"', text))
    made = re.compile(r'\bError\(\s*absl::StatusCode::k(\w+),\s*"([A-Z_]+)"'
                      r'|\binvalid\(\s*"([A-Z_]+)"|set_reason\("([A-Z_]+)"')
    for found in made.finditer(text):
      number = text.count("\n", 0, found.start()) + 1
      reason = found[2] or found[3] or found[4]
      if reason not in table:
        yield path, number, f"{reason} is not in ARCHITECTURE.md"
      elif found[1]:
        code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[1]).upper()
        if None not in table[reason][1] and code not in table[reason][1]:
          yield path, number, f"{reason} is {code}, but not so in " \
              "ARCHITECTURE.md"
  for path, text in _matching(files, ".proto"):
    for number, line in _lines(text):
      found = re.match(r" *// +([A-Z_]{5,}) +([A-Z]+_[A-Z_]+)\b", line)
      if found and found[1] not in table.get(found[2], (0, set()))[1]:
        yield path, number, f"{found[1]} {found[2]} is not in ARCHITECTURE.md"
  for reason, (number, _) in sorted(table.items()):
    if reason not in used:
      yield "ARCHITECTURE.md", number, f"{reason} is given by nobody"


def private_paths(files):
  """The project runs anywhere, and names no machine of ours."""
  path_of_one = re.compile(r"(?<![\w.}>-])/(home|root|work|mnt|Users)/[\w.]")
  for path, text in sorted(files.items()):
    for number, line in _lines(text):
      if path_of_one.search(line) and not path.startswith(EXAMPLES):
        yield path, number, "names a folder of one machine"


RULES = (own_includes, library_includes, reserved_calls, names, todos,
         line_lengths, file_lengths, function_lengths, header_guards, targets,
         environment, proto_comments, reasons, private_paths)

#!/bin/bash
# Runs the checks that take too long for every change, the named ones or all:
#   tests/checks.sh [asan|ubsan|tsan|layering|lint|tidy|fuzz]... [BAZEL FLAG]...
# Ends with a line for each, and with 1 if one failed. Not part of CI.
set -uo pipefail

here="$(dirname "$(readlink -f "$0")")"
cd "$here/.."
checks=()
options=()
for argument in "$@"; do
  case "$argument" in
    asan | ubsan | tsan | layering | lint | tidy | fuzz)
      checks+=("$argument")
      ;;
    -*) options+=("$argument") ;;
    *)
      sed -n '2,4s/^# //p' "$0" >&2
      exit 2
      ;;
  esac
done
[[ ${#checks[@]} -gt 0 ]] ||
  checks=(tidy layering lint asan ubsan tsan fuzz)

bazel() {
  local command="$1"
  shift
  bash deploy/bazel.sh "$command" ${options[@]+"${options[@]}"} "$@"
}

run_tests() {
  bash deploy/run_tests.sh ${options[@]+"${options[@]}"} "$@"
}

asan() {
  # Python loads an instrumented library, so it too needs the runtime first.
  local leaks="suppressions=$here/lsan_suppressions.txt:print_suppressions=0"
  run_tests --config=asan "--test_env=LSAN_OPTIONS=$leaks" \
    "--run_under=env LD_PRELOAD=$(g++ -print-file-name=libasan.so)"
}

ubsan() {
  run_tests --config=ubsan
}

# targets QUERY: what bazel finds, in one line.
targets() {
  bash deploy/bazel.sh query "$1" 2>/dev/null | tr '\n' ' '
}

# Tests in C++ without gRPC and Gloo have nothing to be forgiven; the rest,
# programs that Python tests start included, call libraries that are not
# instrumented.
tsan() {
  local foreign='rdeps(//..., @grpc//:all + @gloo//:all)' all='tests(//...)'
  # Python loads an instrumented library only with its runtime preloaded.
  local out='rdeps(//..., //client/python:all)'
  local pure rest
  pure="$(targets "kind(cc_test, $all) except $foreign")" || return
  rest="$(targets "$all intersect $foreign except ($out)")" || return
  echo "tsan: left out: $(targets "$all intersect ($out)")"
  # shellcheck disable=SC2086
  run_tests --config=tsan $pure || return
  # Else tsan keeps each address of a race, forgiven ones too, in a list, and
  # goes through it for every eight bytes of a message that gRPC sends.
  local forgiven="suppressions=$here/tsan_suppressions.txt"
  # shellcheck disable=SC2086
  run_tests --config=tsan $rest \
    "--test_env=TSAN_OPTIONS=$forgiven:suppress_equal_addresses=0"
}

# refused TARGET WORDS: layering must refuse TARGET with an error of WORDS.
refused() {
  local log
  if log="$(bazel build --config=layering "//tests/layering:$1" 2>&1)"; then
    echo "layering: //tests/layering:$1 was built, and should not" >&2
    return 1
  fi
  grep -q "$2" <<<"$log" || {
    echo "$log" >&2
    return 1
  }
}

layering() {
  bazel build --config=layering //... &&
    refused undeclared_include 'does not depend on a module exporting' &&
    refused unlocked_member 'requires holding mutex'
}

lint() {
  bazel build //proto:services //coordinator/core:stored || return
  find client coordinator proto tests worker -name '*.cc' \
    -not -path 'tests/layering/*' -print0 |
    xargs -0 -n 1 -P "$(nproc)" sh -c 'clang-tidy --quiet "$1" -- \
      -std=c++17 -I. -Ibazel-bin -Ibazel-bin/proto 2>/dev/null' --
}

tidy() {
  bazel test //tests/tidy/...
}

fuzz() {
  bash tests/fuzz.sh
}

results=()
failed=0
for check in "${checks[@]}"; do
  echo "checks: $check"
  begin=$SECONDS
  result=passed
  "$check" || { result=FAILED failed=1; }
  results+=("$(printf '%-9s %s %6d s' "$check" "$result" $((SECONDS - begin)))")
done
printf '%s\n' "${results[@]}"
exit "$failed"

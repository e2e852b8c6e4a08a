#!/bin/bash
# Builds and runs every test that needs no GPU, and fuzzes each decoder for 30
# s; the last line counts the cases: "N passed, N failed, N skipped". Arguments
# go to bazel test; without targets among them it tests everything. With
# arguments it does not fuzz.
set -euo pipefail

here="$(dirname "$(readlink -f "$0")")"
bash "$here/setup.sh"

events="$(mktemp)"
trap 'rm -f "$events"' EXIT
targets=(//...)
for argument in "$@"; do
  [[ $argument == -* ]] || targets=()
done

status=0
bash "$here/bazel.sh" test --keep_going --build_event_json_file="$events" \
  "$@" "${targets[@]}" || status=$?
fuzzed=()
if [[ $# -eq 0 ]]; then
  bash "$here/../tests/fuzz.sh" || status=1
  fuzzed=("$here/../out/fuzz/results")
fi
/usr/bin/python3 "$here/count_tests.py" "$events" "${fuzzed[@]}" || status=1
exit "$status"

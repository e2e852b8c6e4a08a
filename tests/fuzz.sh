#!/bin/bash
# Fuzzes decoders: tests/fuzz.sh [SECONDS] [TARGET...]. Each target, or every
# one of tests/fuzz, for SECONDS (30). Begins with the committed corpus and what
# earlier runs left in out/fuzz. Exits with 1 on a finding and keeps its input
# there; out/fuzz/results has one line a target for deploy/count_tests.py.
set -euo pipefail

here="$(dirname "$(readlink -f "$0")")"
out="$here/../out/fuzz"
seconds=30
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  seconds="$1"
  shift
fi
targets=("$@")
if [[ ${#targets[@]} -eq 0 ]]; then
  for source in "$here"/fuzz/*_fuzz.cc; do
    targets+=("$(basename "$source" .cc)")
  done
fi

mkdir -p "$out"
out="$(readlink -f "$out")"
printf '%s failed\n' "${targets[@]}" >"$out/results"  # Until it is known.
bash "$here/../deploy/bazel.sh" build --config=fuzz \
  "${targets[@]/#///tests/fuzz:}"
programs="$(bash "$here/../deploy/bazel.sh" info --config=fuzz bazel-bin \
  2>/dev/null)/tests/fuzz"

# A number that libFuzzer printed last: number PATTERN LOG.
number() { grep -oE "$1 *[0-9]+" "$2" | grep -oE '[0-9]+$' | tail -n 1; }

failed=0
: >"$out/results"
TIMEFORMAT='%0U+%0S'  # CPU seconds in the program and in the system.
row='%-18s %7s %12s %8s %9s %10s  %s\n'
printf "$row" target 'CPU s' executions exec/s coverage 'new units' finding
for target in "${targets[@]}"; do
  log="$out/$target.log"
  options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048
    -max_len=4096 -print_final_stats=1 -artifact_prefix="$out/$target-")
  dictionary="$here/fuzz/dictionaries/$target.dict"
  [[ ! -f $dictionary ]] || options+=("-dict=$dictionary")
  mkdir -p "$out/corpus/$target"
  finding=none
  result=passed
  if ! { time ASAN_OPTIONS=allow_addr2line=1 UBSAN_OPTIONS=print_stacktrace=1 \
    timeout $((seconds + 60)) nice -n 10 "$programs/$target" "${options[@]}" \
    "$out/corpus/$target" \
    "$here/fuzz/corpus/$target" >"$log" 2>&1; } 2>"$out/$target.time"; then
    failed=1
    result=failed
    finding="$(grep -oE "$out/$target-[a-z]+-[0-9a-f]+" "$log" | tail -n 1)" ||
      finding="see $log"
  fi
  echo "$target $result" >>"$out/results"
  printf "$row" "$target" "$(<"$out/$target.time")" \
    "$(number number_of_executed_units: "$log")" \
    "$(number average_exec_per_sec: "$log")" "$(number 'cov:' "$log")" \
    "$(number new_units_added: "$log")" "$finding"
done
exit "$failed"

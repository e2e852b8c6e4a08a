#!/bin/bash
# Packs programs, library, Python package, GPU tests and benchmarks for nodes
# that have neither Bazel nor gRPC:
#
#   bash deploy/bundle.sh [OUT.tar.gz [ARGUMENT OF BAZEL BUILD]...]
#
# OUT is out/shardwright-bundle.tar.gz. The folder in it may stand anywhere on
# a machine with glibc >= 2.36. NCCL and the GPU's driver are the node's own.
#
#   bin/        coordinatord, workerd, shardctl
#   lib/        libshardwright.so, and what the programs need besides libc
#   python/     the package shardwright
#   layouts/    examples
#   tests/      GPU tests and benchmarks (bin/), their data, and scripts
#   manifest    what is in tests/bin: "test|benchmark|program TAG NAME", one a
#               line; a program is run by one of the scripts
#   gpu_report  runs all of that: gpu_report --json FILE
set -euo pipefail

readonly GLIBC_MAX=2.36
readonly MIB_MAX=50
# Every node has these, or must bring its own.
NODE_LIBRARIES='^(linux-vdso|ld-linux-x86-64|libc|libm|libdl|librt|libpthread'
NODE_LIBRARIES+='|libresolv|libutil|libstdc\+\+|libgcc_s|libnccl|libcuda)\.so'
readonly NODE_LIBRARIES

root="$(dirname "$(dirname "$(readlink -f "$0")")")"
out="$(realpath -m "${1:-$root/out/shardwright-bundle.tar.gz}")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
bundle="$work/shardwright-bundle"
cd "$root"

die() {
  echo "bundle: $*" >&2
  exit 1
}

bazel() { bash deploy/bazel.sh "$@"; }

# Where a label's file is built.
built() { echo "bazel-bin/$(sed -e 's|^//||' -e 's|:|/|' <<<"$1")"; }

# Labels of the programs with a tag.
tagged() {
  bazel query --noshow_progress \
    "kind('cc_(test|binary) rule', attr(tags, '[\[ ]$1[],]', //...))" \
    2>"$work/query.log" || die "$(cat "$work/query.log")"
}

# Writes the manifest, and prints the label of each GPU program. One with
# several tags runs where there are GPUs enough for the first.
list_gpu_programs() {
  local tag label name kind
  for tag in gpu1 gpu2 gpu4 gpu8 gpu_benchmark gpu_program; do
    kind="test"
    [[ $tag == gpu_* ]] && kind="${tag#gpu_}"
    tagged "$tag" >"$work/tagged"
    while read -r label; do
      name="${label##*:}"
      grep -qxF "$label" "$work/programs" && continue
      grep -q " $name\$" "$bundle/manifest" && die "two programs are $name"
      echo "$kind $tag $name" >>"$bundle/manifest"
      echo "$label" >>"$work/programs"
    done <"$work/tagged"
  done
}

# A program or library of ours, stripped, which finds what it needs in lib/.
install_elf() {
  local file="$1" target="$2" rpath="$3"
  install -D -m 755 "$file" "$target"
  strip --strip-unneeded "$target"
  # The older, stronger kind: it holds for what is needed indirectly as well,
  # and whatever LD_LIBRARY_PATH a node has.
  patchelf --force-rpath --set-rpath "$rpath" "$target"
}

# What a test reads, where it looks for it: below tests/data.
install_data() {
  local program="$1" entry path
  [[ -d $program.runfiles ]] || return 0
  (cd "$program.runfiles/shardwright" && find . ! -type d ! -name '*.so*') |
    while read -r entry; do
      path="${entry#./}"
      [[ $path == "${program#bazel-bin/}" ]] && continue
      mkdir -p "$bundle/tests/data/$(dirname "$path")"
      if [[ -e $bundle/bin/${path##*/} ]]; then
        ln -srf "$bundle/bin/${path##*/}" "$bundle/tests/data/$path"
      else
        cp -L "$program.runfiles/shardwright/$path" "$bundle/tests/data/$path"
      fi
    done
}

our_elves() {
  find "$bundle/bin" "$bundle/lib" "$bundle/tests/bin" -type f -perm -u+x
}

# Copies the shared libraries that ours need.
install_libraries() {
  local name path
  our_elves | xargs -r ldd 2>/dev/null | grep '=>' | sort -u |
    while read -r name _ path _; do
      [[ $name =~ $NODE_LIBRARIES ]] && continue
      [[ $path == not ]] && die "$name is not to be found"
      [[ -e $bundle/lib/$name ]] || install -m 644 "$path" "$bundle/lib/$name"
    done
}

check_glibc() {
  local newest
  newest="$(find "$bundle"/{bin,lib,tests/bin} -type f -exec objdump -T {} + |
    grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -1)"
  [[ $(printf '%s\n' "${newest#GLIBC_}" "$GLIBC_MAX" | sort -V | tail -1) == \
    "$GLIBC_MAX" ]] || die "needs $newest, newer than $GLIBC_MAX"
  echo "bundle: needs glibc ${newest#GLIBC_}"
}

starts() {
  env -i "$1" --help >"$work/start" 2>&1 ||
    { cat "$work/start" >&2; die "${1##*/} does not start"; }
}

# Elsewhere, with nothing in the environment: does it start?
check_start() {
  local place="$work/elsewhere" program
  mkdir "$place"
  tar -xzf "$out" -C "$place"
  for program in coordinatord workerd shardctl; do
    starts "$place/shardwright-bundle/bin/$program"
  done
  starts "$place/shardwright-bundle/gpu_report"
  while read -r program; do
    ldd "$place/${program#"$work"/}" >"$work/ldd"
    awk '/=> \// {print $1, $3}' "$work/ldd" | while read -r name path; do
      [[ $name =~ $NODE_LIBRARIES || $path == "$place"/* ]] ||
        die "$program finds $name in $path"
    done
    grep 'not found' "$work/ldd" >&2 && die "$program lacks a library"
  done < <(our_elves)
  return 0
}

command -v patchelf >/dev/null || die "needs patchelf (bash deploy/setup.sh)"
mkdir -p "$bundle"/{bin,lib,layouts,tests/{bin,data}} "$(dirname "$out")"
echo "commit $(git describe --always --dirty 2>/dev/null || echo unknown)" \
  >"$bundle/manifest"

programs=()
bazel query --noshow_progress '@cuda//:all' >/dev/null 2>&1
if grep -q '^REQUIRES_CUDA = \[\]' \
  "$(bazel info output_base 2>/dev/null)/external/cuda/defs.bzl"; then
  : >"$work/programs"
  list_gpu_programs
  mapfile -t programs <"$work/programs"
  ((${#programs[@]})) || die "no target has a tag of a GPU"
else
  echo "bundle: no CUDA here (CUDA_HOME, /usr/local/cuda): the bundle is for" \
    "hosts only, without GPU tests"
fi

ours=(//coordinator:coordinatord //worker:workerd //client/cli:shardctl)
library=//client/native:libshardwright.so
bazel build "${@:2}" "${ours[@]}" "$library" "${programs[@]}"

for label in "${ours[@]}"; do
  # shellcheck disable=SC2016  # The loader's word, not the shell's.
  install_elf "$(built "$label")" "$bundle/bin/${label##*:}" '$ORIGIN/../lib'
done
for label in "${programs[@]}"; do
  # shellcheck disable=SC2016
  install_elf "$(built "$label")" "$bundle/tests/bin/${label##*:}" \
    '$ORIGIN/../../lib'
  install_data "$(built "$label")"
done
# shellcheck disable=SC2016
install_elf "$(built "$library")" "$bundle/lib/libshardwright.so" \
  '$ORIGIN:$ORIGIN/../../lib'
install_libraries

mkdir -p "$bundle/python/shardwright"
cp client/python/shardwright/{*.py,py.typed} "$bundle/python/shardwright/"
ln -s ../../lib/libshardwright.so "$bundle/python/shardwright/"
# tests/gpu/torch_adapter.py runs it.
cp client/python/torch_adapter_test.py "$bundle/python/"
cp deploy/layouts/*.{yaml,json,txt} "$bundle/layouts/"
for folder in gpu peers; do
  mkdir -p "$bundle/tests/$folder"
  find "tests/$folder" -name '*.py' ! -name '*_test.py' \
    -exec cp {} "$bundle/tests/$folder/" \;
done
cat >"$bundle/gpu_report" <<'LAUNCHER'
#!/bin/sh
exec python3 "$(dirname "$(readlink -f "$0")")/tests/gpu/gpu_report.py" "$@"
LAUNCHER
chmod +x "$bundle/gpu_report"

check_glibc
tar -czf "$out" -C "$work" --owner=0 --group=0 shardwright-bundle
check_start
mib="$(du --apparent-size -sm "$bundle" | cut -f1)"
packed="$(du --apparent-size -sm "$out" | cut -f1)"
((mib < MIB_MAX)) || die "$mib MiB, must be under $MIB_MAX; the largest:" \
  "$(cd "$bundle" && find . -type f -size +1M -printf '%s %p\n' |
    sort -rn | head -5 | tr '\n' ' ')"
echo "bundle: $out, $packed MiB; unpacked $mib MiB," \
  "${#programs[@]} GPU tests and benchmarks"

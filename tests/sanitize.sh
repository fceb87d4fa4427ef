#!/usr/bin/env bash
# The native tests under AddressSanitizer and UBSan, the C parts driven from Python too.
# The sanitized modules are built into a copy of the tree, so that the ordinary ones stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
python=$(realpath -s "$(command -v "$python")")

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r pyproject.toml setup.py README.md LICENSE native streamfn tests "$copy"
rm -f "$copy"/streamfn/*.so
cd "$copy"
STREAMFN_SANITIZE=1 "$python" setup.py -q build_ext --inplace

preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)"
# Leaks are not looked for: CPython itself keeps memory until the end.
LD_PRELOAD="$preload" PYTHONPATH="$copy" PYTHONMALLOC=malloc \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_segv=0 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    "$python" -m pytest -p no:cacheprovider -q -s tests/native tests/model \
    --ignore=tests/native/test_ring_threads.py  # it builds sanitized harnesses of its own, in the ordinary suite

#!/usr/bin/env bash
# Tests under AddressSanitizer and UBSan, in every process they start: the runtime, zygotes, workers, commands.
#
#     tests/sanitize.sh              what is in the gate: the native tests, the models that have native code in them, the
#                                    pool with real workers
#     tests/sanitize.sh --all        every test that touches native code
#     tests/sanitize.sh ARGUMENT...  what pytest is told
#
# The sanitized modules are built into a copy of the tree, so that the ordinary ones stay as they are.  What a sanitizer
# finds goes to a file, whoever found it: a worker that was aborted may be what a test expects.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
python=$(realpath -s "$(command -v "$python")")

# These build and load what they need by themselves, in the ordinary suite, or preload something else.
own=(--ignore=tests/native/test_ring_threads.py --ignore=tests/crash/test_system_calls.py --ignore=tests/proof
    --ignore=tests/fuzz --ignore=tests/test_layers.py)
# Models of the pure core: nothing native is loaded there, and they would take longer than everything else together.
pure=(--ignore=tests/model/test_{batcher,capture,decisions,filter,lane,scaling,shard,store,window_lane}_model.py
    --ignore=tests/model/test_poison.py)
if [ $# = 0 ]; then
    set -- "${pure[@]}" tests/native tests/model \
        tests/system/test_pool_{answers,bells,faults,link,retire}.py
elif [ "$1" = --all ]; then
    shift
    set -- -n 2 --dist loadfile tests "$@"
fi

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r pyproject.toml setup.py ./*.md LICENSE bench docs examples native streamfn tests "$copy"
rm -f "$copy"/streamfn/*.so
mkdir "$copy/found"
cd "$copy"
STREAMFN_SANITIZE=1 "$python" setup.py -q build_ext --inplace

preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)"
result=0
# Leaks are not looked for: CPython itself keeps memory until the end.
LD_PRELOAD="$preload" PYTHONPATH="$copy" PYTHONMALLOC=malloc \
    ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:handle_segv=0:allocator_may_return_null=1:log_path=$copy/found/asan" \
    UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$copy/found/ubsan" \
    "$python" -m pytest -p no:cacheprovider -q -s "${own[@]}" "$@" || result=$?
if compgen -G "found/*" >/dev/null; then
    cat found/*
    echo "the sanitizers have found something"
    exit 1
fi
echo "the sanitizers have found nothing"
exit "$result"

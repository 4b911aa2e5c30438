#!/usr/bin/env bash
# Everything that needs a GPU, most valuable first; each part has its own time limit, 8 minutes in all.
#
#   PYTHON="uv run python" benchmarks/gpu_check.sh [FOLDER]
#
# Writes FOLDER (runs/gpu_check): a log for each part, and gpu_step.jsonl, which benchmarks/gpu_report.py reads.
cd "$(dirname "$0")/.." || exit 1
out=${1:-runs/gpu_check}
python=${PYTHON:-python3}
models=${MODELS:-runs/benchmarks}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
mkdir -p "$out" "$models"
failed=0

part() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 start=$SECONDS
    shift 2
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1
    local code=$?
    [ $code -eq 0 ] || failed=1
    echo "$name: exit code $code after $((SECONDS - start)) s; $(tail -n 1 "$out/$name.log")"
}

TEST_DEVICE=cuda part device_tests 100 $python -m pytest -q -p no:cacheprovider tests/device
part steps 120 $python benchmarks/gpu_step.py "$out/gpu_step.jsonl" --folder="$models" --profile
part main_job 60 $python main.py --device=cuda --steps=8 --output_dir="$out/main"
[ -n "$SKIP_CPU" ] || part cpu_tests 150 $python -m pytest -q -p no:cacheprovider -n 14 tests -x --maxfail=30
exit $failed

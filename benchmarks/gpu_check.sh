#!/usr/bin/env bash
# What needs a GPU, most valuable first. Each part has a time limit; they add up to less than 8 minutes.
#
#   PYTHON="uv run python" benchmarks/gpu_check.sh [FOLDER]
#
# Writes FOLDER (runs/gpu_check): a log of each part, and what benchmarks/gpu_report.py reads: about.json,
# gpu_step.jsonl and trl.json. Keep these three in benchmarks/results. trace.json.gz is for a trace viewer.
# Parts that need a package that is not installed (TRL, pytest) fail; the others still run.
cd "$(dirname "$0")/.." || exit 1
out=${1:-runs/gpu_check}
python=${PYTHON:-python3}
models=${MODELS:-runs/benchmarks}
export PYTHONPATH=$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false TRL_EXPERIMENTAL_SILENCE=1 PYTHONUNBUFFERED=1
mkdir -p "$out" "$models"
failed=0

part() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 start=$SECONDS
    shift 2
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1
    local code=$?
    [ $code -eq 0 ] || failed=1
    echo "$name: exit code $code after $((SECONDS - start)) s"
}

printf '{"date": "%s", "commit": "%s", "remark": ""}\n' "$(date +%F)" "$(git rev-parse --short HEAD 2>/dev/null)" >"$out/about.json"
prepare='from pathlib import Path; import sys, workloads; workloads.prepare(Path(sys.argv[1]), "qwen3")'
part models 90 $python -c "$prepare" "$models" &
TEST_DEVICE=cuda OMP_NUM_THREADS=1 part device_tests 110 $python -m pytest -q -p no:cacheprovider $TEST_OPTIONS tests/device
wait
part steps 100 $python benchmarks/gpu_step.py "$out/gpu_step.jsonl" --folder="$models" --steps=5 --profile --trace="$out/trace.json.gz"
part main_job 60 $python main.py --device=cuda --steps=8 --output_dir="$out/main"
part trl 190 $python benchmarks/trl_ppo.py qwen3 "$models/qwen3" 1 0 # one step of it takes long enough
tail -n 1 "$out/trl.log" >"$out/trl.json"
exit $failed

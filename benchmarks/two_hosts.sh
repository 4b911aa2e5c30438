#!/usr/bin/env bash
# Train on two hosts: network namespaces of this machine, each with an address of its own. Needs root, and `ip` of
# iproute2. Takes about two minutes.
#
#     uv run benchmarks/two_hosts.sh
#
# 1. A run to the end. 2. One host is killed in mid-run: the other must stop within 60 s and say why. 3. The network
# between them is cut: so must both. 4. The run of 2. is resumed, and must end like that of 1.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d)
hosts=(ppo-a ppo-b) addresses=(10.77.0.1 10.77.0.2)

clean_up() {
  for host in "${hosts[@]}"; do
    ip netns pids "$host" 2>/dev/null | xargs -r kill -9 || true
    ip netns del "$host" 2>/dev/null || true
  done
}
trap 'clean_up; rm -rf "$place"' EXIT

set_up() {
  clean_up
  ip netns add "${hosts[0]}"
  ip netns add "${hosts[1]}"
  ip link add wire-a netns "${hosts[0]}" type veth peer name wire-b netns "${hosts[1]}"
  for number in 0 1; do
    wire=$([ "$number" = 0 ] && echo wire-a || echo wire-b)
    ip -n "${hosts[number]}" addr add "${addresses[number]}/24" dev "$wire"
    ip -n "${hosts[number]}" link set "$wire" up
    ip -n "${hosts[number]}" link set lo up
  done
}

start() { # start NUMBER arguments of ppo-lm
  local number=$1 wire
  shift
  wire=$([ "$number" = 0 ] && echo wire-a || echo wire-b)
  GLOO_SOCKET_IFNAME=$wire OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 ip netns exec "${hosts[number]}" \
    python -m torch.distributed.run --nnodes 2 --node-rank "$number" --nproc-per-node 1 --max-restarts 0 \
    --master-addr "${addresses[0]}" --master-port 29501 -m ppo_lm "$@" >"$place/log-$number" 2>&1 &
}

wait_for_step() { # wait_for_step FOLDER STEP
  for _ in $(seq 600); do
    [ -e "$1/metrics.jsonl" ] && [ "$(grep -c tokens_per_second "$1/metrics.jsonl")" -ge "$2" ] && return
    sleep 0.1
  done
  cat "$place"/log-*
  exit 1
}

ended_within_60_s() { # ended_within_60_s NUMBER
  local began=$SECONDS
  while ip netns pids "${hosts[$1]}" | grep -q .; do
    [ $((SECONDS - began)) -gt 60 ] && echo "host $1 still runs after 60 s" && cat "$place/log-$1" && exit 1
    sleep 0.5
  done
  echo "host $1 stopped within $((SECONDS - began)) s:"
  grep -h "^error: \|^The run was saved" "$place/log-$1" || true
}

train=(train --config embedded --steps 8 --save_every 2 --eval_prompts 0 --batch_size 8 --device cpu --save_merged false)

echo "== a run to the end"
set_up
start 0 "${train[@]}" --output_dir "$place/whole"
start 1 "${train[@]}" --output_dir "$place/whole"
wait
grep -h "step 8/8" "$place/log-0"

echo "== one host is killed in mid-run"
start 0 "${train[@]}" --output_dir "$place/killed"
start 1 "${train[@]}" --output_dir "$place/killed"
wait_for_step "$place/killed" 3
ip netns pids "${hosts[1]}" | xargs kill -9
ended_within_60_s 0

echo "== the network is cut"
start 0 "${train[@]}" --output_dir "$place/cut"
start 1 "${train[@]}" --output_dir "$place/cut"
wait_for_step "$place/cut" 3
ip -n "${hosts[1]}" link set wire-b down
ended_within_60_s 0
ended_within_60_s 1
set_up

echo "== the run that was killed is resumed"
start 0 train --resume "$place/killed"
start 1 train --resume "$place/killed"
wait
grep -h "step 8/8" "$place/log-0"
cmp "$place"/{whole,killed}/adapter/adapter_model.safetensors && echo "the adapters are equal, byte for byte"

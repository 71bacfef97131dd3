#!/usr/bin/env bash
# Everything that a GPU is asked for on its first day, the most valuable first, into one folder: does it start, is it right, how fast is it
# beside PyTorch on the same weights, how even is the control loop, which kernels are the worst. Every part has its own time, goes on
# when another fails, and leaves its output in a file; summary.txt says what became of each.
#
#   benches/cuda.sh                                  builds without ROS first; needs what docs/cuda.md says, nvidia-smi aside
#   benches/cuda.sh --binary ./pi0_node              with a program that was built elsewhere
#   benches/cuda.sh --device cpu --preset tiny       the same on the CPU with a small model, to see that all of it runs
#
# Full size needs 7 GB on disk, 14 GB of memory for the reference on the CPU, and 8 GB of the GPU.
set -u
cd "$(dirname "$0")/.." || exit 1

usage() {
    cat <<'USAGE'
benches/cuda.sh [OPTIONS]
  --device NAME    what the parameter `device` takes [cuda]
  --preset NAME    the large model: pi0 or tiny; its pi0.5 goes with it [pi0]
  --binary FILE    pi0_node, instead of building it
  --python FILE    an interpreter with PyTorch 2.3 or newer [python3]; without one the peers are left out
  --work DIR       where checkpoints are made, and kept for next time [target/cuda]
  --out DIR        the reports [target/cuda/report-DATE]
  --minutes N      no part begins or runs longer than so many minutes after the start [9]
  --replay-s N     seconds of control loop from the recorded bag, in real time [60]
  --runs N         runs of each measurement [200]
USAGE
}

device=cuda preset=pi0 binary='' python=python3 work=target/cuda out='' minutes=9 replay_s=60 runs=200
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --device | --preset | --binary | --python | --work | --out | --minutes | --replay-s | --runs)
        [ $# -ge 2 ] || { echo "$1 needs a value" >&2 && exit 2; }
        name=${1#--}
        printf -v "${name//-/_}" '%s' "$2"
        shift 2
        ;;
    *) usage >&2 && exit 2 ;;
    esac
done
case $preset in
pi0) small=mini large05=pi05 ;;
tiny) small=tiny large05=pi05-tiny ;;
*) echo "--preset is pi0 or tiny" >&2 && exit 2 ;;
esac
out=${out:-$work/report-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$work" "$out" || exit 1

if [ -z "$binary" ]; then
    # No ROS 2: nothing here needs it. Not counted in the minutes.
    echo "building pi0_node .."
    AMENT_PREFIX_PATH='' cargo build --release --no-default-features --bin pi0_node || exit 1
    binary=target/release/pi0_node
fi
end=$((SECONDS + minutes * 60))
failed=0

say() { printf '%s\n' "$*" | tee -a "$out/summary.txt"; }

# part NAME SECONDS COMMAND..: at most so long, and not beyond the end.
part() {
    local name=$1 most=$2 left=$((end - SECONDS)) from=$SECONDS code
    shift 2
    if [ "$left" -lt 5 ]; then
        say "$(printf '%-28s left out: no time' "$name")"
        return 1
    fi
    [ "$most" -gt "$left" ] && most=$left
    timeout --kill-after 5 "$most" "$@" >"$out/$name.txt" 2>&1
    code=$?
    case $code in
    0) say "$(printf '%-28s ok      %4d s' "$name" $((SECONDS - from)))" ;;
    124 | 137) say "$(printf '%-28s stopped after %d s' "$name" $((SECONDS - from)))" && failed=$((failed + 1)) ;;
    *) say "$(printf '%-28s FAILED  %4d s (exit %d)' "$name" $((SECONDS - from)) "$code"): $(grep -v '^ *$' "$out/$name.txt" | tail -1)" &&
        failed=$((failed + 1)) ;;
    esac
    return "$code"
}

machine() {
    date -u
    uname -srm
    lscpu | grep -E '^(Model name|CPU\(s\))'
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv 2>&1
    "$binary" --version
    "$python" -c 'import torch; print("PyTorch", torch.__version__, "CUDA", torch.version.cuda, torch.cuda.is_available())' 2>&1 | tail -1
}

say "pi0_node on $device, $(date -u)"
machine >"$out/machine.txt" 2>&1
grep -hE 'NVIDIA|MiB|Model name|PyTorch' "$out/machine.txt" | while read -r line; do say "  $line"; done

# The large checkpoints are made by the CPU while the small models are on the device. Written beside, so that a half is never taken.
make_checkpoint() {
    [ -f "$work/$1/config.json" ] && return 0
    rm -rf "$work/$1.part"
    "$binary" checkpoint init --preset "$1" "$work/$1.part" && mv "$work/$1.part" "$work/$1"
}
(make_checkpoint "$preset" && make_checkpoint "$large05") >"$out/checkpoints.txt" 2>&1 &
making=$!

# 1. Does it start, and is it right? Small models first: they say in seconds what is broken.
part audit 60 "$binary" audit --device "$device" --preset tiny --markdown "$out/audit.md"
for dtype in f32 bf16; do
    for model in tiny "$small" pi05-tiny; do
        [ -f "$out/verify-$model-$dtype.txt" ] && continue
        part "verify-$model-$dtype" 60 "$binary" verify --device "$device" --preset "$model" --dtype "$dtype" --json "$out/verify-$model-$dtype.json"
    done
done

wait_for() { # checkpoint: until it is there, or the end
    while [ ! -f "$work/$1/config.json" ] && kill -0 "$making" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do sleep 1; done
    [ -f "$work/$1/config.json" ] || say "there is no checkpoint $1: $(tail -1 "$out/checkpoints.txt")"
}

bench() { # model cameras steps
    part "bench-$1-$2cam-$3steps" 90 "$binary" bench --device "$device" --checkpoint "$work/$1" --cameras "$2" --steps "$3" --runs "$runs" \
        --nodes 30 --json "$out/bench-$1-$2cam-$3steps.json"
}

peer() { # model cameras steps mode, which is eager or what torch.compile takes
    local of=$1-$2cam-$3steps compiled=()
    [ "$4" = eager ] || compiled=(--compile "$4")
    part "peer-$of-$4" 150 "$python" benches/peers/torch_pi0.py --checkpoint "$work/$1" --device "${device/cpu*/cpu}" --dtype bf16 --steps "$3" \
        --cameras "$2" --runs 30 "${compiled[@]}" --inputs "$out/inputs-$1-$2cam.safetensors" --json "$out/peer-$of-$4.json" \
        --against "$out/bench-$of.json" "${@:5}"
}

# 2. The figure that is asked for: full size, three cameras, ten steps; then whether it is right, and PyTorch beside it.
wait_for "$preset"
bench "$preset" 3 10
part "verify-$preset-bf16" 150 "$binary" verify --device "$device" --checkpoint "$work/$preset" --json "$out/verify-$preset-bf16.json"
has_torch=1
"$python" -c 'import torch' 2>/dev/null || { has_torch=0 && say "no PyTorch in $python: no peers"; }
if [ $has_torch = 1 ]; then
    inputs=$out/inputs-$preset-3cam.safetensors actions=$out/actions-$preset-3cam.safetensors
    part "inputs-$preset" 60 "$python" benches/peers/torch_pi0.py --checkpoint "$work/$preset" --cameras 3 --device cpu --inputs "$inputs"
    part "infer-$preset" 60 "$binary" infer --device "$device" --dtype bf16 --checkpoint "$work/$preset" --inputs "$inputs" --output "$actions"
    peer "$preset" 3 10 eager --actions "$actions"
    peer "$preset" 3 10 reduce-overhead --actions "$actions"
fi

# 3. The control loop from the recorded bag, in real time, again and again.
sed 's/^\( *dashboard:\).*/\1 ""/' config/aloha.yaml >"$out/aloha.yaml"
replays=0 replaying=$((SECONDS + replay_s))
while [ $SECONDS -lt $replaying ] || [ $replays = 0 ]; do
    part "replay-$replays" 90 "$binary" replay tests/data/aloha_transfer_cube --rate 1 --config "$out/aloha.yaml" --checkpoint "$work/$preset" \
        --device "$device" --output "$out/replay-$replays.mcap" --latencies "$out/latencies" || break
    replays=$((replays + 1))
done

# 4. The other figures.
for steps in 5 10; do
    for cameras in 1 2 3; do
        for model in "$preset" "$large05"; do
            [ -f "$out/bench-$model-${cameras}cam-${steps}steps.txt" ] && continue
            wait_for "$model"
            bench "$model" "$cameras" "$steps"
        done
    done
done
part "verify-$large05-bf16" 150 "$binary" verify --device "$device" --checkpoint "$work/$large05" --json "$out/verify-$large05-bf16.json"
if [ $has_torch = 1 ]; then
    inputs=$out/inputs-$large05-3cam.safetensors
    part "inputs-$large05" 60 "$python" benches/peers/torch_pi0.py --checkpoint "$work/$large05" --cameras 3 --device cpu --inputs "$inputs"
    for mode in eager reduce-overhead; do peer "$large05" 3 10 "$mode"; done
fi

# 5. Where the time goes within kernels: those of one profiled run, which starts them one by one.
if command -v ncu >/dev/null && [ "$device" != cpu ]; then
    part ncu 240 ncu --csv --log-file "$out/ncu.csv" --section SpeedOfLight --section Occupancy --section LaunchStats --launch-count 1500 \
        --graph-profiling graph "$binary" bench --device "$device" --checkpoint "$work/$preset" --cameras 3 --steps 1 --runs 1
else
    say "no ncu: no figures of single kernels beside bench --nodes"
fi

kill "$making" 2>/dev/null
say ''
for report in "$out"/bench-*.txt "$out"/peer-*.txt; do
    [ -f "$report" ] || continue
    say "$(basename "$report" .txt)"
    grep -hE '^(act|total|cycle) |^actions:' "$report" | while read -r line; do say "    $line"; done
done
grep -hE 'PASS|FAIL' "$out"/verify-*.txt 2>/dev/null | sort | uniq -c | while read -r line; do say "verify: $line"; done
say "$failed parts failed; everything is in $out"
[ "$failed" = 0 ]

#!/usr/bin/env bash
# Everything that needs a GPU, in parts of at most nine minutes, under twenty in all:
#
#   benchmarks/run_gpu.sh              all parts, one after the other
#   benchmarks/run_gpu.sh tests        pytest -m gpu
#   benchmarks/run_gpu.sh sanitizer    compute-sanitizer over the CUDA kernels
#   benchmarks/run_gpu.sh kernels      microbenchmarks and benchmarks/kernels.py
#   benchmarks/run_gpu.sh model        benchmarks/model.py and the training step of configs/finetune.py
#   benchmarks/run_gpu.sh --smoke [part]   the same commands at tiny sizes on a CPU, to test this script
#
# Results: JSON and logs in $OUT (default benchmarks/out). A part that fails says so and the next one runs; the exit
# status is 1 if any failed. Environment: PYTHON; WHEELS, a folder of wheels for what the machine lacks (ml_collections,
# pycocotools), installed aside; PEERS, a folder made by prepare_peers.sh, whose CUDA ops are built here.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export OUT=${OUT:-$PWD/benchmarks/out} PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
mkdir -p "$OUT"
PART_SECONDS=${PART_SECONDS:-540}
failed=()

# run NAME SECONDS COMMAND...: output to the screen and to $OUT/NAME.log; remembers a failure.
run() {
  local name=$1 seconds=$2 start=$SECONDS
  shift 2
  echo "== $name: $*"
  timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$OUT/$name.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed+=("$name (status $status)")
  echo "== $name: status $status after $((SECONDS - start)) s"
  return "$status"
}

prepare() {
  if [ -n "${WHEELS:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target /tmp/tarvis_site --upgrade "$WHEELS"/*.whl ||
      failed+=("wheels")
    export PYTHONPATH=/tmp/tarvis_site${PYTHONPATH:+:$PYTHONPATH}
  fi
  peers=()
  if [ -n "${PEERS:-}" ]; then
    # A working copy: the folder may be read-only.
    rm -rf /tmp/tarvis_peers && cp -r "$PEERS" /tmp/tarvis_peers
    [ -n "$smoke" ] || run build_peers 400 env PYTHON="$python" benchmarks/prepare_peers.sh --build /tmp/tarvis_peers
    peers=(/tmp/tarvis_peers)
  fi
}

tests() {
  if [ -n "$smoke" ]; then
    run tests 300 "$python" -m pytest -q -m gpu --collect-only
  else
    run tests "$PART_SECONDS" "$python" -m pytest -q -m gpu --durations=10 --junitxml="$OUT/tests.xml"
  fi
}

sanitizer() {
  if [ -n "$smoke" ]; then
    run sanitizer 60 bash -n benchmarks/cuda/sanitize.sh
  else
    run sanitizer 300 benchmarks/cuda/sanitize.sh
  fi
}

kernels() {
  local flags=() with_peers=()
  [ ${#peers[@]} -eq 0 ] || with_peers=(--peers="${peers[0]}")
  if [ -n "$smoke" ]; then
    flags=(--shapes=tiny --reps=2)
  else
    run microbench_build 60 nvcc -std=c++17 -O3 -arch=sm_90 benchmarks/cuda/microbench.cu -o /tmp/microbench &&
      run microbench 60 bash -c '/tmp/microbench | tee "$OUT/microbench.json"'
  fi
  run kernels 420 "$python" -m benchmarks.kernels "${flags[@]}" "${with_peers[@]}" --out="$OUT/kernels.json"
}

model() {
  local reference=()
  [ ${#peers[@]} -eq 0 ] || reference=(--reference="${peers[0]}" --reference-python="$python")
  if [ -n "$smoke" ]; then
    run model 300 "$python" -m benchmarks.model --frames=1 --height=64 --width=64 --reps=1 "${reference[@]}" \
      --out="$OUT/model.json"
    run train 300 "$python" -m benchmarks.train --config=configs/quickstart.py --batch_size=2 --steps=1 \
      --out="$OUT/train.json"
    return
  fi
  local clip=(--frames=12 --height=448 --width=832 --reps=10)
  run model_bfloat16 150 "$python" -m benchmarks.model "${clip[@]}" --datasets=YOUTUBE_VIS,VIPSEG --dtype=bfloat16 \
    --parts "${reference[@]}" --out="$OUT/model_bfloat16.json"
  run model_float32 120 "$python" -m benchmarks.model "${clip[@]}" --dtype=float32 "${reference[@]}" \
    --out="$OUT/model_float32.json"
  run train 260 "$python" -m benchmarks.train --config=configs/finetune.py --batch_size=8 --samples_at_once=1,4 \
    --out="$OUT/train.json"
}

smoke=
if [ "${1:-}" = --smoke ]; then
  smoke=1
  export JAX_PLATFORMS=cpu
  shift
else
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}  # the tests take a CPU otherwise
fi
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(tests sanitizer kernels model)
for part in "${parts[@]}"; do
  case $part in
    tests | sanitizer | kernels | model) ;;
    *) echo "run_gpu.sh: unknown part '$part'; parts: tests sanitizer kernels model" >&2; exit 2 ;;
  esac
done
prepare
for part in "${parts[@]}"; do "$part"; done
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "all parts passed; results in $OUT"

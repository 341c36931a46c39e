#!/usr/bin/env bash
# Everything that needs a GPU, what matters most first: in ten minutes the first two parts tell whether each back end is
# right, and how fast it is beside the original.
#
#   benchmarks/run_gpu.sh              all parts, in this order
#   benchmarks/run_gpu.sh correct      each back end of deformable attention against the float64 oracle
#   benchmarks/run_gpu.sh kernels      its speed beside its rivals (benchmarks/kernels.py), then what the GPU can do
#   benchmarks/run_gpu.sh clip         the whole network (benchmarks/model.py)
#   benchmarks/run_gpu.sh train        the training step of configs/finetune.py (benchmarks/train.py)
#   benchmarks/run_gpu.sh tests        pytest -m gpu
#   benchmarks/run_gpu.sh sanitizer    compute-sanitizer over the CUDA kernels
#   benchmarks/run_gpu.sh --smoke [part...]   the same commands at tiny sizes on a CPU, to test this script
#
# Results: JSON, rewritten after each figure, and logs in $OUT (default benchmarks/out); at the end a summary of all that
# is there. Each command has a time limit; one that fails says so and the next one runs; the exit status is 1 if any
# failed. Environment: PYTHON; WHEELS, a folder of wheels for what the machine lacks (gpu_wheels.txt), installed aside;
# PEERS, a folder made by prepare_peers.sh, whose CUDA ops are built here.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export OUT=${OUT:-$PWD/benchmarks/out} PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
failed=()
peers=()
building=

# run NAME SECONDS COMMAND...: output to the screen and to $OUT/NAME.log; remembers a failure. What an earlier run left
# of the same name goes, so that the summary cannot show it.
run() {
  local name=$1 seconds=$2 start=$SECONDS
  shift 2
  rm -f "$OUT/$name.json" "$OUT/$name.xml"
  echo "== $name: $*"
  timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$OUT/$name.log"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed+=("$name (status $status)")
  echo "== $name: status $status after $((SECONDS - start)) s"
  return "$status"
}

prepare() {
  if [ -n "${WHEELS:-}" ]; then
    run wheels 60 "$python" -m pip install -q --no-index --no-deps --no-compile --target /tmp/tarvis_site --upgrade \
      "$WHEELS"/*.whl
    export PYTHONPATH=/tmp/tarvis_site${PYTHONPATH:+:$PYTHONPATH}
  fi
  if [ -n "${PEERS:-}" ]; then
    # A working copy: the folder may be read-only. It is built while the first part runs, which times nothing.
    peers=(/tmp/tarvis_peers)
    if [ ! -e "${peers[0]}/ready" ]; then
      rm -rf "${peers[0]}" && cp -r "$PEERS" "${peers[0]}"
      if [ -z "$smoke" ]; then
        timeout 400 env PYTHON="$python" benchmarks/prepare_peers.sh --build "${peers[0]}" >"$OUT/build_peers.log" 2>&1 &
        building=$!
      fi
    fi
  fi
}

# Before the first part that needs the peers, or times anything.
wait_for_peers() {
  [ -n "$building" ] || return 0
  if wait "$building"; then touch "${peers[0]}/ready"; else failed+=("build_peers (see $OUT/build_peers.log)"); fi
  building=
}

correct() {
  local backend backends=(xla triton cuda xla_deterministic) flags=()
  [ -z "$smoke" ] || { backends=(xla xla_deterministic); flags=(--sizes=odd); }
  # A process each: an access out of bounds makes a process's GPU unusable.
  for backend in "${backends[@]}"; do
    run "correct_$backend" 120 "$python" -m benchmarks.correct --backends="$backend" "${flags[@]}" \
      --out="$OUT/correct_$backend.json"
  done
}

kernels() {
  wait_for_peers
  local flags=()
  [ ${#peers[@]} -eq 0 ] || flags+=(--peers="${peers[0]}")
  [ -z "$smoke" ] || flags+=(--shapes=tiny --reps=2)
  run kernels 420 "$python" -m benchmarks.kernels "${flags[@]}" --out="$OUT/kernels.json"
  if [ -z "$smoke" ]; then
    run microbench_build 60 nvcc -std=c++17 -O3 -arch=sm_90 benchmarks/cuda/microbench.cu -o /tmp/microbench &&
      run microbench 60 bash -c '/tmp/microbench | tee "$OUT/microbench.json"'
  fi
}

clip() {
  wait_for_peers
  local reference=()
  [ ${#peers[@]} -eq 0 ] || reference=(--reference="${peers[0]}" --reference-python="$python")
  if [ -n "$smoke" ]; then
    run clip_float32 300 "$python" -m benchmarks.model --frames=1 --height=64 --width=64 --reps=1 "${reference[@]}" \
      --out="$OUT/clip_float32.json"
    return
  fi
  local size=(--frames=12 --height=448 --width=832 --reps=10)
  run clip_bfloat16 200 "$python" -m benchmarks.model "${size[@]}" --datasets=YOUTUBE_VIS,VIPSEG --dtype=bfloat16 \
    --parts "${reference[@]}" --out="$OUT/clip_bfloat16.json"
  run clip_float32 150 "$python" -m benchmarks.model "${size[@]}" --dtype=float32 "${reference[@]}" \
    --out="$OUT/clip_float32.json"
}

train() {
  wait_for_peers
  local reference=() backbone dtype clips
  [ ${#peers[@]} -eq 0 ] || reference=(--reference="${peers[0]}" --reference-python="$python")
  if [ -n "$smoke" ]; then
    run train_smoke 900 "$python" -m benchmarks.train --config=configs/quickstart.py --batch_size=2 --steps=1 \
      --out="$OUT/train_smoke.json"
    [ ${#reference[@]} -eq 0 ] || run train_smoke_beside 1500 "$python" -m benchmarks.train --size=64x128 --steps=1 \
      --batch_size=1 --tasks=instance "${reference[@]}" --out="$OUT/train_smoke_beside.json"
    return
  fi
  # A process each, whose peak of memory is that of these clips alone.
  while read -r backbone dtype clips; do
    run "train_${backbone}_${dtype}_$clips" 200 "$python" -m benchmarks.train --tasks=instance --dtype="$dtype" \
      --config="configs/finetune.py:backbone=$backbone" --batch_size="$clips" --samples_at_once="$clips" \
      "${reference[@]}" --out="$OUT/train_${backbone}_${dtype}_$clips.json" </dev/null
  done <<'END'
ResNet50 bfloat16 1
ResNet50 bfloat16 8
SwinTiny bfloat16 1
SwinTiny bfloat16 8
ResNet50 float32 1
SwinTiny float32 1
ResNet50 bfloat16 4
ResNet50 bfloat16 2
ResNet50 float32 8
SwinTiny float32 8
END
  run train_deterministic 200 "$python" -m benchmarks.train --tasks=instance --deterministic --batch_size=4 \
    --samples_at_once=4 --out="$OUT/train_deterministic.json"
  # All tasks, one clip at a time as on many small chips.
  run train_tasks 400 "$python" -m benchmarks.train --config=configs/finetune.py --batch_size=4 --samples_at_once=1 \
    --out="$OUT/train_tasks.json"
}

# Without a GPU, the tests are collected and skipped.
tests() { run tests 540 "$python" -m pytest -q -m gpu --durations=10 --junitxml="$OUT/tests.xml"; }

sanitizer() {
  if [ -n "$smoke" ]; then
    run sanitizer 60 bash -n benchmarks/cuda/sanitize.sh
  else
    run sanitizer 300 benchmarks/cuda/sanitize.sh
  fi
}

smoke=
if [ "${1:-}" = --smoke ]; then
  smoke=1
  export JAX_PLATFORMS=cpu
  shift
else
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}  # the tests take a CPU otherwise
fi
known=(correct kernels clip train tests sanitizer)
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${known[@]}")
for part in "${parts[@]}"; do
  case " ${known[*]} " in
    *" $part "*) ;;
    *) echo "run_gpu.sh: unknown part '$part'; parts: ${known[*]}" >&2; exit 2 ;;
  esac
done
mkdir -p "$OUT"
prepare
for part in "${parts[@]}"; do "$part"; done
wait_for_peers
"$python" -m benchmarks.summary "$OUT"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "all parts passed; results in $OUT"

#!/usr/bin/env bash
# Everything that only a GPU can tell, in one call: tests, checks, benchmarks, variants.
#
#     benchmarks/gpu/run.sh [PHASE...]     names joined by + run at the same time; default: all
#     benchmarks/gpu/run.sh right          the tests and checks alone
#
# For a machine without network: .gpu/site.tar.xz (pack.sh) brings the packages it lacks. Each phase
# is a process with its own time limit, and none stops those after it. OUT names the folder for
# results.tar.gz, which holds a log for each phase and the CSV files (default: benchmarks/results/gpu);
# it is renewed after each phase. PYTHON names the Python that has torch (default: python3).
# GPU_SECONDS ends the phases so many seconds after the start; those that are left then are LATE.
# GPU_DRY_RUN=1 tries the phases on the CPU with small sizes, where no GPU is at hand.
set -u
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
python=${PYTHON:-python3}
export OUT=${OUT:-$root/benchmarks/results/gpu}
dry=${GPU_DRY_RUN:-}
quick=${dry:+--quick}
device=cuda
export REQUIRE_CUDA=1
[ -z "$dry" ] || device=cpu REQUIRE_CUDA=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=$work/results
mkdir -p "$OUT" "$logs"
export PYTHONUNBUFFERED=1 SSD_BENCH_RESULTS=$logs/csv

# Phases: what each runs. Its limit in seconds is in the table below.

warm() { # Triton's cache, for all that follows
  local jobs=() failed=0
  script warm.py --device "$device" $quick &
  jobs+=($!)
  [ -n "$dry" ] || { script kernel_calls.py --device cuda & jobs+=($!); }
  for job in "${jobs[@]}"; do wait "$job" || failed=$?; done
  return $failed
}

tests() {
  local workers=10 paths=(tests/unit/ssd_core) selection="cuda or kernels"
  if [ -n "$dry" ]; then
    workers=2 paths=(tests/unit/ssd_core/ops/test_decode_nms_fallback.py) selection="kernels"
  fi
  # Those that compile "for_gpus" need none, and take a minute. Idle workers take others' tests.
  # Without a limit each worker's PyTorch would use all cores.
  OMP_NUM_THREADS=2 "$python" -m pytest -v -m "$selection" -k "not for_gpus" --numprocesses "$workers" \
    --dist worksteal --continue-on-collection-errors --durations 30 "${paths[@]}"
}

decoder() { # a process of its own: FFmpeg refuses a GPU that PyTorch opened before it
  local doctor status
  "$python" -m worker.cli doctor >"$logs/doctor.log" 2>&1 &
  doctor=$!
  "$python" -m pytest -v -m cuda tests/unit/worker/sources/test_planes.py
  status=$?
  wait $doctor || status=$?
  cat "$logs/doctor.log"
  return $status
}

accuracy() { script accuracy.py --device "$device" $quick; }
replay() { once_warm script replay_bytes.py --device "$device" $quick; }
barriers() { script barriers.py --seconds 70 ${dry:+--quick --seconds 300}; }
decode_nms_variants() { interpreted script decode_nms_variants.py --device "$device" ${dry:+--seconds 30}; }
conv() { script conv_variants.py ${dry:+--help}; } # the interpreter would take minutes for a layer
host() { script host_variants.py --device "$device" --seconds "${HOST_SECONDS:-60}"; }

memcheck() {
  local tool sanitizer jobs=() failed=0
  if [ -n "$dry" ]; then
    script kernel_calls.py --device cpu
    return
  fi
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1 PYTHONPATH=$root/benchmarks:$PYTHONPATH
  for tool in memcheck racecheck; do
    once_warm "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$python" benchmarks/gpu/kernel_calls.py --device cuda >"$logs/with-$tool.log" 2>&1 &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=$?; done
  tail -n 5 "$logs/with-memcheck.log" "$logs/with-racecheck.log"
  return $failed
}

growth() { script growth.py --device "$device" $quick; }
decode_nms() { benchmark decode_nms.py --seconds 0.2 --batches 32 $quick; }
detector() {
  benchmark detector.py --seconds 0.3 --no-compile --batches 64 \
    --models ssd300_vgg16 ssd_mobilenet_v2_oid $quick
}
live() {
  benchmark live.py --start 64 --most 192 --seconds-per-step 5 --most-seconds 70 $quick
}
training() { benchmark training_speed.py --seconds 4 $quick; }
e2e() { benchmark end_to_end.py --rounds 1 --torchvision-frames 150 $quick; }

limits="warm 75
tests 130
accuracy 120
decoder 50
replay 140
memcheck 110
barriers 100
growth 30
decode_nms_variants 100
conv 130
host 110
decode_nms 30
detector 60
live 110
training 90
e2e 75"
names=$(awk '{print $1}' <<<"$limits")
# What measures nothing shares the machine, but for growth: it asks 10,000 times whether the GPU is
# done, which among others' work would take minutes.
right="warm+tests+accuracy+decoder+replay+memcheck+barriers growth"
all="$right decode_nms_variants conv host decode_nms detector live training e2e"

once_warm() { # a command, as soon as the kernels are compiled
  while [ -e "$work/warming" ]; do sleep 0.2; done
  "$@"
}

interpreted() { # a command; Triton interprets kernels in a dry run
  [ -z "$dry" ] || export TRITON_INTERPRET=1
  "$@"
}

script() { # of this folder; its arguments
  local name=$1
  shift
  [ -f "benchmarks/gpu/$name" ] || { echo "there is no benchmarks/gpu/$name"; return 1; }
  OUT=$SSD_BENCH_RESULTS PYTHONPATH=$root/benchmarks:$PYTHONPATH \
    "$python" "benchmarks/gpu/$name" "$@"
}

benchmark() { # one of those that `make bench-gpu` runs; its arguments
  local name=$1
  shift
  "$python" "benchmarks/$name" --device "$device" "$@"
}

set_up() {
  local site=$work/site
  mkdir "$site"
  if [ -n "$dry" ]; then
    echo "a dry run takes the packages that are installed"
  elif [ -f .gpu/site.tar.xz ]; then
    tar --extract --file .gpu/site.tar.xz --directory "$site" || return 1
  else
    echo "there is no .gpu/site.tar.xz (benchmarks/gpu/pack.sh): the packages must be installed"
  fi
  export PYTHONPATH=$root:$site${PYTHONPATH:+:$PYTHONPATH}
  if [ -z "$dry" ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
  fi
  nproc
  "$python" - <<'END'
import sys, torch, triton
print(sys.version.split()[0], "torch", torch.__version__, "triton", triton.__version__,
      "cuDNN", torch.backends.cudnn.version(), "GPU", torch.cuda.is_available())
END
  "$python" setup.py -q build_ext --inplace >"$logs/build.log" 2>&1
  "$python" -c 'from ssd_core.ops import decode_nms_native as native; print("decode_nms in C++:", native.why_missing() or "built")' \
    2>/dev/null || echo "decode_nms in C++: unknown"
}

run_phase() { # a line of the table, and the end of the log
  local name=$1 limit began=$SECONDS status verdict skipped lines=12 characters=1000 left
  limit=$(awk -v name="$name" -v times="${dry:+5}" '$1 == name {print $2 * (times ? times : 1)}' <<<"$limits")
  left=$((${GPU_SECONDS:-100000} - SECONDS))
  [ "$left" -ge "$limit" ] || limit=$left
  if [ "$limit" -gt 0 ]; then
    # A background job would ignore the signal that has pytest print what it knows.
    env --default-signal=INT timeout --signal INT --kill-after 3 "$limit" bash -c "$name" \
      >"$logs/$name.log" 2>&1
    status=$?
  else
    echo "there was no time left" >"$logs/$name.log"
    status=124
  fi
  [ "$name" != warm ] || rm -f "$work/warming"
  case $status in
    0) verdict=PASS ;;
    124 | 137) verdict=LATE ;;
    *) verdict=FAIL ;;
  esac
  skipped=$(grep -c '^SKIPPED' "$logs/$name.log")
  printf '%-12s %s %4d s of %d, reasons to skip tests: %d\n' \
    "$name" $verdict $((SECONDS - began)) "$limit" "$skipped" >>"$logs/table.txt"
  [ $verdict = PASS ] || lines=30 characters=2000
  {
    echo "== $name: $verdict"
    grep -v '^{"benchmark"' "$logs/$name.log" | tail -n $lines | cut -c -400 | tail -c $characters
  } >"$work/$name.end"
}

shorten_logs() { # Triton's errors hold whole programs
  local log
  for log in "$logs"/*.log; do
    [ "$(stat --format %s "$log")" -gt 200000 ] || continue
    { head -c 100000 "$log"; printf '\n[...]\n'; tail -c 100000 "$log"; } >"$work/short"
    mv "$work/short" "$log"
  done
}

phases=${*:-$all}
phases=" $phases "
phases=${phases/ right / $right }
for name in ${phases//+/ }; do
  grep -qx "$name" <<<"$names" || { echo "$name is no phase; there are:" $names; exit 2; }
done
set_up || exit 1
export root python device dry quick logs work
export -f once_warm interpreted script benchmark $names
clip=
if [ -z "$dry" ] && [[ $phases =~ host|live|e2e ]]; then # made once, while nothing is measured
  PYTHONPATH=$root/benchmarks:$PYTHONPATH "$python" -c 'import clips; clips.hd_clip()' \
    >"$logs/clip.log" 2>&1 &
  clip=$!
fi
for group in $phases; do
  case $group in decode_nms* | conv | host | detector | live | training | e2e) [ -z "$clip" ] || wait "$clip" ;; esac
  case +$group+ in *+warm+*) touch "$work/warming" ;; esac
  jobs=()
  for name in ${group//+/ }; do
    run_phase "$name" &
    jobs+=($!)
  done
  wait "${jobs[@]}"
  for name in ${group//+/ }; do cat "$work/$name.end"; done
  shorten_logs
  tar --create --gzip --file "$OUT/results.tar.gz" -C "$work" results
done
echo
cat "$logs/table.txt"
! grep -qv PASS "$logs/table.txt"

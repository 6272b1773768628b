#!/usr/bin/env bash
# Starts the worker of a staged job folder by hand, on the machine that has the GPU.
#
#   launchers/run_job.sh JOB                       as a process, with $PYTHON (default python3)
#   launchers/run_job.sh JOB IMAGE [CHECKPOINT]    in Docker, detached, as the program itself does it
#   launchers/run_job.sh --torchrun N SCRIPT ...   NVIDIA's own tools on N GPUs of this machine
#
# JOB is a folder with job.json, batches and frames; worker.py in it is used, or the one beside this script. Answers come into
# JOB/results.jsonl, JOB/exit.json says how it ended. Started twice, the second refuses.
#
#   GPUS      for docker run --gpus (default all; none for no GPU)
#   CACHE     folder for compiled kernels (default JOB/../../cache)
set -euo pipefail

if [[ ${1:-} == --torchrun ]]; then
  [[ $# -ge 3 ]] || { echo "usage: $0 --torchrun N SCRIPT ..." >&2; exit 2; }
  gpus=$2; shift 2
  exec torchrun --nproc_per_node="$gpus" --nnodes=1 --node_rank=0 "$@" --num_gpus "$gpus"
fi

[[ $# -ge 1 && $# -le 3 && -f $1/job.json ]] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
job=$(cd "$1" && pwd)
[[ -f $job/worker.py ]] || cp "$(dirname "$0")/worker.py" "$job/worker.py"

if [[ $# -eq 1 ]]; then
  setsid "${PYTHON:-python3}" "$job/worker.py" "$job" >>"$job/worker.log" 2>&1 </dev/null &
  echo "started; tail -f $job/events.jsonl"
  exit
fi

image=$2 checkpoint=${3:-}
cache=${CACHE:-$(dirname "$(dirname "$job")")/cache}
mkdir -p "$cache/home"
arguments=(
  --detach --init --name "prompt-upsampler-$(basename "$job")-$(printf %s "$job" | sha256sum | cut -c-8)"
  --network none --user "$(id -u):$(id -g)" --cap-drop ALL --security-opt no-new-privileges --read-only
  --tmpfs /tmp:rw,exec,nosuid,mode=1777 --shm-size 16g --pids-limit 8192
  --mount "type=bind,source=$job,target=$job"
  --mount "type=bind,source=$job/frames,target=$job/frames,readonly"
  --mount "type=bind,source=$cache,target=$cache"
  --env USER=upsampler --env LOGNAME=upsampler --env "HOME=$cache/home" --env "XDG_CACHE_HOME=$cache"
  --env "VLLM_CACHE_ROOT=$cache/vllm" --env "TRITON_CACHE_DIR=$cache/triton" --env "TORCHINDUCTOR_CACHE_DIR=$cache/inductor"
  --entrypoint ""
)
[[ -z $checkpoint ]] || arguments+=(--mount "type=bind,source=$checkpoint,target=$checkpoint,readonly")
[[ ${GPUS:-all} == none ]] || arguments+=(--gpus "${GPUS:-all}")
exec docker run "${arguments[@]}" "$image" "${PYTHON:-python3}" "$job/worker.py" "$job"

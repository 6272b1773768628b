#!/usr/bin/env bash
# Starts the worker of a staged job folder by hand, on the machine that has the GPU.
#
#   launchers/run_job.sh JOB                       as a process, with $PYTHON (default python3)
#   launchers/run_job.sh JOB IMAGE [CHECKPOINT]    in Docker, detached, by the command that the program itself uses
#   launchers/run_job.sh --torchrun N SCRIPT ...   NVIDIA's own tools on N GPUs of this machine
#
# JOB is a folder with job.json, worker.pyz, batches and frames. Answers go to JOB/results.jsonl; JOB/exit.json records how the
# worker ended. A second start refuses.
#
#   GPUS      for docker run --gpus (default all; none for no GPU)
#   ROOT      folder of all jobs, with the cache of compiled kernels (default JOB/../..)
set -euo pipefail

if [[ ${1:-} == --torchrun ]]; then
  [[ $# -ge 3 ]] || { echo "usage: $0 --torchrun N SCRIPT ..." >&2; exit 2; }
  gpus=$2; shift 2
  exec torchrun --nproc_per_node="$gpus" --nnodes=1 --node_rank=0 "$@" --num_gpus "$gpus"
fi

[[ $# -ge 1 && $# -le 3 && -f $1/job.json ]] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
job=$(cd "$1" && pwd)
[[ -f $job/worker.pyz ]] || { echo "$job: there is no worker.pyz; stage the job again" >&2; exit 2; }

if [[ $# -eq 1 ]]; then
  setsid "${PYTHON:-python3}" "$job/worker.pyz" "$job" >>"$job/worker.log" 2>&1 </dev/null &
  echo "started; tail -f $job/events.jsonl"
  exit
fi

root=${ROOT:-$(dirname "$(dirname "$job")")}
mkdir -p "$root/cache/home"
here=$(cd "$(dirname "$0")/.." && pwd) package=src
[[ -d $here/src ]] || { package=$(basename "$here"); here=$(dirname "$here"); }  # installed: inside the package
cd "$here"
command=$("${PYTHON:-python3}" -m "$package.hosts.docker" "$job" "$root" "$2" "${3:-}" "${GPUS:-all}")
eval "exec $command"

#!/bin/sh
# Runs the worker of one job folder on a shared disk as soon as a controller has filled it, and again when it is killed.
#
#   pool_worker.sh ROOT PYTHON JOB...      the job is chosen by $JOB_COMPLETION_INDEX, $SLURM_ARRAY_TASK_ID or $WORKER, from 0
#
# It ends with 0 when the run has ended or was canceled, when all in a closed folder is done, or when no controller has come
# for a minute; else with the worker's exit code. SIGTERM makes the worker finish what is in flight.
root=$1 python=$2
shift $((2 + ${JOB_COMPLETION_INDEX:-${SLURM_ARRAY_TASK_ID:-${WORKER:?which of the workers?}}}))
job=$root/jobs/$1 ended=$root/ended/$1 asked='' child='' code=143 starts=0
trap 'asked=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
echo "waiting for $job"
while [ -z "$asked" ] && [ "$starts" -lt 10 ]; do
  if [ -e "$ended" ] || [ -e "$job/cancelled" ]; then exit 0; fi
  if [ -e "$job/job.json" ] && [ -e "$job/worker.pyz" ]; then
    rm -f "$job/exit.json" # of a worker before this one
    "$python" "$job/worker.pyz" "$job" >>"$job/worker.log" 2>&1 &
    child=$!
    while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done # a signal ends the wait, not the worker
    child=''
    [ "$code" -ne 0 ] || [ -n "$asked" ] || exit 0
    tail -n 3 "$job/worker.log" 2>/dev/null
    if [ "$code" -ne 75 ]; then # 75: another worker holds the folder, for now
      [ ! -e "$job/exit.json" ] || break # it ended by itself, not killed
      starts=$((starts + 1))
    fi
  fi
  sleep 2 &
  wait $!
done
if [ -e "$ended" ] || [ -e "$job/cancelled" ]; then exit 0; fi
[ -n "$asked" ] || exit "$code"
task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} # its job id may be that of the whole array
task=${task:-$SLURM_JOB_ID}
# At its time limit it is queued again; one that somebody has canceled does not run any more, for another reason.
if [ -n "$task" ]; then
  for name in STATES PARTITION ACCOUNT QOS USERS NAMES; do unset "SQUEUE_$name"; done # they would leave it out
  state=$(squeue --all --noheader --jobs="$task" --format='%T %r') || state=RUNNING
  case $state in RUNNING* | 'COMPLETING TimeLimit'*) scontrol requeue "$task" ;; esac
fi
exit 143

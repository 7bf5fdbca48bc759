#!/bin/bash
#SBATCH --job-name=rlif-%%stem
#SBATCH --nodes=%%nodes
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
%%{gpus}#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
# Partition, account and time: `sbatch --partition=... FILE`, or SBATCH_PARTITION and the like in the environment.
# The folder this is submitted from has to be there, under the same name, on every machine.
set -uo pipefail
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HEAD="${machines[0]}" PORT=$((20000 + SLURM_JOB_ID % 20000)) SRUN_CPUS_PER_TASK="$SLURM_CPUS_ON_NODE"

# Runs a command to its end, and sends it USR1 where this shell is sent USR1 or TERM.
stoppable() {
  local came="" child code
  "$@" &
  child=$!
  trap 'came=1; kill -USR1 "$child" 2>/dev/null' USR1 TERM
  wait "$child"; code=$?
  while [ -n "$came" ]; do came=""; wait "$child"; code=$?; done
  return "$code"
}
export -f stoppable

folder=%%folder
# A requeued job resumes the run that it began, and no other.
if grep -qs "\"job\": \"$SLURM_JOB_ID\"" "$folder/environment.json"; then
  what=(--resume "$folder")
else
  what=(%%what)
fi
%%server
stoppable srun --kill-on-bad-exit=1 --nodes=%%trainers --ntasks=%%trainers \
  --nodelist="$(IFS=,; echo "${machines[*]:0:%%trainers}")" \
  bash -c %%task rlif "${what[@]}"
code=$?
if [ "$code" = 0 ] && [ ! -f "$folder/summary.json" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

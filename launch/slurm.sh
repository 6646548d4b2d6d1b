#!/usr/bin/env bash
# Train on the nodes of a Slurm job, one process per task. Every flag goes to csn_jax.train.
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 launch/slurm.sh --config=configs/table.py:default \
#     --config.data.path=/shared/products.csv --workdir=/shared/runs/products
# Two minutes before the time limit Slurm sends SIGTERM to all tasks. They save at the same step and end, and the job
# returns to the queue. A job that lost a node returns too. A usage error and a finished run end the job.
#SBATCH --job-name=csn_jax
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
python=${PYTHON:-python}
# Slurm must not kill tasks that are still saving when the first one ends.
srun --kill-on-bad-exit=0 "$python" -m csn_jax.train --distributed=auto "$@"
status=$?
case $status in
  134 | 137 | 139 | 143)
    restarts=${SLURM_RESTART_COUNT:-0}
    echo "start $((restarts + 1)) of job $SLURM_JOB_ID ended with status $status" >&2
    if [ "$restarts" -lt "${MAX_RESTARTS:-20}" ]; then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$status"

#!/usr/bin/env bash
# Train on the nodes of a Slurm job, one process a task; every flag goes to csn_jax.train.
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 launch/slurm.sh --config=configs/table.py:default \
#     --config.data.path=/shared/products.csv --workdir=/shared/runs/products
# Two minutes before the time is up Slurm sends SIGTERM to all tasks: they save at one step and end, and the job goes
# back into the queue. So does one that lost a node. A mistake and a finished run end it.
#SBATCH --job-name=csn_jax
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
python=${PYTHON:-python}
# A task that has saved and ended must not have the others killed that still save.
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

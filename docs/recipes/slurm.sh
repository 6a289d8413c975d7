#!/bin/bash
#SBATCH --job-name=spikefront
#SBATCH --array=1-16
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue

# Once, from anywhere:
#   export SPIKEFRONT_STORAGE=postgresql+psycopg://me@host/studies
#   spikefront search --workers 0 --trials 500 --task …
# then, as often and with as many workers as you like:
#   sbatch slurm.sh
# Arguments go to the worker: sbatch --gpus-per-task=1 slurm.sh --study cifar10 --device cuda
# When the time is over, or the job is cancelled, each worker gives its trial back to the study.

set -euo pipefail
: "${SPIKEFRONT_STORAGE:?set it to the storage of the study}"

exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  spikefront --verbose worker --threads "$SLURM_CPUS_PER_TASK" "$@"

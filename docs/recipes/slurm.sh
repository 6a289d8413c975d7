#!/bin/bash
#SBATCH --job-name=spikefront
#SBATCH --array=1-16
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue

# Once, from anywhere:
#   spikefront search --workers 0 --storage "$STORAGE" --trials 500 --task …
# then, as often and with as many workers as you like:
#   STORAGE=postgresql+psycopg://me@host/studies sbatch slurm.sh
# Arguments go to the worker: sbatch slurm.sh --study cifar10 --data /scratch/cifar10 --device cuda
# When the time is over, or the job is cancelled, each worker gives its trial back to the study.

set -euo pipefail
: "${STORAGE:?set STORAGE to the storage of the study}"

exec srun spikefront --verbose worker --storage "$STORAGE" --threads "$SLURM_CPUS_PER_TASK" "$@"

#!/bin/bash
# Trains with four workers: sbatch deploy/slurm.sh
#SBATCH --job-name=vae-keras
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@60
#SBATCH --requeue

# For GPUs add --gpus-per-task=1. Slurm assigns the GPUs to the tasks, and a worker uses all GPUs
# that it sees.
srun --kill-on-bad-exit=0 python train.py --strategy multi_worker --workdir runs/mlp_mnist

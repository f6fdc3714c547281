#!/bin/bash
#SBATCH --job-name=slides
#SBATCH --array=0-3
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=48G
#SBATCH --time=24:00:00
#SBATCH --output=slides-%A_%a.log
#
# A folder of slides on as many GPUs as the array has tasks:
#
#   sbatch examples/slurm_array.sh /data/slides /results/cohort histai/SPIDER-skin-model
#
# The tasks know nothing of each other. Each takes the next slide that no other has and that is not done, and ends when
# all are done or have failed; cohort.csv and cohort.html in the folder of results list all of them. Fewer or more tasks
# (sbatch --array=0-15 ...) and a second sbatch of the same job need nothing else: it goes on where the first one was.
#
# Who has a slide is told by locks on files below the folder of results. They must reach from node to node, and end with
# their process: NFS 4, Lustre mounted with -o flock, GPFS and BeeGFS (tuneUseGlobalFileLocks = true) do that; Lustre
# with localflock and NFS with nolock or local_lock do not. A node that goes down frees its locks as soon as the server
# gives it up, on NFS 4 after some 90 seconds.
set -euo pipefail

slides=${1:?the folder of slides, a manifest or a list}
results=${2:?the folder of results, which all nodes see}
model=${3:?the folder or the Hub id of the model}

# The disk of the node; many clusters name a folder there that is the job's own.
fast=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}

# Of each GPU one process; python, not srun, which would start them as one run.
cd "${SLURM_SUBMIT_DIR:-.}"
exec python segment_slide.py --model "$model" --slide "$slides" --output_dir "$results" --stage_dir "$fast" \
    --num_workers "${SLURM_CPUS_PER_TASK:-2}" --dtype "${SPIDER_DTYPE:-bfloat16}"

#!/usr/bin/env bash
# Run a command on SLURM; the job is requeued after preemption and at its time limit, and then resumes the run.
#
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 scripts/slurm.sh attack photographs/ --target stingray --out runs/fooled
#   sbatch --array 0-7 --gpus 1 scripts/slurm.sh saliency photographs/ --method gradient --out runs/maps --shard auto
#
# Each SLURM task is a process. Two minutes before the time limit, and when the job is preempted, SLURM sends SIGTERM to all
# processes: the run saves a checkpoint and exits with status 143. --out must be on a file system that all nodes share.
#SBATCH --job-name=lit_viz
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -uo pipefail

[[ " $* " == *" --out "* ]] || { echo "slurm.sh requires --out, so that the requeued job resumes the same run folder" >&2; exit 2; }
srun --kill-on-bad-exit=1 lit-viz "$@" --resume
status=$?

# Of an array, the job of the last task has the number of the array, which means all tasks.
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}

# SLURM requeues a preempted job itself, unless its partition has PreemptMode=CANCEL. A second request would start the job
# again after its end.
requeued_by_slurm() {
    grep -q "PreemptTime=[0-9]" <<<"$(scontrol show job "$job")" &&
        ! grep -q "PreemptMode=CANCEL" <<<"$(scontrol show partition "$SLURM_JOB_PARTITION")"
}
[ "$status" -eq 143 ] && ! requeued_by_slurm && scontrol requeue "$job"
exit "$status"

#!/usr/bin/env bash
# A run on SLURM that goes on by itself after preemption.
#
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 scripts/slurm.sh attack photographs/ --target stingray --out runs/fooled
#
# One process a task. Two minutes before the end, and when the job is preempted, SLURM sends SIGTERM to all of them: the
# run saves a checkpoint and ends with status 143, upon which the job is put back into the queue. --resume continues where
# the checkpoint left off; the folder given by --out must be on a file system that all nodes share.
#SBATCH --job-name=lit_viz
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -uo pipefail

case " $* " in
*" --out "*) ;;
*) echo "slurm.sh: give the run folder by --out, so that the job finds it again" >&2 && exit 2 ;;
esac

srun --kill-on-bad-exit=1 lit-viz "$@" --resume
status=$?

# A job that SLURM preempts it puts back itself, unless its partition cancels; asked as well it would start it once more
# when it is done.
put_back_by_slurm() {
    grep -q "PreemptTime=[0-9]" <<<"$(scontrol show job "$SLURM_JOB_ID")" &&
        ! grep -q "PreemptMode=CANCEL" <<<"$(scontrol show partition "$SLURM_JOB_PARTITION")"
}
[ "$status" -eq 143 ] && ! put_back_by_slurm && scontrol requeue "$SLURM_JOB_ID"
exit "$status"

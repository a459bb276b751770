"""Compute the saliency maps of a folder of photographs in jobs of submitit, one per shard, and merge them.

    python scripts/submitit_maps.py photographs/ maps/ slurm

``local`` in place of ``slurm`` starts the jobs on this machine. If a job fails, its shard is submitted again, at most
twice, and continues from its checkpoint.
"""

import sys

import submitit

import lit_viz as lv

SHARDS = 2


def compute(images: str, out: str, shard: str) -> None:
    network = lv.load_network("efficientnet_lite0")
    lv.saliency(network, images, method="gradient", out=out, shard=shard)


if __name__ == "__main__":
    images, out, cluster = sys.argv[1:]
    executor = submitit.AutoExecutor(folder=f"{out}/jobs", cluster=cluster)
    executor.update_parameters(timeout_min=600, cpus_per_task=1)
    waiting = [f"{index}/{SHARDS}" for index in range(SHARDS)]
    for _ in range(3):
        jobs = {shard: executor.submit(compute, images, out, shard) for shard in waiting}
        waiting = [shard for shard, job in jobs.items() if job.exception()]
    lv.merge(out, f"{out}/merged")

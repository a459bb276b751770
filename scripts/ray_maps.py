"""Compute the saliency maps of a folder of photographs by Ray Data, into Parquet files.

    python scripts/ray_maps.py photographs/ maps/

Up to two actors load the network once each. Ray restarts an actor that ends, and repeats its batches. On GPUs, add
``num_gpus=1`` to map_batches, and ``device="cuda"`` to the call of lv.functional.
"""

import sys
from typing import Any

import numpy as np
import ray

import lit_viz as lv


class Maps:
    def __init__(self) -> None:
        self.network = lv.load_network("efficientnet_lite0")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        maps, records = lv.functional.saliency(self.network, batch["image"], target="predicted", method="gradient")
        classes = np.array([record.target_name for record in records])
        return {"path": batch["path"], "class": classes, "map": maps.half().numpy()}


if __name__ == "__main__":
    images = ray.data.read_images(sys.argv[1], size=(224, 224), mode="RGB", include_paths=True)
    images.map_batches(Maps, batch_size=16, concurrency=(1, 2)).write_parquet(sys.argv[2])

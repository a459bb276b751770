"""Pages of the units of a network.

python scripts/microscope.py efficientnet_lite0 --layers blocks.1.0 --images photos --out runs/microscope
"""

from lit_viz.cli import script

if __name__ == "__main__":
    script("microscope")

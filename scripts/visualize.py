"""Class images from a configuration.

python scripts/visualize.py --config configs/visualize/tarantula.yaml --iterations 100
"""

from lit_viz.cli import script

if __name__ == "__main__":
    script("visualize")

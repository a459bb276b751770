"""Saliency maps from a configuration.

python scripts/saliency.py --config configs/saliency/compare_methods.yaml packaged:chelsea packaged:coffee
"""

from lit_viz.cli import script

if __name__ == "__main__":
    script("saliency")

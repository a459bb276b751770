"""Adversarial examples from a configuration.

python scripts/attack.py --config configs/attack/quail_to_stingray.yaml
"""

from lit_viz.cli import script

if __name__ == "__main__":
    script("attack")

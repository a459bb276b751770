"""Parts of the reliability campaign, ``scripts/soak.py``."""

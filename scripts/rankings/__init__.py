"""What scripts/rank_saliency.py measures saliency methods on, and how."""

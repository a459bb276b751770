"""Saliency maps and adversarial examples of a batch, without run folder, Trainer, figures and global state.

The functions pickle together with their network, for the processes of an engine such as Ray.
"""

from lit_viz.functional.batches import attack, saliency

__all__ = ["attack", "saliency"]

"""The callback that says once what a user should know of a run."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz.utils.formatting import Notify


class Notes(Callback):
    """Says the notes of the classifier and the method when everything is prepared, before the first step.

    Args:
        notify: is given each sentence; None says nothing.
    """

    def __init__(self, notify: Notify | None) -> None:
        self._notify = notify

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say them."""
        if self._notify is not None:
            for note in (*pl_module.classifier.notes, *pl_module.notes):  # type: ignore[union-attr,misc]
                self._notify(str(note))

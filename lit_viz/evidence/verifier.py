"""The evidence of a run, which the verifier of its method computes at the end of the run, by check and by
``trainer.test``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pytorch_lightning.utilities import rank_zero_warn

from lit_viz.engine.lightning import is_rank_failure
from lit_viz.engine.method import half_precision
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError, WriteError, first_line
from lit_viz.runs.evidence import E, E_co, Evidence
from lit_viz.runs.memory import MemoryStorage, Storage
from lit_viz.runs.results import Outcome, R, records_of
from lit_viz.utils.formatting import Notify, ignore
from lit_viz.utils.imports import import_by_path

#: When saliency maps are compared with Captum.
Check = Literal["auto", "captum", "none"]

AnyMethod = TypeVar("AnyMethod", bound=ImageTraining)


@dataclass(frozen=True)
class EvidenceSettings:
    """Which evidence is computed, and how.

    Attributes:
        at_end_of_run: whether the options of a run select the evidence, within a time limit; if not, ``lit-viz check``
            computes all of it.
        captum: comparison of saliency maps with Captum at the end of a run: ``captum``, ``auto`` (for as long as the
            run took), or ``none``.
        localize: whether objects are localized by saliency maps.
        boxes: file or folder of reference boxes, with which the boxes of the maps are compared; implies ``localize``.
        explain: whether saliency maps of originals and adversarial images are drawn.
        faithfulness: whether saliency metrics are computed.
        trust: whether stronger attacks are run on images that an attack did not fool.
        images: files and folders with which class images are compared.
        notify: receives lines for the terminal.
        precision: Lightning's name of the half precision of the run; None for another precision.
        reads_files: whether the evidence is computed that reads the files of images; in memory they are encoded and
            decoded.
    """

    at_end_of_run: bool = True
    captum: Check = "auto"
    localize: bool = False
    boxes: str | Path | None = None
    explain: bool = False
    faithfulness: bool = False
    trust: bool = False
    images: Sequence[str] = ()
    notify: Notify = ignore
    precision: str | None = None
    reads_files: bool = True


@dataclass(frozen=True)
class EvidencePart(Generic[E_co]):
    """A part of the evidence, as a verifier computes it; subclasses add what only the terminal and figures show.

    Attributes:
        evidence: what is stored; None for nothing.
        passed: False if it contradicts a record.
    """

    evidence: E_co | None = None
    passed: bool = True


#: Shows a part of the evidence, which is named: in the terminal and in figures.
Show = Callable[["OutcomeVerifier[Any, Any, Any]", str, EvidencePart[Any]], None]


class OutcomeVerifier(Generic[AnyMethod, R, E]):
    """Verifier of the outcomes of a method.

    Args:
        module: the method.
        outcomes: outcomes of the run.
        storage: results of the run.
        settings: which evidence is computed.

    Attributes:
        applicable: options of ``lit-viz check`` that apply to the method.
        evidence_class: class of the evidence, which has a field for each part.
    """

    evidence_class: ClassVar[type[Evidence]] = Evidence
    applicable: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, module: AnyMethod, outcomes: Sequence[Outcome[R]], storage: Storage, settings: EvidenceSettings
    ) -> None:
        self.module, self.outcomes = module, list(outcomes)  # one outcome a task, which the parts amend
        self.storage, self.settings = storage, settings

    @classmethod
    def check_settings(cls, settings: EvidenceSettings) -> None:
        """Check, before a run, what its evidence requires.

        Raises:
            LitVizError: a file or a package is missing.
        """

    @classmethod
    def prepare(cls, module: AnyMethod) -> None:
        """Prepare a method for the evidence that is computed with each image."""

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        """Return the functions that compute the parts of the evidence, in order, by the names of the parts.

        Without ``reads_files`` there is no evidence that reads files.
        """
        return {}

    @property
    def done(self) -> list[Outcome[R]]:
        """The finished outcomes."""
        return [outcome for outcome in self.outcomes if outcome.record.status == "done"]

    def verify(self, show: Show | None = None) -> bool:
        """Compute the evidence, and add it to the records and the storage.

        A part that raises an exception costs neither the results nor the other parts: its reason is recorded
        (``Evidence.failures``). Errors that the user of ``lit-viz check`` can correct are raised.

        Args:
            show: shows each part.

        Returns:
            False if the evidence contradicts a record, or a part failed.

        Raises:
            WriteError: the evidence can't be written.
        """
        passed = True
        earlier = self.storage.evidence(self.evidence_class).failures or {}
        failures = dict(earlier)
        for name, compute in self.parts().items():
            failures.pop(name, None)
            try:
                part = compute()
                self._add(name, part, show)
                passed &= part.passed
            except Exception as error:
                is_of_user = isinstance(error, LitVizError) and not self.settings.at_end_of_run
                if is_of_user or isinstance(error, WriteError) or is_rank_failure(error):
                    raise
                failures[name] = first_line(error)
                passed = False
        if failures or earlier:
            self._add("failures", EvidencePart(self.evidence_class(failures=failures)), show)
        return passed

    def _add(self, name: str, part: EvidencePart, show: Show | None) -> None:
        if part.evidence is not None:
            self.storage.merge_evidence(part.evidence)
        if show is not None:
            show(self, name, part)

    @classmethod
    def test(cls, module: AnyMethod, results: Sequence[Result]) -> dict[str, float]:
        """Verify results as the end of a run does, and return the numbers of the test stage of a Trainer."""
        storage = MemoryStorage(results)
        outcomes: Sequence[Outcome[Any]] = storage.outcomes()
        precision = half_precision(module.trainer.precision)
        cls(module, outcomes, storage, EvidenceSettings(precision=precision, reads_files=False)).verify()
        evidence: Any = storage.evidence(cls.evidence_class)
        for text in evidence.failure_texts.values():
            rank_zero_warn(text)
        return cls.scalars(records_of(outcomes), evidence) | cls.test_numbers(module, results)

    @classmethod
    def scalars(cls, records: Sequence[R], evidence: E) -> dict[str, float]:
        """Return the numbers by which runs are compared in a logger: their cost and the results of the evidence."""
        forwards = backwards = 0
        seconds = 0.0
        for record in records:  # once: stored records are read at each pass
            forwards += record.forwards or 0
            backwards += record.backwards or 0
            seconds += record.seconds or 0.0
        return {"cost/forwards": forwards, "cost/backwards": backwards, "cost/seconds": seconds}

    @classmethod
    def test_numbers(cls, module: AnyMethod, results: Sequence[Result]) -> dict[str, float]:
        """Return the numbers that only the test stage has: the share of finished tasks, and what the original network
        predicts for the images."""
        done = sum(result.record.status == "done" for result in results)
        return {"done": done / max(len(results), 1)}


def means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean of the values of each name."""
    return {name: sum(of_name) / len(of_name) for name, of_name in values.items()}


def verifier_of(method: type[ImageTraining]) -> type[OutcomeVerifier[Any]]:
    """Return the verifier of a method, which its class or a base class names."""
    verifier: type[OutcomeVerifier[Any]] = import_by_path(method.verifier)
    return verifier

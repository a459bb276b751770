"""The results of a run: images, figure, report and evidence."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from inspect import signature
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lit_viz.attacks import BudgetAttack
from lit_viz.attacks.norms import format_distance
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.classifier import GIVEN_WEIGHTS
from lit_viz.classifiers.isolation import is_out_of_memory
from lit_viz.classifiers.loading import load
from lit_viz.classifiers.outputs import MULTI_LABEL_CAPTION
from lit_viz.errors import LitVizError
from lit_viz.figures.evolution import save_evolution
from lit_viz.figures.layout import footer
from lit_viz.figures.style import save_figure, with_notebook_png
from lit_viz.launch.config import ConfiguredMethod
from lit_viz.launch.resume import LastCheckpoint, check_identity, provenance, write_checkpoint
from lit_viz.launch.trainer import failures_reported
from lit_viz.methods.records import SaliencyRecord
from lit_viz.presentations import CAPTUM_SECONDS, EvidenceSettings
from lit_viz.report.page import format_value, run_html, write_report
from lit_viz.runs import run_lock
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of, stored_outcomes, write_memory_outcomes
from lit_viz.utils.formatting import Notify, choose_notify, command_line, is_notebook, pluralize, status_summary
from lit_viz.utils.process import tune_allocator


class Run:
    """The results of a run.

    A run is a sequence of outcomes: ``run[0].frames()`` are the logged images as (iteration, image), and
    ``run[0].curve("probability")`` is a metric as (iteration, value).

    Attributes:
        outcomes: the outcome of each task, in task order.
        folder: the run folder; None for a run in memory.
    """

    def __init__(
        self,
        configured: ConfiguredMethod,
        outcomes: Sequence[Outcome],
        folder: RunFolder | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        self.outcomes, self.folder = outcomes, None if folder is None else folder.path
        self._configured, self._classifier = configured, classifier  # without a classifier on ranks other than 0
        self._evidence: Evidence | None = None  # of a run in memory

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, index: int) -> Outcome:
        return self.outcomes[index]

    def _repr_html_(self) -> str | None:
        """Return figure, table and verdicts, which a notebook displays."""
        if not self.outcomes:
            return None
        # In memory, maps have verdicts in their records; a further comparison takes seconds.
        has_verdicts = self.folder is None and records_of(self.outcomes, SaliencyRecord)
        evidence = None if has_verdicts else self.evidence
        return run_html(
            self.outcomes, self.figure(), self._configured.presentation, evidence, _output_caption(self._classifier)
        )

    def __repr__(self) -> str:
        where = "kept in memory" if self.folder is None else str(self.folder)
        summary = status_summary(outcome.record for outcome in self.outcomes)
        return f"Run({pluralize(len(self.outcomes), 'image')}: {summary}; {where})"

    @property
    def results(self) -> list[dict[str, Any]]:
        """The records as in ``results.jsonl``, in task order."""
        return [outcome.record.to_dict() for outcome in self.outcomes]

    @property
    def images(self) -> Tensor:
        """The final images ``(N, C, H, W)`` in [0, 1]; NaN for a task without one."""
        return _stack([outcome.image() for outcome in self.outcomes])

    @property
    def attributions(self) -> Tensor:
        """The raw signed results ``(N, C, H, W)`` or ``(N, 1, H, W)``, maps or universal perturbations; NaN for a task
        without one.

        Raises:
            LitVizError: the results have different shapes, because of their methods.
        """
        arrays = [outcome.array() for outcome in self.outcomes]
        if len({array.shape for array in arrays if array is not None}) > 1:
            raise LitVizError(
                "the raw maps of these methods have different shapes: take run.outcomes[0].array() ..., or run.maps"
            )
        return _stack(arrays)

    @property
    def maps(self) -> Tensor:
        """The saliency maps ``(N, H, W)`` of the figure, reduced by the ``reducer`` of each record (see
        :data:`~lit_viz.attributions.reducers.REDUCERS`); NaN for a task without one."""
        maps = []
        for outcome in self.outcomes:
            array, reducer = outcome.array(), getattr(outcome.record, "reducer", "max_abs")
            maps.append(None if array is None else reduce_channels(array, reducer)[0])
        return _stack(maps)

    def figure(self) -> Figure:
        """Return the figure of the run; a notebook displays it."""
        with captions(self._configured, self._classifier):
            return with_notebook_png(self._configured.presentation.figure(self.outcomes, self._configured.config))

    def draw(self) -> None:
        """Write the animation, if an image changes over the iterations, and then the figure."""
        figure = Path(self._configured.config.out, f"figure.{self._configured.config.figure}")
        changes = self._configured.presentation.evolutions(self.outcomes)
        if any(evolution.is_animated for evolution in changes):
            save_evolution(changes, figure.with_name("evolution.gif"))
        save_figure(self.figure(), figure)

    def show(self) -> None:
        """Display figure, table and verdicts in a notebook; elsewhere open the figure in the image viewer."""
        if is_notebook():
            from IPython.display import display

            display(self)
        else:
            buffer = BytesIO()
            figure = self.figure()
            figure.savefig(buffer, format="png", dpi=figure.dpi)
            Image.open(buffer).show()

    def save(self, folder: str | Path) -> Run:
        """Write images, arrays, logged images, records, figure and report to a new run folder; return the run in it.

        :func:`lit_viz.check` accepts the folder. If files of a run in memory are lost, a resume computes all of it.

        Raises:
            LitVizError: the folder exists, or the disk is full.
        """
        if self._classifier is None:
            raise LitVizError("only rank 0 has the results of a run")
        if not isinstance(folder, (str, Path)):
            raise LitVizError(f"folder must be a path, got {folder!r}")
        stored, configured = RunFolder.create(folder), copy(self._configured)
        configured.config = configured.config.clone()
        configured.config.out = str(folder)
        if self.folder is not None:
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)
            return Run(configured, stored_outcomes(stored), stored, self._classifier)
        write_memory_outcomes(
            self.outcomes, stored, configured.dump(), provenance(configured, self._classifier), frames=True
        )
        write_checkpoint(stored, stored.records())
        run = Run(configured, stored_outcomes(stored), stored, self._classifier)
        run.draw()
        if self.evidence.to_dict():
            stored.merge_evidence(self.evidence)
        write_report(stored, configured.presentation)
        return run

    @property
    def evidence(self) -> Evidence:
        """The evidence of the end of the run, or of the last :meth:`check`.

        The evidence of a run in memory is computed at the first access.
        """
        if self.folder is not None:
            return RunFolder(self.folder).evidence()
        if self._evidence is None and self._classifier is not None:
            self._verify_in_memory(EvidenceSettings(self._configured.config, CAPTUM_SECONDS, ignore))
        return self._evidence or Evidence()

    def check(self, *, faithfulness: bool = False, trust: bool = False, progress: bool | None = None) -> bool:
        """Compute all evidence of the run, as :func:`lit_viz.check` does.

        Args:
            faithfulness: also compute saliency metrics.
            trust: also run stronger attacks on images that an attack with a budget did not fool.
            progress: show messages. Default: in notebooks.

        Returns:
            True if no check has failed.
        """
        if self._classifier is None:
            return True
        notify = choose_notify(progress)
        if self.folder is None:
            return self._verify_in_memory(_evidence_settings(self._configured, faithfulness, trust, notify))
        passed = check(self._configured, self._classifier, faithfulness=faithfulness, trust=trust, notify=notify)
        self.outcomes = stored_outcomes(RunFolder(self.folder))
        return passed

    def _verify_in_memory(self, settings: EvidenceSettings) -> bool:
        """Compute the evidence of a run in memory, whose files are written to a temporary folder."""
        configured, classifier = self._configured, self._classifier
        assert classifier is not None
        classifier.refresh()
        with gradients_enabled(), tempfile.TemporaryDirectory() as scratch, failures_reported(configured.config):
            folder = RunFolder(scratch)
            write_memory_outcomes(self.outcomes, folder, configured.dump(), provenance(configured, classifier))
            outcomes = stored_outcomes(folder)
            passed = configured.presentation.verify(configured.build(classifier), outcomes, folder, settings)
            self._evidence = folder.evidence()
            for outcome, verified in zip(self.outcomes, outcomes, strict=True):
                outcome.record = verified.record.amend(file=None, array=None)
        return passed


def _stack(tensors: Sequence[Tensor | None]) -> Tensor:
    """Stack tensors ``(...)`` to ``(N, ...)``, with NaN for None."""
    known = [tensor for tensor in tensors if tensor is not None]
    if not known:
        return torch.empty(0)
    blank = torch.full_like(known[0], torch.nan)
    return torch.stack([blank if tensor is None else tensor for tensor in tensors])


def check(
    configured: ConfiguredMethod,
    classifier: Classifier | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    notify: Notify | None = None,
) -> bool:
    """Compute all evidence for the outcomes in a run folder, and write it there; return whether no check has failed."""
    config = configured.config
    settings = _evidence_settings(configured, faithfulness, trust, notify)
    tune_allocator()
    folder = RunFolder.open(config.out)
    if classifier is None:
        classifier = load_configured(config)
    else:
        classifier.refresh()
    with gradients_enabled(), run_lock(folder.path), failures_reported(config), captions(configured, classifier):
        check_identity(folder, configured, classifier, is_resumed=True)
        outcomes = stored_outcomes(folder)
        if not outcomes:
            raise LitVizError(f"{folder.path} has no results yet: {command_line('resume', folder.path)}")
        passed = configured.presentation.verify(configured.build(classifier), outcomes, folder, settings)
        damaged = LastCheckpoint(folder).damaged_files
        for name in damaged:
            settings.notify(f"{folder.path / name} is damaged: its checksum is not that of the checkpoint")
        write_report(folder, configured.presentation)
    return passed and not damaged


def _evidence_settings(
    configured: ConfiguredMethod, faithfulness: bool, trust: bool, notify: Notify | None
) -> EvidenceSettings:
    for option, requested in {"faithfulness": faithfulness, "trust": trust}.items():
        if requested and option not in configured.command.presented("evidence_options"):
            raise LitVizError(f"--{option} does not apply to a run of lit-viz {configured.command.name}")
    return EvidenceSettings(configured.config, None, notify or ignore, faithfulness, trust)


def captions(configured: ConfiguredMethod, classifier: Classifier | None) -> AbstractContextManager[None]:
    """Add the settings, and of a multi-label network the meaning of its outputs, to the captions of figures."""
    return footer(_settings_line(configured), _output_caption(classifier))


def _output_caption(classifier: Classifier | None) -> str:
    return MULTI_LABEL_CAPTION if classifier is not None and classifier.multi_label else ""


def _settings_line(configured: ConfiguredMethod) -> str:
    """Return the network, the parts of the method with the numbers that are not their defaults, and the seed in one
    line."""
    config = configured.config
    described = []
    for name, value in configured.parts.items():
        several, given = isinstance(value, (list, tuple)), config.model.get(name)
        for part, options in zip(value, given, strict=True) if several else [(value, given)]:
            if type(part).__module__ != "builtins":
                described.append(_describe(part, getattr(options, "init_args", None) or {}, config.get("radii") or ()))
    numbers = {"iteration": config.iterations, "view": configured.parts.get("views")}
    counts = [pluralize(number, noun) for noun, number in numbers.items() if number is not None]
    return " · ".join([config.classifier.name, ", ".join(described), *counts, f"seed {config.seed}"])


def _describe(part: Any, options: Any, radii: Sequence[float]) -> str:
    """Return the class of a part, and the numbers that are not their defaults; ``radii`` replace that of an attack."""
    shown = []
    for parameter in signature(type(part)).parameters.values():
        given = options.get(parameter.name)
        value = getattr(part, parameter.name, None) if given is None else given
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value != parameter.default:
            texts = [format_value(value)]
            if parameter.name == "eps" and isinstance(part, BudgetAttack):
                texts = [format_distance(radius, part.norm.name) for radius in radii or [value]]
            shown.append(f"{parameter.name} {', '.join(texts)}")
    return type(part).__name__ + (f" ({', '.join(shown)})" if shown else "")


def load_configured(config: Namespace, device: torch.device | None = None) -> Classifier:
    """Load the configured classifier, onto the training device if its forward works there."""
    options = config.classifier.as_dict()
    if options["weights"] == GIVEN_WEIGHTS:
        raise LitVizError(
            f"the run was started with a Python module ({options['name']}): continue in Python with "
            "lit_viz.resume(folder, network) or check(folder, network)"
        )
    name = options.pop("name")
    try:
        classifier = load(name, **options)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise LitVizError(
            f"out of memory while {name} is loaded: its weights or inputs need more than there is"
        ) from error
    if device is not None and device != classifier.device and classifier.device.type == "cpu":
        with suppress(Exception):  # modules that support the CPU only raise various exceptions
            classifier.original.to(device)
        if not classifier.probe_logits().numel():
            classifier.original.to("cpu")
    return classifier


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Enable gradients, also inside an evaluation loop of Lightning."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def ignore(message: str) -> None:
    """Do not print a message."""

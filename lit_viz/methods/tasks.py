"""The queues of the methods: tasks of classes, of the channels of a layer, and of photographs."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from lit_viz.attacks.norms import parse_radius
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import ArgumentError, LitVizError, did_you_mean, require
from lit_viz.images.listing import ARRAY_PREFIX, LISTED, Entry, Listing, column_values
from lit_viz.images.listing import photographs as list_photographs
from lit_viz.images.rasters import FileOptions
from lit_viz.images.reading import PACKAGED_PREFIX, ZOO_PREFIX
from lit_viz.images.sources import DatasetImages, Images, Normalization, Pictures, image_inputs, is_dataset
from lit_viz.methods.goals import with_goals
from lit_viz.methods.photographs import DATASET, NOTHING_SAID, RUNNER_UP, SAID, TARGET_RULES, class_tasks, resolve
from lit_viz.networks import Network, as_network
from lit_viz.networks.layers import layer_name, layout
from lit_viz.objectives.layers import Axis, check_channel
from lit_viz.types import Task
from lit_viz.utils.sequences import as_list
from lit_viz.zoo import class_of_photograph

#: One class or several, by name or index.
Classes = Sequence[str | int] | str | int
#: A network, a module, or the name of a network.
AnyNetwork = Network | nn.Module | str
#: A class index, or one of _OPEN.
Target = int | str
#: Size of tiles that is that of the network.
_NETWORK = "network"
_LABEL_SOURCES = ("predicted", "folders")
_OPEN = (*TARGET_RULES, "none")


class ClassTasks(TaskQueue):
    """A task per class, for :class:`~lit_viz.methods.ClassVisualization`.

    Args:
        network: network with the classes, a module or a name.
        target: class names or indices, one or several.
        against: classes that they are contrasted with, one for all or one per class.
        vary: values of ``iterations`` and ``lr`` by name; every class has a task for each combination.
        seed: seed of the first task; task i uses ``seed + i``. The combinations of a class have its seed.

    Raises:
        LitVizError: a class does not exist, or a value is invalid.
    """

    completed = ("target", "against")

    def __init__(
        self,
        network: AnyNetwork,
        target: Classes,
        *,
        against: Classes | None = None,
        vary: Mapping[str, Sequence[float]] | None = None,
        seed: int = 0,
    ) -> None:
        words = to_classes(target)
        require(words, "there must be at least one class", "none", hint="give its name or index", is_argument=False)
        contrasts = None if against is None else to_classes(against)
        network = as_network(network)
        tasks = class_tasks(network, words, contrasts, seed)
        super().__init__(varied(tasks, vary or {}))
        self.network_classes = network.labels
        self.target, self.against = words, _one_or_list(contrasts)


class LayerTasks(TaskQueue):
    """A task per channel of a layer, or one task for the whole layer.

    Args:
        network: network with the layer, a module or a name.
        layer: name of the layer (see ``lit-viz layers``), or the module itself.
        channel: indices from 0, a text such as ``"3,14-20"``, or ``"all"``; None for one task without a channel.
        axis: meaning of a channel in a layer of tokens, as in the objective: ``feature`` (default) or ``token``.
        vary: see :class:`ClassTasks`.
        seed: seed of the first task; task i uses ``seed + i``.

    Raises:
        LitVizError: the layer or a channel does not exist.
    """

    completed = ("layer", "channel")

    def __init__(
        self,
        network: AnyNetwork,
        layer: str | nn.Module,
        *,
        channel: Sequence[int] | str | int | None = None,
        axis: Axis | None = None,
        vary: Mapping[str, Sequence[float]] | None = None,
        seed: int = 0,
    ) -> None:
        network = as_network(network)
        name = layer_name(layer, network.original)
        tasks = [Task(0, name, seed, layer=name)]
        if channel is not None:
            of_layer = layout(network, name)
            count = of_layer.tokens if axis == "token" else of_layer.channels
            tasks = _channel_tasks(name, parse_channels(channel, count), count, axis, seed)
        super().__init__(varied(tasks, vary or {}))
        self.network_classes = network.labels
        self.layer, self.channel = name, _channel_text(channel)


def _channel_text(channel: Sequence[int] | str | int | None) -> str | int | None:
    """Return channels as a text or number; a list of them is ``3,14``."""
    if channel is None or isinstance(channel, (str, int)):
        return channel
    return ",".join(str(int(number)) for number in _to_plain(channel))


def _channel_tasks(layer: str, channels: Sequence[int], count: int, axis: Axis | None, seed: int) -> list[Task]:
    tasks = []
    for index, channel in enumerate(channels):
        check_channel(channel, count, layer)
        name = f"{layer}_{axis or 'ch'}{channel}"
        tasks.append(Task(index, name, seed + index, layer=layer, channel=channel, axis=axis))
    return tasks


class ImageTasks(TaskQueue):
    """A task per image, for saliency maps, adversarial examples and universal perturbations.

    A saliency map explains the label unless a target is given; an attack without a target is untargeted.

    Args:
        network: network with the classes, a module or a name.
        images: files, folders and CSV files (file,label,target,against), Pillow images, arrays and tensors of one or
            several images; or a map-style dataset of images or (image, label), or its loader. The images of a dataset
            are read by index when their tasks start. Tensors are not copied.
        target: target class, one for all images or one per image: a name, an index, ``label``, ``predicted``,
            ``random`` or ``least-likely``; or a CSV file (file,target).
        label: true class, one for all images or one per image, or the source of all: ``predicted``, ``folders``, or a
            CSV file (file,label). By default the dataset's, else predicted.
        against: class that the target of a saliency map is contrasted with, one for all images or one per image,
            ``runner-up``, or a CSV file (file,against).
        vary: values of ``eps`` (radii of the attack, such as ``4/255``) and of ``target`` by name. Every image has a
            task for each combination, ordered by radius, image and target.
        own: indices of the scores of each listed image, in place of targets and labels: of an answer, which is its
            label, or of the tokens of one, a task each. An image without any is skipped. A network of images and text
            without answers writes them.
        goal: of attacks on scores that do not exclude each other, such as ``above:V`` or ``vanish``; ``change:T`` is
            two tasks (see :meth:`~lit_viz.networks.outputs.Output.parse_goals`).
        normalization: mean and standard deviation by which floating-point arrays and tensors, or the images of a
            dataset, were normalized; by default from the transform of a dataset.
        axes: order of the axes of arrays, such as ``HWC``; by default found by the number of bands.
        fill: value of a file in place of no data: NaN, and the value that a GeoTIFF names.
        clip: whether values outside of the network's ``value_range`` are clipped, and counted in the records.
        tile: size in pixels of the square tiles by which large images are read, a task each, or ``network`` for the
            network's size. Default: images are fitted to the network.
        overlap: pixels that neighboring tiles share: by default an eighth of a tile for saliency maps, which are
            blended there; tiles of attacks share none.
        seed: seed of the first task; task i uses ``seed + i``. The radii of an image have its seed.

    Attributes:
        notes: remarks about the images, such as files that are no images.

    Raises:
        LitVizError: a class does not exist, or no image can be read.
    """

    def __init__(
        self,
        network: AnyNetwork,
        images: Images,
        *,
        target: Classes | None = None,
        label: Classes | None = None,
        against: Classes | None = None,
        vary: Mapping[str, Sequence[float | str | int]] | None = None,
        own: Sequence[Sequence[int]] | None = None,
        goal: str | None = None,
        normalization: Normalization | None = None,
        axes: str | None = None,
        fill: float | None = None,
        clip: bool = False,
        tile: int | str | None = None,
        overlap: int | None = None,
        seed: int = 0,
    ) -> None:
        reading = FileOptions(axes, fill, clip)
        network = as_network(network)
        _check_tiles(network, images, tile, overlap)
        sizes: list[float] = []
        targets: list[str | int] = []
        if vary:
            sizes, targets = _varying_images(vary, target, network)
        label = _label_for_all(label, network)
        if is_dataset(images):
            dataset = DatasetImages(images, normalization, network.bands, axes)  # type: ignore[arg-type]
            tasks, notes = _dataset_tasks(dataset, network, target, label, against, targets, seed, own)
            pictures: Pictures = dataset
            names: list[Any] = [f"{ARRAY_PREFIX}dataset"]
        else:
            pictures, names = image_inputs(images, normalization, network.bands, axes)  # type: ignore[arg-type]
            listed = _listed(names, target, label, against)
            tasks, notes = _photograph_tasks(network, listed, targets, seed, own)
        if reading != FileOptions():
            tasks = [replace(task, reading=asdict(reading)) for task in tasks]
        if tile is not None:
            tasks = [replace(task, tiling={"overlap": overlap}) for task in tasks]
        super().__init__(with_variants(with_goals(tasks, goal, network), "eps", sizes), pictures, notes=notes)
        self.network_classes = network.labels
        self._names, self._vary = names, {**(vary or {}), "eps": sizes} if sizes else vary

    @property
    def arguments(self) -> dict[str, Any]:
        return super().arguments | {"images": self._names, "vary": self._vary}


def _varying_images(values: Mapping[str, Any], target: Any, network: Network) -> tuple[list[float], list[str | int]]:
    """Return the radii and the targets that vary between the tasks of an image.

    Raises:
        LitVizError: another name varies, values repeat, or there is another target.
    """
    for name, several in values.items():
        require(name in ("eps", "target"), "vary of images takes eps and target", name)
        require(len(as_list(_to_plain(several))) > 0, f"{name} must have at least one value", "none")
    radii = as_list(_to_plain(values.get("eps", ())))
    sizes = [parse_radius(radius, network.bands) for radius in radii]
    given = ", ".join(map(str, radii))
    require(len(set(sizes)) == len(sizes), "eps must have different radii", given)
    targets = [to_class(word) for word in as_list(_to_plain(values.get("target", ())))]
    require(not targets or target is None, "target must be given once", target, hint="or vary it alone")
    return sizes, targets


def _check_tiles(network: Network, images: Images, tile: int | str | None, overlap: int | None) -> None:
    """Check the size of tiles, which is that of the network, and how much they share.

    Raises:
        LitVizError: a value is invalid.
    """
    if tile is None:
        require(overlap is None, "overlap requires tile", overlap, hint='try tile="network"')
        return
    height, width = network.size
    require(tile == _NETWORK or isinstance(tile, int), "tile must be network or a side in pixels", repr(tile))
    if tile not in (_NETWORK, height) or (tile == height != width):
        raise ArgumentError(
            "tile",
            f"must be network, or the size of the network's input ({height} x {width}), got {tile}: give tile to "
            f"saliency or attack, or load_network(..., size={tile})",
            value=tile,
        )
    most = min(height, width) - 1
    require(overlap is None or 0 <= overlap <= most, f"overlap must be 0 to {most}", overlap)
    if is_dataset(images):
        raise LitVizError("tile requires files, arrays or tensors, got a dataset: its images have no known size")


# -- orders of tasks


def varied(tasks: Sequence[Task], values: Mapping[str, Sequence[float]]) -> list[Task]:
    """Return each task once per combination of the values of its options, ordered by task.

    Raises:
        LitVizError: an option can't vary, or its values are not positive and different.
    """
    for name, numbers in values.items():
        got = f"{name}: {list(numbers)}"
        is_valid = name in ("iterations", "lr") and len(numbers) > 0 and all(number > 0 for number in numbers)
        require(is_valid, "vary takes positive values of iterations and lr", got)
        require(len(set(numbers)) == len(numbers), "vary must have different values", got)
    counts = list(values.get("iterations", ()))
    require(not any(count % 1 for count in counts), "vary must have whole numbers of iterations", counts)
    variants: list[Task] = []
    for task in tasks:
        for combination in product(*values.values()):
            options: dict[str, Any] = dict(zip(values, combination, strict=True))
            variants.append(replace(task, index=len(variants), **options))
    return variants


def with_variants(tasks: Sequence[Task], option: str, values: Sequence[Any]) -> list[Task]:
    """Return the tasks once per value of an option, ordered by value; unchanged without values."""
    if not values:
        return list(tasks)
    variants: list[Task] = []
    for value in values:
        for task in tasks:
            variants.append(replace(task, index=len(variants), **{option: value}))
    return variants


# -- classes and channels


def to_class(value: Any) -> str | int:
    """Return a class name or index."""
    if isinstance(value, str):
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise LitVizError(f"a class must be a name or an index, got {value!r}")


def to_classes(value: Any) -> list[str | int]:
    """Return one or several class names or indices as a list."""
    plain = _to_plain(value)
    if not isinstance(plain, list):
        return [to_class(plain)]
    return list(map(to_class, plain))


def _one_or_list(words: list[str | int] | None) -> Any:
    if words is not None and len(words) == 1:
        return words[0]
    return words


def _to_plain(value: Any) -> Any:
    """Return one value or a list of values from a tensor, array or sequence."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, str):
        return list(value)
    return value


def parse_channels(words: Sequence[int] | str | int, count: int) -> list[int]:
    """Return channels given by numbers, or by ``3,14-20`` or ``all`` of a layer with ``count`` channels."""
    if not isinstance(words, (str, int)):
        numbers = [int(channel) for channel in _to_plain(words)]
        require(numbers, "channel must have at least one channel", "none", hint="leave it out for the whole layer")
        return numbers
    text = str(words).replace(" ", "")
    if text == "all":
        return list(range(count))
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ArgumentError("channel", f"must be numbers and ranges such as 3,14-20, or all, got {words}")
    channels: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if end < start:
            raise LitVizError(f"a range of channels must ascend, got {part}: write {end}-{start}")
        # One missing channel suffices for the error: a mistyped range may be huge.
        channels += range(start, min(end, max(start, count)) + 1)
    return channels


# -- photographs


@dataclass(frozen=True)
class _Listed:
    """Images of a queue with their classes.

    Attributes:
        images: files, folders and CSV files, or rows with the keys ``file``, ``label``, ``target`` and ``against``.
        target, label, against: class, rule, source or CSV file of all images; a number is the index of a class.
    """

    images: Sequence[str | Mapping[str, Any]]
    target: str | int | None
    label: str | int
    against: str | int | None


def _photograph_tasks(
    network: Network,
    listed: _Listed,
    targets: Sequence[str | int],
    seed: int,
    own: Sequence[Sequence[int]] | None = None,
) -> tuple[list[Task], list[str]]:
    """Return a task per image and target, ordered by image, and notes for the user.

    Labels and targets that depend on a prediction are resolved later, by :func:`~lit_viz.methods.photographs.resolve`.
    An image without a valid class becomes one task with the reason as its option ``error``. A class in the table that
    lists the images takes precedence.
    """
    listing = list_photographs(listed.images)
    label_source = listed.label
    has_class = not isinstance(label_source, str)
    is_table = _is_table(label_source)
    if not (is_table or has_class) and label_source not in _LABEL_SOURCES:
        hint = did_you_mean(str(label_source), _LABEL_SOURCES)
        problem = f"must be a class, predicted, folders or a CSV file (file,label), got {label_source!r}{hint}"
        raise ArgumentError("label", problem, value=label_source)
    words: Sequence[str | int] = targets or ["none" if listed.target is None else listed.target]
    classes = _ClassReader(network, listing)
    label_of = classes.column("label", label_source if is_table or has_class else None, (None,))
    targets_of = [classes.column("target", word, _OPEN) for word in words]
    contrast_of = classes.column("against", listed.against, (None, RUNNER_UP))
    count = len(listing.entries)
    if own is not None:
        require(len(own) == count, f"own must have the scores of each of {count} images", f"{len(own)}")
    tasks: list[Task] = []
    for number, (entry, name) in enumerate(zip(listing.entries, listing.names(), strict=True)):
        first = _task_of_entry(entry, name, len(tasks), seed)
        try:
            if entry.error is not None:
                raise LitVizError(entry.error)
            if own is not None:
                tasks += _tasks_of_own(first, own[number], network)
                continue
            label, source = label_of(entry), LISTED if has_class else str(label_source)
            if entry.label is not None:
                source = str(entry.listed_in)
            if label is None and source == "folders":
                label = classes.read(entry, "folder", _folder(entry))
            labelled = first.amend(label=label, label_source=source)
            contrast = contrast_of(entry)
            if contrast is not None:
                labelled = labelled.amend(against=contrast)
            of_entry: list[Task] = []
            for target_of in targets_of:
                of_entry.append(_with_target(labelled, len(of_entry), target_of(entry), network))
                if entry.target is not None:  # takes precedence over all
                    break
            tasks += of_entry
        except LitVizError as error:
            tasks.append(replace(first, error=str(error)))
    errors = [task.error for task in tasks if task.error is not None]
    if len(errors) == len(tasks):
        message = errors[0]
        if len(tasks) > 1:
            message = f"none of the {len(tasks)} images can be used; of the first: {message}"
        raise LitVizError(message)
    return tasks, list(listing.notes)


def _task_of_entry(entry: Entry, name: str, index: int, seed: int) -> Task:
    """Return the task of a photograph, without classes."""
    if not entry.path.startswith(ARRAY_PREFIX):
        return Task(index, name, seed + index, source=entry.path)
    image = int(entry.path.removeprefix(ARRAY_PREFIX))
    return Task(index, f"image {image}", seed + index, image=image)


def _tasks_of_own(first: Task, scores: Sequence[int], network: Network) -> list[Task]:
    """Return the tasks of a photograph with scores of its own."""
    if not scores:
        return [first.amend(rule=NOTHING_SAID)]
    first = first.amend(label_source=SAID)
    if not network.output.has_parts:
        return [first.amend(label=scores[0])]
    return [_with_target(first, i, index, network) for i, index in enumerate(scores)]


def _with_target(first: Task, i: int, target: Target, network: Network) -> Task:
    """Return the task of a photograph's i-th target, resolved unless it depends on a prediction."""
    of_target: dict[str, Any] = {"target": target}
    if isinstance(target, str):
        of_target = {"rule": target}
    task = first.amend(index=first.index + i, seed=first.seed + i, **of_target)
    return resolve(task, None, network.labels)


class _ClassReader:
    """Reader of the classes of photographs; its errors name the photograph."""

    def __init__(self, network: Network, listing: Listing) -> None:
        self._network = network
        self._paths = [entry.path for entry in listing.entries]
        # Errors too: the search for similar names is slow, and a thousand photographs may share a folder.
        self._indices: dict[str | int, int | LitVizError] = {}

    def read(self, entry: Entry, noun: str, word: str | int) -> int:
        """Return the index of the class of a photograph."""
        if word not in self._indices:
            try:
                self._indices[word] = class_of(self._network, word)
            except LitVizError as error:
                self._indices[word] = error
        index = self._indices[word]
        if isinstance(index, LitVizError):
            raise LitVizError(f"the {noun} of {entry.path} is no class: {index}")
        return index

    def column(self, name: str, word: str | int | None, rules: Sequence[str | None]) -> Callable[[Entry], Any]:
        """Return a function from a photograph to its class or rule.

        Args:
            name: column of the table that lists the photographs, which takes precedence.
            word: CSV file with this column, or the class or rule of all photographs.
            rules: words that are no classes.
        """
        noun = "contrasted class" if name == "against" else name
        is_table, for_all = _is_table(word), word
        table: Mapping[str, Any] = {}
        if is_table:
            table = column_values(self._paths, str(word), name)
        elif word is not None and word not in rules:
            for_all = class_of(self._network, word)

        def class_or_rule(entry: Entry) -> int | str | None:
            cell: int | str | LitVizError | None = getattr(entry, name)
            if cell is None and not is_table:
                return for_all
            if cell is None:
                cell = table[entry.path]
            if isinstance(cell, LitVizError):
                raise cell
            if cell in rules:
                return cell
            return self.read(entry, noun, cell)

        return class_or_rule


def class_of(network: Network, word: str | int) -> int:
    """Return the index of a class given by name, index, or WordNet id if the classes are ImageNet's 1000."""
    if isinstance(word, str) and re.fullmatch(r"n\d{8}", word) and _is_imagenet(network.labels):
        index = _wordnet_ids().get(word)
        if index is not None:
            return index
    return network.index_of(word)


def _is_imagenet(labels: Sequence[str]) -> bool:
    """Return whether the labels are ImageNet's 1000 classes in their usual order, by a few common names."""
    samples = {1: "goldfish", 76: "tarantula", 999: "toilet tissue"}
    return len(labels) == 1000 and all(name in labels[index].casefold() for index, name in samples.items())


@cache
def _wordnet_ids() -> Mapping[str, int]:
    from timm.data.imagenet_info import ImageNetInfo

    names: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return {name: index for index, name in enumerate(names)}


def _is_table(word: str | int | None) -> bool:
    return Path(str(word)).suffix.casefold() == ".csv"


def _folder(entry: Entry) -> str:
    if entry.path.startswith(ZOO_PREFIX):
        return class_of_photograph(entry.path)
    if entry.path.startswith((PACKAGED_PREFIX, ARRAY_PREFIX)):
        raise LitVizError(f"{entry.path} has no folder with the name of its class: give its label in a CSV file")
    parent = Path(entry.path).parent
    if parent.name in ("", ".."):
        parent = parent.resolve()
    return parent.name


def _listed(images: Sequence[str | Mapping[str, Any]], target: Any, label: Any, against: Any) -> _Listed:
    """Return images with their own classes, and the classes and rules of all images."""
    rows: list[dict[str, Any]] = []
    for image in images:
        rows.append(dict(image) if isinstance(image, Mapping) else {"file": image})
    for_all = {}
    for name, given in (("target", target), ("label", label), ("against", against)):
        for_all[name] = _fill_column(rows, name, given)
    has_classes = any(len(row) > 1 for row in rows)
    label_of_all = "predicted" if for_all["label"] is None else for_all["label"]
    return _Listed(rows if has_classes else images, for_all["target"], label_of_all, for_all["against"])


def _fill_column(rows: Sequence[dict[str, Any]], name: str, given: Any) -> str | int | None:
    """Write the classes of images to their rows; return a class or rule of all images instead."""
    values = _to_plain(given)
    if values is None or isinstance(values, str):
        return values
    if not isinstance(values, list):
        return to_class(values)
    if len(values) != len(rows):
        hint = "; every target for each image: vary target" if name == "target" else ""
        problem = f"must be one class, or one per image: got {len(values)} for {len(rows)} images{hint}"
        raise ArgumentError(name, problem, value=given)
    for row, value in zip(rows, values, strict=True):
        row[name] = to_class(value)
    return None


def _label_for_all(label: Any, network: Network) -> Any:
    """Return the index of a class that is given by its name; other labels, and the names of sources, are unchanged."""
    if not isinstance(label, str) or label in _LABEL_SOURCES or _is_table(label):
        return label
    try:
        return class_of(network, label)
    except LitVizError:
        return label  # a mistyped source, or an unknown class


def _dataset_tasks(
    dataset: DatasetImages,
    network: Network,
    target: Any,
    label: Any,
    against: Any,
    targets: Sequence[Any],
    seed: int,
    own: Sequence[Sequence[int]] | None,
) -> tuple[list[Task], list[str]]:
    """Return a task per image of a dataset; its labels are used unless others are given."""
    files = [f"{ARRAY_PREFIX}{index}" for index in range(len(dataset))]
    if own is not None:
        return _photograph_tasks(network, _listed(files, None, None, None), (), seed, own)
    if label is None:
        dataset.network_classes = class_indices(dataset, network)
        label = dataset.known_labels()
    tasks, notes = _photograph_tasks(network, _listed(files, target, label, against), targets, seed)
    if label is None:  # of the items, when they are read
        tasks = [replace(task, label_source=DATASET) for task in tasks]
    return tasks, notes


def class_indices(dataset: DatasetImages, network: Network) -> list[int] | None:
    """Return the network's class of each label of a dataset, by the names of its classes; None for equal indices.

    Raises:
        LitVizError: the dataset has other classes than the network.
    """
    names = dataset.class_names
    if names is None:
        return None
    try:
        return [class_of(network, name) for name in names]
    except LitVizError as error:
        if len(names) == network.num_classes:
            return None
        raise LitVizError(
            f"the classes of the dataset must be classes of {network.name} ({error}): give label"
        ) from error

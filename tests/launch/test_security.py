"""What a configuration or a received run folder may execute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.launch.resume import stored_form
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.evidence import AdversarialEvidence
from lit_viz.runs.folder import FolderStorage


@pytest.mark.parametrize("name", ["http.server:test", "os:abort", "builtins:exit", "webbrowser:open", "own_os:abort"])
def test_factories_of_the_standard_library_are_rejected(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_os.py").write_text("from os import abort")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LitVizError, match=f"network must not be of Python's standard library, got '{name}'"):
        load_network(name, size=8)


PARTS: dict[str, Any] = {
    "attack": lambda path: {"module": {"init_args": {"attack": path}}},
    "class of the attack": lambda path: {"module": {"init_args": {"attack": {"class_path": path}}}},
    "transforms": lambda path: {"module": {"init_args": {"transforms": [{"class_path": path}]}}},
    "module": lambda path: {"module": {"class_path": path}},
    "tasks": lambda path: {"tasks": {"class_path": path}},
    "strategy": lambda path: {"run": {"trainer": {"strategy": {"class_path": path}}}},
}


@pytest.fixture
def _uncalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "abort", lambda: pytest.fail("called"))
    monkeypatch.setattr(subprocess.Popen, "__init__", lambda *_, **__: pytest.fail("called"))


@pytest.mark.usefixtures("_uncalled")
@pytest.mark.parametrize("path", ["os.abort", "subprocess.Popen", "http.server.test", "torch.nn.Linear"])
@pytest.mark.parametrize("part", PARTS)
def test_a_class_path_of_another_base_class_is_not_called(
    part: str, path: str, smooth: Network, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(PARTS[part](path)))
    words = f"can't be given by class_path, got {path}$|there is no attack '{path}'|invalid strategy name"
    if path.startswith("torch"):
        words = f"must be an instance of .*, got {path}$|there is no attack '{path}'|invalid strategy name"
    with pytest.raises(LitVizError, match=words):
        lv.attack(smooth, torch.rand(1, 3, 16, 16), label=0, config=tmp_path / "own.yaml")


@pytest.mark.usefixtures("_uncalled")
@pytest.mark.parametrize("path", ["os.abort", "subprocess.Popen", "lit_viz.images.Fourier"])
@pytest.mark.parametrize("part", ["attack", "transforms", "trainer"])
def test_class_paths_of_another_base_class_are_no_parts_in_python(part: str, path: str, smooth: Network) -> None:
    options: dict[str, Any] = {
        "attack": {"attack": path},
        "transforms": {"transforms": [{"class_path": path}]},
        "trainer": {"trainer": {"strategy": {"class_path": path}}},
    }[part]
    with pytest.raises(LitVizError):
        lv.attack(smooth, torch.rand(1, 3, 16, 16), label=0, **options)


HUB = "timm/hf-hub:someone/vit"  # data, no code


@pytest.fixture
def received(tmp_path: Path, smooth: Network, reseal: Any) -> Path:
    """A run folder with a module that its configuration names."""
    folder = tmp_path / "received"
    lv.saliency(smooth, torch.rand(1, 3, 16, 16), target=0, out=folder, wandb="disabled", captum="none")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["network"] |= {"name": "harmful:make", "weights": "DEFAULT"}
    (folder / "config.yaml").write_text("# lit_viz run\n" + yaml.safe_dump(config))
    reseal(folder)
    (folder / "harmful.py").write_text("raise KeyboardInterrupt")
    return folder


@pytest.mark.parametrize("place", ["", "images"])
@pytest.mark.parametrize("command", ["check", "resume"])
def test_nothing_is_imported_from_a_run_folder(
    command: str, place: str, received: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(received / place)
    (Path.cwd() / "harmful.py").write_text("raise KeyboardInterrupt")
    monkeypatch.setattr(sys, "path", ["", str(received), *sys.path])
    with pytest.raises(LitVizError, match="'harmful' of network 'harmful:make' can't be imported"):
        getattr(lv, command)(received)


@pytest.mark.parametrize("name", ["module", "tasks", "method"])
def test_no_part_is_imported_from_a_run_folder(
    name: str, received: Path, smooth: Network, reseal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((received / "config.yaml").read_text())
    if name == "method":
        config["module"]["init_args"]["method"] = {"class_path": "harmful.Own"}
    else:
        config[name]["class_path"] = "harmful.Own"
    (received / "queue.jsonl").write_text("")
    shutil.rmtree(received / "records")
    (received / "config.yaml").write_text("# lit_viz run\n" + yaml.safe_dump(config))
    reseal(received)
    monkeypatch.chdir(received)
    monkeypatch.setattr(sys, "path", ["", str(received), *sys.path])
    with pytest.raises(LitVizError, match=f"{name} must be a class, got harmful.Own: it can't be imported"):
        lv.resume(received, smooth)


@pytest.mark.parametrize("place", ["", "images"])
def test_commands_in_a_run_folder_import_nothing_of_it(
    place: str, received: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also commands that are not about the run."""
    monkeypatch.chdir(received / place)
    (Path.cwd() / "harmful.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(LitVizError, match="'harmful' of network 'harmful:make' can't be imported"):
        lv.load_network("harmful:make")
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    (Path.cwd() / "config.yaml").write_text("mine: 1")  # no run
    (Path.cwd() / "harmless.py").write_text("other = 1")
    with pytest.raises(LitVizError, match="module 'harmless' has no 'make'"):
        lv.load_network("harmless:make")


def test_imports_of_a_run_are_printed_first(received: Path) -> None:
    (received / "manifest.json").unlink()
    lines: list[str] = []
    stored_form(FolderStorage.open(received), lines.append)
    assert lines == [f"{received} names parts to import, which run as code: harmful:make"]
    config = yaml.safe_load((received / "config.yaml").read_text())
    (received / "config.yaml").write_text("# lit_viz run\n" + yaml.safe_dump(config | {"network": {"name": HUB}}))
    stored_form(FolderStorage.open(received), lines.append)
    assert len(lines) == 1
    method = {"class_path": "my_parts.Map"}
    config["module"]["init_args"]["method"] = method
    (received / "config.yaml").write_text("# lit_viz run\n" + yaml.safe_dump(config))
    stored_form(FolderStorage.open(received), lines.append)
    assert lines[1].endswith("run as code: harmful:make, my_parts.Map")
    method |= {"class_path": "lit_viz.attributions.GradCAM", "init_args": {"reshape": "my_maps:maps"}}
    (received / "config.yaml").write_text("# lit_viz run\n" + yaml.safe_dump(config))
    stored_form(FolderStorage.open(received), lines.append)
    assert lines[2].endswith("run as code: harmful:make, my_maps:maps")
    assert not {"my_parts", "my_maps", "harmful"} & set(sys.modules)


@pytest.mark.parametrize("command", ["check", "resume"])
@pytest.mark.parametrize("name", ["queue.jsonl", "images/pipe.png"])
def test_pipes_in_a_run_folder_are_rejected(name: str, command: str, received: Path) -> None:
    (received / name).unlink(missing_ok=True)
    os.mkfifo(received / name)
    with pytest.raises(LitVizError, match=f"{name} must be a regular file, got a FIFO"):
        getattr(lv, command)(received)


def test_a_configuration_with_another_record_is_rejected(received: Path) -> None:
    (received / "config.yaml").write_text("# lit_viz run\nrecorded: 5\n")
    with pytest.raises(LitVizError, match=r"config\.yaml is damaged \(recorded: it must be an object, got 5\)"):
        lv.check(received)


def test_damaged_evidence_is_a_one_line_error(received: Path) -> None:
    (received / "evidence.json").write_text('{"transfer": 5}')
    (received / "manifest.json").unlink()
    with pytest.raises(
        LitVizError, match=r"evidence\.json is damaged \(transfer must be an object or null, got 5\): delete it"
    ):
        FolderStorage.open(received).evidence(AdversarialEvidence)

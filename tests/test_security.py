"""What a run trusts: nothing that can run code comes in from outside, and a changed checkpoint is noticed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from configs.schema import load_config
from models import checkpoints, registry
from models.model import ModelSpec
from pipeline.convert import Conversion, start
from pipeline.errors import ConversionError
from pipeline.span_job import run_span
from tests.clips import make_clip

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "commands",
    "configs",
    "datasets",
    "evaluation",
    "models",
    "pipeline",
    "preview",
    "reporting",
    "training",
    "workers",
)
FORBIDDEN = {"cloudpickle", "dill", "joblib", "marshal", "shelve"}
OWN_PIPES = ("file_desk.py", "file_process.py")
"""A driver and the child that it started speak by pipes that nobody else holds."""

HARMLESS = {"UnpicklingError"}
"""Of pickle: the error that torch raises for a file that is none of tensors alone."""


def save(path: Path, seed: int) -> str:
    """A tiny network with weights by chance; returns its hash."""
    width = registry.WIDTHS["tiny"]
    spec = ModelSpec("dcdr_unet", width, False, "bt1886", "bt1886", 1.0, False, "none", "Apache-2.0")
    return checkpoints.save(path, registry.build("dcdr_unet", width, seed=seed), spec).sha256


def test_a_checkpoint_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    source, model = make_clip(tmp_path / "clip.mp4", frames=12), tmp_path / "model.safetensors"
    planned = save(model, seed=1)
    conversion = start(source, tmp_path / "o.mp4", load_config("dashcam", None, [f"model={model}"]))
    assert isinstance(conversion, Conversion) and conversion.plan.model_sha256 == planned
    assert save(model, seed=2) != planned
    with pytest.raises(ConversionError, match=r"model\.safetensors: the checkpoint is not the one that the plan names"):
        run_span(str(conversion.workdir), 0, 0, threads=1, on_frames=lambda _: None, should_stop=lambda: False)
    conversion.close()
    assert not list(conversion.workdir.glob("span_*"))


def test_other_weights_make_another_key_so_that_spans_of_two_checkpoints_never_meet(tmp_path: Path) -> None:
    source, model = make_clip(tmp_path / "clip.mp4", frames=12), tmp_path / "model.safetensors"
    identities = set()
    for seed in (1, 2):
        save(model, seed)
        conversion = start(source, tmp_path / f"o{seed}.mp4", load_config("dashcam", None, [f"model={model}"]))
        assert isinstance(conversion, Conversion)
        identities.add(conversion.plan.identity())
        conversion.close()
    assert len(identities) == 2


def test_a_pickle_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "evil.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="not a readable safetensors file"):
        checkpoints.load(tmp_path / "evil.safetensors")


def test_no_module_of_the_program_unpickles() -> None:
    """By its source: nothing of pickle is used but an error's name, numpy may not load objects, torch.load reads tensors alone."""
    wrong = []
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if FORBIDDEN & {name.split(".")[0] for name in names}:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: {names}")
            own = file.name in OWN_PIPES and file.parent.name == "workers"
            used = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
            if used and node.attr not in HARMLESS and not own:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: pickle.{node.attr}")
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: from pickle")
            if isinstance(node, ast.Call):
                words = {one.arg: one.value for one in node.keywords}
                if "allow_pickle" in words and not _is(words["allow_pickle"], False):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: allow_pickle")
                called = ast.unparse(node.func)
                if called == "torch.load" and not _is(words.get("weights_only"), True):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: torch.load")
    assert not wrong


def _is(node: ast.AST | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value

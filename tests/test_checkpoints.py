"""Checkpoints: round trip, the same bytes every time, and one clear sentence for each kind of broken file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models import checkpoints, neutral, registry
from models.checkpoints import CheckpointError
from models.model import ModelSpec

SPEC = ModelSpec(
    architecture="dcdr_unet",
    width=16,
    sft=True,
    input_encoding="bt1886",
    output_encoding="log",
    white_level=0.5,
    trained=True,
    training_data="12 synthetic panoramas",
    licence="Apache-2.0",
    metrics={"psnr_mu_db": 31.5},
)


def saved(folder: Path) -> Path:
    checkpoints.save(folder / "mine.safetensors", registry.build("dcdr_unet", 16, True, seed=4), SPEC)
    return folder / "mine.safetensors"


def test_round_trip(tmp_path: Path) -> None:
    network = registry.build("dcdr_unet", 16, True, output_encoding="log", seed=4)
    spec = checkpoints.save(tmp_path / "mine.safetensors", network, SPEC)
    model = checkpoints.load(tmp_path / "mine.safetensors")
    assert model.spec == spec
    assert spec.name == "mine"
    assert spec.sha256 == hashlib.sha256((tmp_path / "mine.safetensors").read_bytes()).hexdigest()
    assert spec.restores_highlights and spec.halo_px % spec.size_multiple == 0
    assert all(torch.equal(t, model.network.state_dict()[key]) for key, t in network.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    first = saved(tmp_path).read_bytes()
    assert saved(tmp_path).read_bytes() == first


def test_the_shipped_neutral_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "neutral" in checkpoints.available()
    model = checkpoints.load("neutral")
    coded = torch.rand(1, 3, 7, 5)
    torch.testing.assert_close(model.restore(coded, "fp32"), coded.pow(2.4))
    assert not model.spec.restores_highlights and model.spec.halo_px == 0
    shipped = (checkpoints.WEIGHTS_FOLDER / "neutral.safetensors").read_bytes()
    monkeypatch.setattr(checkpoints, "WEIGHTS_FOLDER", tmp_path)
    neutral.main()
    assert (tmp_path / "neutral.safetensors").read_bytes() == shipped


def test_unknown_name_lists_the_legal_ones() -> None:
    with pytest.raises(CheckpointError, match=r"neutrl: no such checkpoint.*neutral"):
        checkpoints.load("neutrl")


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "text"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    damaged = {"cut": data[:-100], "header": b"\xff" * 8 + data[8:], "empty": b"", "text": b"not a checkpoint"}[damage]
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"mine\.safetensors: not a readable safetensors file"):
        checkpoints.load(path)


def rewritten(folder: Path, changes: dict[str, object], tensors: dict[str, torch.Tensor] | None = None) -> Path:
    fields = {name: getattr(SPEC, name) for name in checkpoints.FIELDS} | {"format_version": 1} | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    state = registry.build("dcdr_unet", 16, True).state_dict() if tensors is None else tensors
    path = folder / "odd.safetensors"
    save_file({k: t.contiguous() for k, t in state.items()}, path, metadata={"sunvisor": json.dumps(fields)})
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"architecture": "resnet"},
            "unknown architecture 'resnet'; legal are: dcdr_unet, dcdr_unet_deep, residual_unet, hdrunet, neutral",
        ),
        ({"architecture": None}, "lacks 'architecture'; needed are: architecture, width"),
        ({"width": 17}, "legal are: 16, 32, 64"),
        ({"width": 32}, "the tensor '.*' is .*; it must be"),
        ({"sft": False}, "does not belong to this architecture"),
        ({"white_level": "bright"}, "'white_level' is 'bright'; it must be of type float"),
        ({"white_level": -1.0}, "white_level is -1.0"),
        ({"output_encoding": "pq"}, "legal are: linear, bt1886, srgb, log"),
        ({"format_version": 2}, "format_version is 2; this program reads 1"),
    ],
)
def test_wrong_metadata(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(CheckpointError, match=rf"odd\.safetensors: .*{said}"):
        checkpoints.load(rewritten(tmp_path, changes))


def test_wrong_tensors(tmp_path: Path) -> None:
    state = registry.build("dcdr_unet", 16, True).state_dict()
    key = "net_t.out.weight"
    with pytest.raises(CheckpointError, match=f"tensor '{key}' is missing"):
        checkpoints.load(rewritten(tmp_path, {}, {k: t for k, t in state.items() if k != key}))
    with pytest.raises(CheckpointError, match=f"tensor '{key}' holds values that are not finite"):
        checkpoints.load(rewritten(tmp_path, {}, state | {key: torch.full_like(state[key], float("nan"))}))


def test_foreign_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        checkpoints.load(tmp_path / "foreign.safetensors")


def test_saving_a_network_that_is_not_what_the_spec_says(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tensor '.*'"):
        checkpoints.save(tmp_path / "a.safetensors", registry.build("dcdr_unet", 16), SPEC)
    with pytest.raises(CheckpointError, match="must end in"):
        checkpoints.save(tmp_path / "a.pt", registry.build("dcdr_unet", 16, True), SPEC)
    assert list(tmp_path.iterdir()) == []

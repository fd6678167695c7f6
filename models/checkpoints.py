"""Checkpoints: a safetensors file whose metadata says everything needed to run it. Nothing is ever pickled.

Layout, format version 1: the tensors are the network's `state_dict` in float32 or float16; the safetensors metadata has one key,
`sunvisor`, a JSON object with the fields of `ModelSpec` (but name and sha256) and `format_version`. (One key, because
safetensors writes several in random order, and the same checkpoint must be the same bytes.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import nn

from models import registry
from models.files import write_whole
from models.model import Model, ModelSpec

FORMAT_VERSION = 1
METADATA_KEY = "sunvisor"
SUFFIX = ".safetensors"
WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""Where the shipped checkpoints are."""

DTYPES = (torch.float32, torch.float16)

FIELDS = {
    "architecture": str,
    "width": int,
    "sft": bool,
    "input_encoding": str,
    "output_encoding": str,
    "white_level": float,
    "trained": bool,
    "training_data": str,
    "licence": str,
    "metrics": dict,
}
"""Metadata key -> type; every one must be there."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message names the file, what is wrong, and what is legal."""


def available() -> list[str]:
    """Names of the shipped checkpoints, sorted; each is a legal argument of `load`."""
    return sorted(path.stem for path in WEIGHTS_FOLDER.glob(f"*{SUFFIX}"))


def save(path: str | Path, network: nn.Module, spec: ModelSpec, half: bool = False) -> ModelSpec:
    """Write a network as a checkpoint (through a temporary file, so that no half of one is left) and return the spec
    with `name` and `sha256` filled in. The same network and spec give the same bytes. half: store 16-bit floats.

    CheckpointError when the network is not what the spec says, OSError when the file cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path}: the name of a checkpoint must end in {SUFFIX}")
    fields = {name: getattr(spec, name) for name in FIELDS}
    tensors = {name: t.detach().float().contiguous().cpu() for name, t in network.state_dict().items()}
    if half:
        tensors = {name: t.half() for name, t in tensors.items()}
    _fill(_network(path, spec), tensors, path)
    metadata = json.dumps({"format_version": FORMAT_VERSION, **fields}, sort_keys=True, ensure_ascii=False)
    data = serialise(tensors, metadata={METADATA_KEY: metadata})
    write_whole(path, data)
    return dataclasses.replace(spec, name=path.stem, sha256=hashlib.sha256(data).hexdigest())


def load(name_or_path: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model of a shipped checkpoint (by its name, see `available`) or of any file.

    CheckpointError for an unknown name and for a file that is missing, damaged, or not one of this program's checkpoints.
    """
    path = _find(name_or_path)
    try:
        data_hash = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file, it may be damaged or cut short ({error}); fetch or train it again"
        ) from error
    spec = dataclasses.replace(_spec(path, metadata), name=path.stem, sha256=data_hash)
    network = _network(path, spec)
    _fill(network, tensors, path)
    return Model(network, spec, device)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if str(name_or_path) in available():
        return WEIGHTS_FOLDER / f"{name_or_path}{SUFFIX}"
    if path.is_file():
        return path
    names = ", ".join(available()) or "none are shipped"
    raise CheckpointError(f"{name_or_path}: no such checkpoint; give the path of a {SUFFIX} file or one of: {names}")


def _spec(path: Path, metadata: dict[str, str]) -> ModelSpec:
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: its metadata has no key {METADATA_KEY!r}, so it is not a checkpoint of this program"
        )
    try:
        fields = json.loads(metadata[METADATA_KEY])
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its metadata key {METADATA_KEY!r} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: its metadata key {METADATA_KEY!r} is not a JSON object")
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: checkpoint format_version is {version!r}; this program reads {FORMAT_VERSION}")
    for name, kind in FIELDS.items():
        if name not in fields:
            raise CheckpointError(f"{path}: its metadata lacks {name!r}; needed are: {', '.join(FIELDS)}")
        value = fields[name]
        right = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not right or (kind is not bool and isinstance(value, bool)):
            raise CheckpointError(f"{path}: metadata {name!r} is {value!r}; it must be of type {kind.__name__}")
    try:
        return ModelSpec(**{name: fields[name] for name in FIELDS})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _network(path: Path, spec: ModelSpec) -> nn.Module:
    try:
        return registry.build(spec.architecture, spec.width, spec.sft, spec.input_encoding, spec.output_encoding)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _fill(network: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load the tensors into the network, which must want exactly these, finite, and holds them in float32."""
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise CheckpointError(f"{path}: the tensor {name!r} is missing")
        if name not in wanted:
            raise CheckpointError(f"{path}: the tensor {name!r} does not belong to this architecture")
        tensor = tensors[name]
        if tensor.shape != wanted[name].shape or tensor.dtype not in DTYPES:
            have = f"{tuple(tensor.shape)} {tensor.dtype}"
            want = f"{tuple(wanted[name].shape)} {' or '.join(map(str, DTYPES))}"
            raise CheckpointError(f"{path}: the tensor {name!r} is {have}; it must be {want}")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: the tensor {name!r} holds values that are not finite")
    network.load_state_dict(tensors)

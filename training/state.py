"""State: all that a training run needs to go on as if it had never stopped. Tensors in safetensors; nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models.files import write_whole
from pipeline.errors import InputError

KEY = "sunvisor_training"
MOMENTS = ("exp_avg", "exp_avg_sq")


class Ema:
    """Exponential moving average of a network's weights; what is validated and shipped. Early on it follows faster."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: t.detach().clone() for name, t in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after `step` (1, 2, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, t in network.state_dict().items():
            self.weights[name].lerp_(t.detach(), 1 - decay)


def save_state(path: Path, network: nn.Module, optimiser: torch.optim.Adam, ema: Ema, facts: dict[str, object]) -> None:
    """Write weights, Adam's moments, the average and `facts` (JSON-able), complete or not at all."""
    tensors = {f"network.{name}": t for name, t in network.state_dict().items()}
    tensors |= {f"ema.{name}": t for name, t in ema.weights.items()}
    for name, parameter in network.named_parameters():
        for moment in MOMENTS:
            if parameter in optimiser.state:
                tensors[f"{moment}.{name}"] = optimiser.state[parameter][moment]
    flat = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_whole(path, save(flat, metadata={KEY: json.dumps(facts)}))


def load_state(path: Path, network: nn.Module, optimiser: torch.optim.Adam, ema: Ema, step: int) -> None:
    """Put back what `save_state` wrote after `step`. InputError when the file belongs to another network."""
    tensors = _read(path)[0]
    try:
        network.load_state_dict(_part(tensors, "network."))
        ema.weights = {name: tensors[f"ema.{name}"].to(t.device) for name, t in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            moments = {moment: tensors[f"{moment}.{name}"].to(parameter) for moment in MOMENTS}
            optimiser.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path}: the state of another network; give this run its own output folder.") from error


def read_facts(path: Path) -> dict[str, object]:
    """The facts that were saved with a state. InputError when the file cannot be read."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: not a training state that can be read ({error}); delete it to begin anew."
        ) from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

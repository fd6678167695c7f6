"""Trainer: one run, from settings to a checkpoint. Stop it at any moment; the same command goes on where it stopped."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from models import checkpoints
from models.encodings import decode
from models.files import write_whole
from models.model import ModelSpec
from pipeline.errors import InputError, SunvisorError
from training.data import open_data
from training.first_network import first_network
from training.log import Log, NoLog, open_log
from training.losses import Loss, Terms
from training.processes import Processes
from training.settings import TrainConfig
from training.state import Ema, load_state, read_facts, save_state
from training.validation import Validation, validate

LOG_EVERY = 50
STATE, BEST, LAST, CURVE = "state.safetensors", "best.safetensors", "last.safetensors", "curve.tsv"
FREE_TO_CHANGE = ("output", "device", "save_every", "validate_every", "licence", "training_data")
"""Settings that do not change what is learnt; a run may go on with others."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """step of steps are done; the mean loss since the last report; validation when there was one."""

    step: int
    steps: int
    loss: float
    validation: Validation | None


class Trainer:
    """Everything that belongs to one run on one process. `processes` says which of several this is."""

    def __init__(self, config: TrainConfig, processes: Processes) -> None:
        """InputError when the data, the start checkpoint or the folder's earlier state do not fit the settings."""
        self.config, self.processes = config, processes
        self.folder = Path(config.output)
        self.device = processes.device
        self.amp = config.amp == "bf16" or (config.amp == "auto" and self.device.type == "cuda")
        network, self.start_sha256 = first_network(config.model, config.seed)
        self.network = network.to(self.device).to(memory_format=torch.channels_last).train()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
        self.ema = Ema(self.network, config.ema_decay)
        self.step, self.best = 0, -math.inf
        self._resume()
        self.sampler, self.held = open_data(config)
        self.loss = Loss(config.loss, self._perceptual())

    def run(self, report: Callable[[Progress], None]) -> Path:
        """Train to the end; returns the path of the best checkpoint. SunvisorError when the loss stops being a number, or files cannot
        be written."""
        writer = open_log(self.folder / "log", self.step) if self.processes.first else NoLog()
        try:
            with ThreadPoolExecutor(1) as ahead:
                self._run(report, writer, ahead)
        except OSError as error:
            raise SunvisorError(
                f"{self.folder}: cannot be written ({error.strerror}); the run goes on from its last state."
            ) from error
        finally:
            writer.close()
        self.processes.wait()
        return self.folder / BEST

    def _run(self, report: Callable[[Progress], None], writer: Log, ahead: ThreadPoolExecutor) -> None:
        config, rank = self.config, self.processes.rank
        model = self.processes.wrap(self.network)
        sums, count = torch.zeros(len(Terms._fields), device=self.device), 0
        batch = ahead.submit(self.sampler.batch_of, self.step, rank)
        while self.step < config.iterations:
            coded, truth = batch.result()
            batch = ahead.submit(self.sampler.batch_of, self.step + 1, rank)  # the next one is cut out meanwhile
            sums, count = sums + self._iterate(model, coded.to(self.device), truth.to(self.device)), count + 1
            self.step += 1
            last = self.step == config.iterations
            if not self.processes.first:
                continue
            checking = self.step % config.validate_every == 0 or last
            if self.step % LOG_EVERY == 0 or checking:
                means = dict(zip(Terms._fields, (sums / count).tolist(), strict=True))
                if not math.isfinite(means["total"]):
                    raise SunvisorError(
                        f"{self.folder}: the loss is {means['total']} at iteration {self.step}; lower learning_rate or "
                        f"clip_norm, delete {STATE} and train again."
                    )
                self._log(writer, means)
                checked = self._validate(writer) if checking else None
                report(Progress(self.step, config.iterations, means["total"], checked))
                sums, count = torch.zeros_like(sums), 0
            if self.step % config.save_every == 0 or last:
                self._save()
                writer.flush()

    def _iterate(self, model: nn.Module, coded: Tensor, truth: Tensor) -> Tensor:
        """One step; returns the loss's terms as a vector on the device."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            summands = model(coded)
        tone, restored = (part.float() for part in summands)
        light = decode(tone + restored, config.model.output_encoding) / config.data.white_level
        terms = self.loss(light, restored, coded, truth, self.step)
        terms.total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimiser.step()
        self.ema.update(self.network, self.step + 1)
        return torch.stack([term.detach().float() for term in terms])

    def _perceptual(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        if self.config.loss.perceptual == "none":
            return None
        from training.perceptual import Perceptual

        return Perceptual(self.config.loss.perceptual).to(self.device)

    def _recipe(self) -> str:
        """Hash of what decides what is learnt: settings, precision, number of processes, the checkpoint that it starts from."""
        settings = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in FREE_TO_CHANGE}
        settings |= {"amp": self.amp, "processes": self.processes.count, "start": self.start_sha256}
        return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"output={self.folder}: no folder can be made there ({error.strerror}).") from error
            return
        facts = read_facts(path)
        if facts["recipe"] != self._recipe():
            raise InputError(
                f"{path}: was trained with other settings; restore them, or name another folder: output=FOLDER."
            )
        self.step, self.best = int(facts["step"]), float(facts["best"])  # type: ignore[call-overload, arg-type]
        load_state(path, self.network, self.optimiser, self.ema, self.step)

    def _save(self) -> None:
        facts = {"recipe": self._recipe(), "step": self.step, "best": self.best}
        save_state(self.folder / STATE, self.network, self.optimiser, self.ema, facts)

    def _validate(self, writer: Log) -> Validation:
        """Judge the averaged weights as they would be shipped, in 16 bits; keep them when they are the best so far."""
        spec = self._spec({})
        try:
            checkpoints.save(self.folder / LAST, self._averaged(), spec, half=True)
        except checkpoints.CheckpointError as error:
            raise SunvisorError(
                f"iteration {self.step}: {error}; lower learning_rate, delete {STATE} and train again."
            ) from error
        model = checkpoints.load(self.folder / LAST, self.device)
        checked = validate(model, *self.held, self.config.data.white_level)
        spec = dataclasses.replace(spec, metrics=checked.figures | {"iterations": float(self.step)})
        checkpoints.save(self.folder / LAST, model.network, spec, half=True)
        if checked.merit > self.best:
            self.best = checked.merit
            checkpoints.save(self.folder / BEST, model.network, spec, half=True)
        for name, value in checked.figures.items():
            writer.add_scalar(f"validation/{name}", value, self.step)
        for row, picture in enumerate(checked.pictures):
            writer.add_image(f"validation/{row}", picture, self.step, dataformats="HWC")
        self._append(self.step, checked)
        return checked

    def _append(self, step: int, checked: Validation) -> None:
        """One line of the curve; lines of a future that a resumed run left behind are dropped."""
        path = self.folder / CURVE
        names = list(checked.figures)
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        lines = [line for line in lines if int(line.split("\t")[0]) < step]
        lines.append("\t".join([str(step), *(f"{checked.figures[name]:.4f}" for name in names)]))
        write_whole(path, ("\n".join(["\t".join(["iteration", *names]), *lines]) + "\n").encode())

    def _averaged(self) -> nn.Module:
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.ema.weights)
        return network

    def _spec(self, metrics: dict[str, float]) -> ModelSpec:
        m = self.config.model
        return ModelSpec(
            architecture=m.architecture,
            width=m.width,
            sft=m.sft or m.architecture == "hdrunet",
            input_encoding=m.input_encoding,
            output_encoding=m.output_encoding,
            white_level=self.config.data.white_level,
            trained=True,
            training_data=self.config.training_data,
            licence=self.config.licence,
            metrics=metrics,
        )

    def _log(self, writer: Log, means: dict[str, float]) -> None:
        for name, value in means.items():
            writer.add_scalar(f"loss/{name}", value, self.step)
        writer.add_scalar("learning_rate", learning_rate(self.config, self.step - 1), self.step)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    way = (step - config.warmup) / max(1, config.iterations - config.warmup)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * way)))

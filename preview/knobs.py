"""Knobs: the settings that the page turns, and the ways from them to a configuration, a YAML file and a command."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.layers import get, legal_keys
from configs.schema import EXECUTION_SECTIONS, RANGES, Config, load_config, profiles
from pipeline.errors import InputError

COMMAND = "run_pipeline.py convert"
BASE_PROFILE = "dashcam"
"""What `convert` starts from when no profile is named."""


@dataclass(frozen=True)
class Knob:
    """One setting on the page. kind: "number", "choice" or "switch"; group: "grade" acts at once, "network" runs the network again."""

    key: str
    label: str
    group: str
    kind: str
    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[Any, ...] = ()


def _number(key: str, label: str, group: str, unit: str, step: float, text: str) -> Knob:
    low, high = RANGES[key]
    return Knob(key, label, group, "number", text, unit, low, high, step)


GRADE = (
    _number("grade.exposure_stops", "Exposure", "grade", "stops", 0.05, "All light brighter or darker."),
    _number(
        "grade.highlights",
        "Highlights",
        "grade",
        "x",
        0.05,
        "Stops above white times this: 0 = none, 1 = the network's.",
    ),
    _number("grade.saturation", "Saturation", "grade", "x", 0.05, "0 = grey, 1 = as recorded."),
    _number(
        "grade.shoulder",
        "Shoulder",
        "grade",
        "of peak",
        0.05,
        "Where highlights begin to roll off; 1 = clip at the peak.",
    ),
    _number(
        "grade.white_nits",
        "SDR white",
        "grade",
        "nits",
        1,
        "How bright the white of the SDR picture comes out (BT.2408: 203).",
    ),
    _number("grade.peak_nits", "Peak", "grade", "nits", 10, "The brightest that highlights may get."),
)


def all_knobs(models: Sequence[str]) -> tuple[Knob, ...]:
    """Every knob in the page's order. models: what `model` may be."""
    return (
        Knob("profile", "Profile", "network", "choice", "Where all settings start; choosing one resets the others.", choices=tuple(profiles())),
        Knob("model", "Checkpoint", "network", "choice", "The network; auto = the best that is shipped for this machine.", choices=tuple(models)),
        Knob("reconstruct.scale", "Network scale", "network", "choice", "0.5 = the network sees the half-size picture: faster, a little less exact.", "x", choices=(1, 0.5)),
        _number("temporal.radius", "Smoothing over time", "network", "frames", 1, "Frames before and after that steady restored light; 0 = off."),
        Knob("overlay.find", "Overlay guard", "network", "switch", "Find burnt-in text, keep it at white and hide it from the network."),
        *GRADE,
    )  # fmt: skip


class Settings:
    """Settings of one tab: where they start, and what the page has turned since. Not for several threads at once.

    profile, config_file, words: as `convert` takes them; models: what `model` may be
    Raises InputError where `convert` would.
    """

    def __init__(self, profile: str, config_file: Path | None, words: Sequence[str], models: Sequence[str]) -> None:
        self._start_profile, self._file, self._words = profile, config_file, tuple(words)
        own = load_config(profile, config_file, list(words)).model
        self.knobs = all_knobs([*models, *([] if own in models else [own])])
        self._by_key = {knob.key: knob for knob in self.knobs}
        self.reset()

    def reset(self) -> None:
        """Back to where they start."""
        self.profile, self.turned = self._start_profile, {}
        self.start = self.config = self._load(self.profile, {})

    def set(self, values: Mapping[str, Any]) -> None:
        """Turn knobs. Raises InputError that names the knob and what is legal; nothing is changed then."""
        profile, turned = self.profile, dict(self.turned)
        checked = {key: self._checked(key, value) for key, value in values.items()}
        if "profile" in checked:
            profile = checked.pop("profile")
            turned = {} if profile != self.profile else turned
        start = self.start if profile == self.profile else self._load(profile, {})
        turned = {key: value for key, value in (turned | checked).items() if value != get(start, key)}
        config = self._load(profile, turned)
        self.profile, self.turned, self.start, self.config = profile, turned, start, config

    def state(self) -> tuple:
        """All that `restore` needs to come back to where they stand."""
        return self.profile, self.turned, self.start, self.config

    def restore(self, state: tuple) -> None:
        """Come back to what `state` gave."""
        self.profile, self.turned, self.start, self.config = state

    def key(self) -> tuple:
        """Equal for equal settings."""
        return self.profile, tuple(sorted(self.turned.items()))

    def values(self) -> dict[str, Any]:
        """What each knob stands at."""
        return {knob.key: self.profile if knob.key == "profile" else get(self.config, knob.key) for knob in self.knobs}

    def defaults(self) -> dict[str, Any]:
        """What each knob stands at in this profile before the page turns any."""
        return {knob.key: self.profile if knob.key == "profile" else get(self.start, knob.key) for knob in self.knobs}

    def described(self) -> list[dict[str, Any]]:
        """The knobs as the page is told of them."""
        facts, values, defaults = [], self.values(), self.defaults()
        for knob in self.knobs:
            told = {"value": values[knob.key], "default": defaults[knob.key]}
            facts.append(dataclasses.asdict(knob) | told)
        return facts

    def command(self, words: Sequence[str], output: Path) -> str:
        """The `convert` command that gives what is shown, for a shell."""
        parts = [*COMMAND.split(), *words, "--output", str(output)]
        if self.profile != BASE_PROFILE:
            parts += ["--profile", self.profile]
        if self._file is not None:
            parts += ["--config", str(self._file)]
        kept = [word for word in self._words if word.partition("=")[0] not in self.turned]
        return shlex.join([*parts, *kept, *(f"{key}={_word(value)}" for key, value in self.turned.items())])

    def yaml(self, command: str) -> str:
        """A file that gives these settings to `convert --config`, whose profile is then `dashcam`. command: for its first line"""
        base, data = load_config(BASE_PROFILE), {}
        for key in legal_keys(Config):
            value = get(self.config, key)
            if key.split(".")[0] in EXECUTION_SECTIONS or value == get(base, key):
                continue
            *sections, name = key.split(".")
            place = data.setdefault(sections[0], {}) if sections else data
            place[name] = value
        head = f"# Made by the preview, from the profile {self.profile}. The same as: {command}\n".replace(
            "\n", " "
        ).strip()
        body = yaml.safe_dump(data, sort_keys=False) if data else "{}\n"
        return f"{head}\n# Use it so: {COMMAND} INPUT --output OUTPUT --config THIS_FILE\n{body}"

    def _load(self, profile: str, turned: Mapping[str, Any]) -> Config:
        words = [*self._words, *(f"{key}={_word(value)}" for key, value in turned.items())]
        return load_config(profile, self._file, words)

    def _checked(self, key: str, value: Any) -> Any:  # noqa: ANN401 - it comes from the page
        knob = self._by_key.get(key)
        if knob is None:
            raise InputError(f"{str(key)[:60]!r}: there is no such knob; legal: {', '.join(self._by_key)}.")
        if knob.kind == "switch" and isinstance(value, bool):
            return value
        if knob.kind == "choice" and not isinstance(value, (bool, list, dict)) and value in knob.choices:
            return next(choice for choice in knob.choices if choice == value)
        if knob.kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
            whole = key == "temporal.radius"
            if math.isfinite(value) and knob.low <= value <= knob.high and not (whole and value != int(value)):
                return int(value) if whole else float(value)
        legal = (
            f"{knob.low:g} to {knob.high:g}"
            if knob.kind == "number"
            else ", ".join(map(str, knob.choices)) or "true, false"
        )
        raise InputError(f"{key}={str(value)[:60]}: not a legal value; legal: {legal}.")


def _word(value: Any) -> str:  # noqa: ANN401
    """A value as `key=value` words have it; floats keep every digit."""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)

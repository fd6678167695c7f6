"""Requests: what a client may ask for, checked. Anything else is refused with one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import InputError
from preview.pictures import LAYERS
from preview.player import View
from preview.studio import VIDEO_CODECS

COMMANDS = ("start", "pause", "resume", "cancel")
WIDEST = 16384
VIEW_STOPS = 10.0
MOST_VALUES = 32
KEYS = {
    "open": {"source"},
    "show": {"frame"},
    "play": {"frame", "loop"},
    "pause": set(),
    "set": {"values"},
    "reset": set(),
    "view": {"layers", "exposure_stops", "width", "scopes", "video", "codec"},
    "ack": {"number"},
    "save": set(),
    "convert": {"command"},
}
"""What may be asked, and what goes with it."""


@dataclass(frozen=True)
class Request:
    """do: a key of KEYS; facts: what goes with it, of the right kinds; view: of `view`"""

    do: str
    facts: dict[str, Any] = field(default_factory=dict)
    view: View | None = None


def read(text: str, sources: int) -> Request:
    """A message of a client -> what it asks. sources: how many there are. Raises InputError for anything that is not legal."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("this message is not JSON.") from error
    if not isinstance(message, dict) or not isinstance(message.get("do"), str) or message["do"] not in KEYS:
        raise InputError(f'a message is {{"do": ...}}; legal: {", ".join(KEYS)}.')
    do = message.pop("do")
    unknown = sorted(message.keys() - KEYS[do])
    if unknown:
        raise InputError(
            f"{do} does not know {unknown[0][:40]!r}; legal: {', '.join(sorted(KEYS[do])) or 'nothing more'}."
        )
    if do == "view":
        return Request(do, {}, _view(message))
    checks = {"open": _open, "show": _show, "play": _play, "set": _set, "ack": _ack, "convert": _convert}
    return Request(do, checks[do](message, sources) if do in checks else {})


def _open(message: dict[str, Any], sources: int) -> dict[str, Any]:
    return {"source": _whole(message, "source", sources - 1)}


def _show(message: dict[str, Any], sources: int) -> dict[str, Any]:
    return {"frame": _whole(message, "frame", 1 << 53)}


def _play(message: dict[str, Any], sources: int) -> dict[str, Any]:
    frame = message.get("frame")
    return {
        "frame": None if frame is None else _whole(message, "frame", 1 << 53),
        "loop": _flag(message, "loop", False),
    }


def _set(message: dict[str, Any], sources: int) -> dict[str, Any]:
    values = message.get("values")
    if not isinstance(values, dict) or len(values) > MOST_VALUES:
        raise InputError("set: values is an object of knobs and what they are set to.")
    return {"values": values}


def _ack(message: dict[str, Any], sources: int) -> dict[str, Any]:
    return {"number": _whole(message, "number", 1 << 53)}


def _convert(message: dict[str, Any], sources: int) -> dict[str, Any]:
    if message.get("command") not in COMMANDS:
        raise InputError(f"convert: command is one of {', '.join(COMMANDS)}.")
    return message


def _view(message: dict[str, Any]) -> View:
    layers = message.get("layers", list(View.layers))
    if not isinstance(layers, list) or len(layers) > len(LAYERS) or any(layer not in LAYERS for layer in layers):
        raise InputError(f"view: layers are of {', '.join(LAYERS)}.")
    stops = message.get("exposure_stops", 0)
    if isinstance(stops, bool) or not isinstance(stops, (int, float)) or not abs(stops) <= VIEW_STOPS:
        raise InputError(f"view: exposure_stops is a number from {-VIEW_STOPS:g} to {VIEW_STOPS:g}.")
    codec = message.get("codec", next(iter(VIDEO_CODECS.values())))
    if codec not in VIDEO_CODECS.values():
        raise InputError(f"view: codec is one of {', '.join(VIDEO_CODECS.values())}.")
    name = next(name for name, told in VIDEO_CODECS.items() if told == codec)
    return View(
        layers=tuple(dict.fromkeys(layers)),
        exposure_stops=float(stops),
        width=_whole(message, "width", WIDEST, 0),
        scopes=_flag(message, "scopes", True),
        video=_flag(message, "video", False),
        codec=name,
    )


def _whole(message: dict[str, Any], key: str, most: int, default: int | None = None) -> int:
    value = message.get(key, default)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"{key} is a whole number from 0 to {most}.")
    return value


def _flag(message: dict[str, Any], key: str, default: bool) -> bool:
    value = message.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"{key} is true or false.")
    return value

"""Layers of settings: defaults in dataclasses, then YAML files, then `key=value` words; later ones win."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import InputError

Settings = TypeVar("Settings")


def merge(kind: type[Settings], layers: list[tuple[DictConfig, str]]) -> Settings:
    """The settings of a dataclass with all layers on top of its defaults; each layer comes with where it is from, for messages.

    Raises InputError that names the key and lists the legal keys or values.
    """
    merged, known = OmegaConf.structured(kind), legal_keys(kind)
    for layer, origin in layers:
        merged = _merge(merged, layer, origin, known)
    return OmegaConf.to_object(merged)  # type: ignore[return-value]


def read_words(words: list[str], example: str) -> list[tuple[DictConfig, str]]:
    """`key=value` words as layers. InputError for a word that is none."""
    layers = []
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals or not key:
            raise InputError(f"'{word}' is not an override; write key=value, for example {example}.")
        try:
            layers.append((OmegaConf.from_dotlist([word]), f"'{word}'"))
        except (OmegaConfBaseException, ValueError) as error:
            raise InputError(f"'{word}' cannot be read: {_first_line(error)}.") from error
    return layers


def read_yaml(path: Path) -> DictConfig:
    """A mapping of keys to values from a file. InputError when there is none, or it is something else."""
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such configuration file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {_first_line(error)}.") from error
    if not isinstance(loaded, DictConfig):
        raise InputError(f"{path}: a configuration is a YAML mapping of keys to values.")
    return loaded


def legal_keys(kind: type) -> list[str]:
    """Every dotted key of a dataclass of settings."""

    def walk(cls: type, prefix: str) -> list[str]:
        keys = []
        for item in dataclasses.fields(cls):
            nested = item.default_factory if item.default_factory is not dataclasses.MISSING else None
            if isinstance(nested, type) and dataclasses.is_dataclass(nested):
                keys += walk(nested, f"{prefix}{item.name}.")
            else:
                keys.append(prefix + item.name)
        return keys

    return walk(kind, "")


def get(config: object, key: str) -> Any:  # noqa: ANN401 - settings are of several types
    """The value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _merge(base: DictConfig, layer: DictConfig, origin: str, known: list[str]) -> DictConfig:
    sections = {key.split(".")[0] for key in known if "." in key}
    for key, value in _flatten(layer):
        if key in sections and value in ({}, None):
            continue
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"{origin}: there is no setting '{key}'{hint}. Legal keys: {', '.join(known)}.")
    try:
        return OmegaConf.merge(base, layer)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise InputError(f"{origin}: {_first_line(error)} (key {error.full_key or '?'}).") from error


def _flatten(layer: DictConfig, prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in OmegaConf.to_container(layer, resolve=True).items():  # type: ignore[union-attr]
        if isinstance(value, dict) and value:
            pairs += _flatten(OmegaConf.create(value), f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__

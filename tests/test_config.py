"""Settings: profiles, overrides, and the errors that teach."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.layers import legal_keys
from configs.schema import EXECUTION_SECTIONS, Config, load_config, profiles, result_settings, settings_hash
from pipeline.errors import InputError


@pytest.mark.parametrize("profile", profiles())
def test_every_shipped_profile_loads(profile: str) -> None:
    assert load_config(profile).model


def test_later_layers_win(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("grade:\n  peak_nits: 700\n  white_nits: 210\n")
    config = load_config("dashcam", mine, ["grade.peak_nits=800"])
    assert (config.grade.peak_nits, config.grade.white_nits) == (800, 210)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("grade.peek_nits=3", "did you mean grade.peak_nits?"),
        ("grade.peek_nits=3", "Legal keys: model,"),
        ("grade.peak_nits=bright", "grade.peak_nits"),
        ("grade.peak_nits=5", "legal: 100 to 10000"),
        ("grade.peak_nits=150", "the peak must be at least white"),
        ("output.codec=vp9", "legal: hevc, av1"),
        ("workers.count=-1", "out of range"),
        ("stages=[grade,sparkle]", "legal stages"),
        ("span.min_seconds=9", "min_seconds <= target_seconds"),
        ("output.transfer=hlg grade.peak_nits=600", "1000-nit"),
        ("input.video=last", "legal: first, all"),
        ("novalue", "write key=value"),
    ],
)
def test_a_wrong_setting_is_told_by_name(word: str, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("?", r"\?")):
        load_config(None, None, word.split())


def test_a_config_file_that_is_not_there_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such configuration file"):
        load_config(None, tmp_path / "absent.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("grade: [1, 2")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(None, bad)


def test_execution_settings_never_reach_the_hash() -> None:
    one = settings_hash(result_settings(load_config(None, None, ["workers.count=1"])))
    many = settings_hash(
        result_settings(load_config(None, None, ["workers.count=64", "workers.threads=3", "extras.mask=true"]))
    )
    other = settings_hash(result_settings(load_config(None, None, ["grade.peak_nits=999"])))
    assert one == many != other


@given(st.sampled_from([key for key in legal_keys(Config) if key.split(".")[0] not in EXECUTION_SECTIONS]))
def test_every_result_key_is_hashed(key: str) -> None:
    settings = result_settings(load_config())
    changed = result_settings(load_config())
    node = changed
    *path, last = key.split(".")
    for part in path:
        node = node[part]
    node[last] = "something else"
    assert settings_hash(settings) != settings_hash(changed)

"""The CPU benches' tables, from made-up and from tiny measurements."""

from __future__ import annotations

import pytest
import torch

from bench import deform
from bench.floors import Ceilings, table


def test_kinds_compute_the_same_and_their_rows_are_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deform, "HEIGHT", 12)
    monkeypatch.setattr(deform, "WIDTH", 16)
    kinds = deform._kinds(torch.float32, torchvision=True)
    with torch.no_grad():
        assert torch.allclose(kinds["fast", "fp32"](), kinds["torchvision", "fp32"](), atol=1e-4)
    rows = deform._alternate(kinds, 3)
    assert {row["kind"] for row in rows} == {"fast", "plain convolution", "torchvision"}
    assert all(row["wall_ms"] > 0 and row["cpu_ms"] > 0 for row in rows)


def made_up(fast_ms: float) -> dict:
    times = {"fast": fast_ms, "plain convolution": 40.0, "torchvision": 1200.0}
    rows = [
        {"setting": "1 thread", "kind": kind, "precision": "fp32", "wall_ms": ms, "cpu_ms": ms}
        for kind, ms in times.items()
    ]
    return {"machine": "a test", "rows": rows}


def test_the_report_says_whether_the_bar_is_held() -> None:
    assert deform.report(made_up(120.0)).count(": holds") == 2
    assert deform.report(made_up(160.0)).count(": does not hold") == 2  # 7.5 times as fast
    assert "10.0 times as fast as torchvision" in deform.report(made_up(120.0))


def test_floors_have_a_row_for_every_network_and_picture() -> None:
    text = table(Ceilings(4e12, {"bf16": 8e14, "fp32": 6e13}))
    assert text.count("dcdr_unet_deep | ") == 9
    assert "| base, dcdr_unet | 1920x1080 | 1139 |" in text

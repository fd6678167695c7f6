"""The audit of dependencies fails on what is known to be vulnerable, and never hides what could not be looked up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.audit import packages_of, read

ROOT = Path(__file__).resolve().parents[1]
CLEAN = {"name": "rich", "version": "14.0", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.11)"}
BAD = {
    "name": "pillow",
    "version": "9.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2022-1"], "fix_versions": ["9.0.1"], "description": "x"}],
}


def audit(folder: Path, program: str) -> tuple[int, str]:
    """tools/audit.py with a stand-in for pip-audit; a lock of three packages."""
    fake = folder / "pip-audit"
    if program:
        fake.write_text(f"#!{sys.executable}\n{program}\n")
        fake.chmod(0o755)
    lock = folder / "requirements.lock"
    lock.write_text("a==1 \\\n    --hash=sha256:00\n# b==2\nc==3 ; python_version < '3.12'\nd==4\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/audit.py"), str(fake), str(lock)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def says(*packages: dict, code: int = 0) -> str:
    return f"import sys; print({json.dumps({'dependencies': packages, 'fixes': []})!r}); sys.exit({code})"


@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        (says(CLEAN), 0, ["1 packages were audited, 0 known vulnerabilities"]),
        (says(CLEAN, SKIPPED), 0, ["1 packages could NOT be audited: Dependency not found", "1 packages were audited"]),
        (
            says(CLEAN, SKIPPED, BAD, code=1),
            1,
            ["2 packages were audited, 1 known", "pillow 9.0: PYSEC-1 CVE-2022-1, mended in 9.0.1"],
        ),
        ("import sys; sys.exit('no route to host')", 0, ["3 packages could NOT be audited", "no route to host"]),
        ("", 0, ["3 packages could NOT be audited", "is not there", "0 packages were audited"]),
    ],
)
def test_what_is_known_decides_and_what_is_not_is_told(
    tmp_path: Path, program: str, code: int, told: list[str]
) -> None:
    ended, text = audit(tmp_path, program)
    assert ended == code, text
    assert all(words in text for words in told), text


def test_a_report_of_another_make_is_an_error() -> None:
    with pytest.raises(KeyError):
        read({"packages": []})


def test_the_lock_is_read_as_a_whole() -> None:
    names = packages_of((ROOT / "requirements.lock").read_text())
    assert {"torch", "ray", "av", "prometheus-client"} <= set(names) and len(names) == len(set(names)) > 60

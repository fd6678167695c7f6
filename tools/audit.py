"""Audit: known vulnerabilities of what requirements.lock installs, told by pip-audit (`make audit`).

Ends with 1 when one is found. Where there are no data (no network, a registry that has none) it says for how many packages, and ends with 0.
Needs nothing but the standard library: `python tools/audit.py PIP_AUDIT REQUIREMENTS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHOWN = 3
MINUTES = 10


@dataclass
class Findings:
    """What pip-audit knows. audited: packages looked up; unknown: the others, with why; vulnerable: a line for each vulnerability."""

    audited: int = 0
    unknown: list[str] = field(default_factory=list)
    vulnerable: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 when something was found."""
        return 1 if self.vulnerable else 0

    def text(self) -> str:
        """For people; what is not known is said first."""
        lines = []
        if self.unknown:
            more = f", and {len(self.unknown) - SHOWN} more" if len(self.unknown) > SHOWN else ""
            told = f"{len(self.unknown)} packages could NOT be audited: {'; '.join(self.unknown[:SHOWN])}{more}"
            lines.append(told)
        lines.append(f"{self.audited} packages were audited, {len(self.vulnerable)} known vulnerabilities")
        return "\n".join([*lines, *self.vulnerable])


def read(report: dict[str, Any]) -> Findings:
    """Findings of pip-audit's JSON (`--format json`). Raises KeyError where it is of another make."""
    found = Findings()
    for package in report["dependencies"]:
        name = package["name"]
        if "skip_reason" in package:
            found.unknown.append(package["skip_reason"] or name)
            continue
        found.audited += 1
        for one in package["vulns"]:
            mended = ", ".join(one.get("fix_versions", [])) or "no version"
            known_as = " ".join([one["id"], *one.get("aliases", [])])
            found.vulnerable.append(f"{name} {package['version']}: {known_as}, mended in {mended}")
    return found


def packages_of(requirements: str) -> list[str]:
    """Names pinned in a requirements file, each once though several versions may stand there for several Pythons."""
    lines = [line.strip() for line in requirements.splitlines()]
    pins = [line for line in lines if "==" in line and not line.startswith(("#", "-"))]
    return list(dict.fromkeys(line.split("==")[0].strip() for line in pins))


def run(pip_audit: Path, requirements: Path) -> Findings:
    """Ask pip-audit. Where it is not there or has no answer, every package is unknown; a failure that it names is passed on."""
    command = [
        str(pip_audit),
        "-r",
        str(requirements),
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
        return read(json.loads(done.stdout))
    except FileNotFoundError:
        why = f"{pip_audit} is not there"
    except subprocess.TimeoutExpired:
        why = f"no answer within {MINUTES} minutes"
    except json.JSONDecodeError:
        why = f"pip-audit gave no report: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    names = packages_of(requirements.read_text())
    return Findings(unknown=[f"{names[0]} ({why})", *names[1:]])


def main() -> int:
    """Print what was found; the exit code says whether it may pass."""
    found = run(Path(sys.argv[1]), Path(sys.argv[2]))
    print(found.text())  # noqa: T201 - a script, without the program's packages
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main())

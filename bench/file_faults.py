"""File faults: one conversion fails, or is killed, at its first file operation, another at its second, and so on to the last.

    python -m bench.file_faults                 every operation, each kind of fault
    python -m bench.file_faults --every 10      each tenth

Operations are what Python opens for writing, renames, removes and makes below the output's folder (sys.addaudithook); FFmpeg's own opens are
not among them. Each conversion is a process forked from one that has imported everything, without Ray. After a fault the output must be
absent or complete; then the same conversion must succeed, give the bytes of an undisturbed one, and leave nothing else.
Writes file_faults.md and file_faults.json.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.fault_run import ROOT, digests
from bench.results_files import write_results
from configs.schema import load_config
from pipeline.convert import convert
from pipeline.errors import SunvisorError
from tests.clips import make_clip

RESULTS = ROOT / "bench" / "results"
WORDS = [
    "model=neutral",
    "temporal.radius=0",
    "span.target_seconds=0.6",
    "span.min_seconds=0.3",
    "output.preset=ultrafast",
    "extras.mask=true",
    "extras.evidence=true",
    "extras.manifest=true",
]
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
KINDS = {"SIGKILL": 0, "no space left": errno.ENOSPC, "read-only": errno.EROFS, "input/output error": errno.EIO}
DONE, TOLD, BUG = 0, 1, 3
"""Exit codes of a child: it succeeded; it raised one of our errors, or the very OSError; it raised something else."""


@dataclass(frozen=True)
class Outcome:
    """What became of a fault at an operation. wrong: what should not be, empty where all is well"""

    kind: str
    operation: int
    name: str
    ended: str
    wrong: str


def main() -> None:
    """Run and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only each so manieth operation (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="(default: bench/results)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sunvisor-faults-") as folder:
        found, operations = attack(Path(folder), args.every, lambda one: Console().print(str(one), markup=False))
    data = {"every": args.every, "operations": operations, "outcomes": [asdict(one) for one in found]}
    write_results(args.output, "file_faults", as_markdown(data), data)
    Console().print(as_markdown(data), markup=False, soft_wrap=True)


def attack(folder: Path, every: int, tell: Callable[[Outcome], object]) -> tuple[list[Outcome], int]:
    """Every outcome, and how many operations a conversion has. tell: is shown what went wrong"""
    source = folder / "in" / "drive.mp4"
    source.parent.mkdir(parents=True)
    make_clip(source, frames=24, width=160, height=96, gop=40, audio=True)
    source.with_suffix(".gpx").write_text("<gpx/>")
    log = folder / "operations"
    assert _child(source, folder / "ref" / "o.mp4", log, 0, 0) == DONE
    assert _child(source, folder / "ref2" / "o.mp4", log, 0, 0) == DONE
    names, wanted = log.read_text().splitlines(), digests(folder / "ref")
    assert digests(folder / "ref2") == wanted, "two undisturbed conversions differ"
    found = []
    for number in range(1, len(names) + 1, every):
        for kind, code in KINDS.items():
            found.append(_fault(source, folder / "out", wanted, kind, code, number, names[number - 1]))
            if found[-1].wrong:
                tell(found[-1])
    return found, len(names)


def _fault(source: Path, folder: Path, wanted: dict[str, str], kind: str, code: int, number: int, name: str) -> Outcome:
    """One fault and what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    output, log = folder / "o.mp4", folder.with_name("log")
    ended = _child(source, output, log, number, code)
    there = digests(folder) if folder.exists() else {}
    wrong = []
    if output.exists() and there["o.mp4"] != wanted["o.mp4"]:
        wrong.append("an output that is not complete")
    if ended == BUG:
        wrong.append(f"an error that is not told: {log.with_suffix('.error').read_text()[-600:]}")
    if (again := _child(source, output, log, 0, 0)) != DONE:
        wrong.append(f"the same command ends with {again}: {log.with_suffix('.error').read_text()[-600:]}")
    elif (there := digests(folder)) != wanted:
        names = sorted(one for one in {*there, *wanted} if there.get(one) != wanted.get(one))
        wrong.append(f"files that differ, lack or are left over: {names}")
    word = {DONE: "went on", TOLD: "told", BUG: "not told", -signal.SIGKILL: "killed"}.get(ended, str(ended))
    return Outcome(kind, number, name, word, "; ".join(wrong))


def _child(source: Path, output: Path, log: Path, fail_at: int, code: int) -> int:
    """Convert in a forked process; returns its exit code, negative for a signal. fail_at: number of the operation, 0 = none; code: of the
    error that it raises, 0 = SIGKILL"""
    pid = os.fork()
    if pid == 0:
        os._exit(_convert(source, output, log, fail_at, code))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _convert(source: Path, output: Path, log: Path, fail_at: int, code: int) -> int:
    names: list[str] = []
    place = str(output.parent)

    def hook(event: str, words: tuple[Any, ...]) -> None:
        if not _writes(event, words) or not any(
            str(word).startswith(place) for word in words if isinstance(word, str | os.PathLike)
        ):
            return
        names.append(f"{event} {Path(str(words[0])).name}")
        if len(names) == fail_at:
            if code == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(code, os.strerror(code), str(words[0]))

    sys.addaudithook(hook)
    try:
        convert(source, output, load_config("dashcam", None, WORDS))
    except (SunvisorError, OSError) as error:
        log.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        return TOLD if isinstance(error, SunvisorError) or error.errno == code else BUG
    except BaseException as error:  # noqa: BLE001 - this is what is looked for
        log.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        return BUG
    if not fail_at:
        log.write_text("\n".join(names))
    return DONE


def _writes(event: str, words: tuple[Any, ...]) -> bool:
    if event == "open":
        _, mode, flags = words
        return (
            any(letter in mode for letter in "wax+")
            if isinstance(mode, str)
            else bool(flags & (os.O_WRONLY | os.O_RDWR))
        )
    return event in EVENTS


def as_markdown(data: dict[str, Any]) -> str:
    """The table for people."""
    outcomes = data["outcomes"]
    wrong = [one for one in outcomes if one["wrong"]]
    every = f" --every {data['every']}" if data["every"] > 1 else ""
    lines = [
        "# File faults",
        "",
        f"`python -m bench.file_faults{every}`: {len(outcomes)} faults at the {data['operations']} file operations of a conversion of two spans with mask, "
        f"evidence, manifest and a companion file; {len(wrong)} of them left something wrong.",
        "",
        "| fault | injected | run went on | ended with a sentence | killed | wrong afterwards |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        ends = Counter(one["ended"] for one in outcomes if one["kind"] == kind)
        bad = sum(one["kind"] == kind for one in wrong)
        lines.append(f"| {kind} | {ends.total()} | {ends['went on']} | {ends['told']} | {ends['killed']} | {bad} |")
    lines += ["", *(f"- {one['kind']} at {one['operation']} ({one['name']}): {one['wrong']}" for one in wrong)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()

"""Faults: a small archive is converted again and again, each time disturbed, and every byte is compared with an undisturbed run.

    python -m bench.faults                      20 rounds
    python -m bench.faults --rounds 5 --seed 7
    python -m bench.faults --same-bytes         1 worker, 4 workers, three nodes of which one is killed

A round: the command runs and is disturbed, by faults that it should live with and by one that may end it, each at a moment drawn by
chance; the same command is given again and disturbed again, then a third time, and again until it ends with exit code 0. Then every file must have the
bytes of the reference, and nothing else may be left: no file, no process. Writes faults.md and faults.json, or same_bytes.md and .json.
Faults that need root (a full disk, a read-only output, the kernel's OOM killer) are left out without it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.fault_kinds import Fault, Scene, Undo, possible, small_disk
from bench.fault_run import CLOCK_NAME, ROOT, WORDS, Run, digests
from bench.results_files import write_results
from configs.schema import load_config
from pipeline.convert import convert
from tests.clips import bright_picture, make_clip

RESULTS = ROOT / "bench" / "results"
GENTLE, HARD = False, True
SCRIPTS = ((GENTLE, GENTLE, GENTLE, HARD), (GENTLE, GENTLE, HARD), (GENTLE, GENTLE))
"""What the first runs of a round are disturbed by: faults that a run should live with, and those that may end it."""
MOST_RUNS = 7
"""Runs in a round, at most."""
STEP_SECONDS = 0.02


@dataclass
class Hit:
    """A fault that was injected. exit_code: of the run it hit, None where that stood still and was killed; alone: no other fault hit that run

    where: files that were there, and spans in the ledgers of the others
    """

    fault: str
    round: int
    run: int
    seconds: float
    where: tuple[int, int]
    exit_code: int | None = None
    alone: bool = True


@dataclass
class Round:
    """What became of a round. exit_codes: of its runs; differing: files that do not have the reference's bytes; missing, strays, processes: left out or over"""

    number: int
    hits: list[Hit] = field(default_factory=list)
    exit_codes: list[int | None] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Did it end with exit code 0 and every byte, and nothing else?"""
        wrong = self.differing or self.missing or self.strays or self.processes
        return bool(self.exit_codes) and self.exit_codes[-1] == 0 and not wrong


def main() -> None:
    """Run and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of moments, faults and victims (default: %(default)s)")
    parser.add_argument("--only", default="", help="faults whose names hold this")
    parser.add_argument("--same-bytes", action="store_true", help="compare numbers of workers and a cluster instead")
    parser.add_argument("--output", type=Path, default=RESULTS, help="(default: bench/results)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sf", dir="/tmp") as folder:  # short: Ray's sockets lie below it
        place = Path(folder)
        kept = lay_out(place / "kept")
        if args.same_bytes:
            from bench.same_bytes import as_markdown as table
            from bench.same_bytes import compare

            found = compare(kept, place)
            write_results(args.output, "same_bytes", table(found), found)
            Console().print(table(found), markup=False, soft_wrap=True)
            return
        reference = undisturbed(kept, place)
        faults = [one for one in possible() if args.only in one.name]
        rounds: list[Round] = []
        for one in campaign(kept, place, reference, faults, args.rounds, args.seed):
            rounds.append(one)
            data = summary(rounds, reference, args.seed)
            write_results(args.output, "faults", as_markdown(data), data)
            Console().print(told(one), markup=False, soft_wrap=True)
        Console().print(as_markdown(data), markup=False, soft_wrap=True)


def lay_out(folder: Path) -> Path:
    """Four clips: H.264 with sound and a GOP longer than a span, HEVC, H.264 at a variable rate, Motion JPEG."""
    folder.mkdir(parents=True)
    small: dict[str, Any] = {"width": 160, "height": 96, "paint": bright_picture}
    make_clip(folder / "drive.mp4", frames=75, gop=40, audio=True, **small)
    make_clip(folder / "hevc.mkv", "libx265", frames=40, gop=12, **small)
    times = [number * 40 + (number % 3) * 7 for number in range(45)]
    make_clip(folder / "vfr.mkv", "libx264", frames=45, gop=10, pts=times, time_base=Fraction(1, 1000), **small)
    make_clip(folder / "mjpeg.mov", "mjpeg", frames=30, **(small | {"pix_fmt": "yuvj420p"}))
    return folder


def undisturbed(kept: Path, place: Path) -> dict[str, str]:
    """SHA-256 of every output by name, made in this process without Ray. Raises SystemExit when a second time gives other bytes."""
    found = []
    for threads in (1, 2):
        output = place / f"ref{threads}"
        for clip in sorted(kept.iterdir()):
            convert(clip, output / f"{clip.stem}.mp4", load_config("dashcam", None, list(WORDS)), threads=threads)
        found.append(digests(output))
        shutil.rmtree(output)
    if found[0] != found[1]:
        raise SystemExit(f"Two undisturbed runs differ, so nothing can be compared with them: {found}")
    return found[0]


def campaign(
    kept: Path, place: Path, reference: dict[str, str], faults: list[Fault], rounds: int, seed: int
) -> Iterator[Round]:
    """Yield each round when it is over. Kinds come as cards of shuffled decks, so that each has its turn."""
    chance = random.Random(seed)
    gentle, hard = ([one for one in faults if one.gentle is kind] for kind in (True, False))
    decks: tuple[list[Fault], list[Fault]] = ([], [])
    for number in range(1, rounds + 1):
        drawn = [
            [
                one
                for hard_one in script
                if (one := _draw(decks[hard_one], (gentle, hard)[hard_one], chance)) is not None
            ]
            for script in SCRIPTS
        ]
        with ExitStack() as stack:
            source, output = place / "src", place / f"out{number}"
            shutil.copytree(kept, source)
            stack.callback(shutil.rmtree, source)
            output.mkdir()
            if any(one.disk for script in drawn for one in script):
                stack.enter_context(small_disk(output))
            yield play(number, drawn, Scene(source, kept, output, chance), place / "t", reference)
        shutil.rmtree(output)


def _draw(deck: list[Fault], kinds: list[Fault], chance: random.Random) -> Fault | None:
    if not deck:
        deck += chance.sample(kinds, len(kinds))
    return deck.pop() if deck else None


def play(number: int, drawn: list[list[Fault]], scene: Scene, scratch: Path, reference: dict[str, str]) -> Round:
    """One round. drawn: the faults of each of its first runs; what came too late is tried again in the next run."""
    found = Round(number)
    began = time.monotonic()
    late: list[Fault] = []
    for attempt in range(MOST_RUNS):
        planned = [*drawn[attempt], *late] if attempt < len(drawn) else []
        run = Run(scene.source, scene.output, scratch, "--workers", "2")
        late, undos = disturb(run, planned, scene, found)
        found.exit_codes.append(run.wait())
        for hit in found.hits:
            hit.exit_code = found.exit_codes[-1] if hit.run == len(found.exit_codes) else hit.exit_code
        for undo in reversed(undos):
            undo()
        found.processes += run.survivors()
        found.errors += [
            f"{Path(one['source']).name}: {one['error']}" for one in run.report().get("files", []) if one["error"]
        ]
        if "Traceback" in run.err.read_text():
            found.errors.append(run.err.read_text()[-1500:])
        (scratch / CLOCK_NAME).unlink(missing_ok=True)
        if found.exit_codes[-1] == 0:
            break
    # What is left where everything was killed at once, the run after that removes.
    found.strays += [str(path) for path in scratch.iterdir() if path.name.startswith("sunvisor-ray-")]
    shutil.rmtree(scratch)
    there = digests(scene.output)
    found.differing = sorted(name for name in reference if name in there and there[name] != reference[name])
    found.missing = sorted(set(reference) - set(there))
    found.strays += sorted(set(there) - set(reference))
    found.seconds = round(time.monotonic() - began, 1)
    return found


def disturb(run: Run, faults: list[Fault], scene: Scene, found: Round) -> tuple[list[Fault], list[Undo]]:
    """Inject each at its moment, the gentle ones first. Returns those that came too late, and how to undo the others."""
    undos: list[Undo] = []
    late: list[Fault] = []
    hits: list[Hit] = []
    for fault in sorted(faults, key=lambda one: not one.gentle):
        wait_for_moment(run, scene.chance)
        undo = None
        while undo is None and not run.over:
            undo = fault.inject(run, scene)
            time.sleep(0 if undo else STEP_SECONDS)
        if undo is None:
            late.append(fault)
            continue
        undos.append(undo)
        seconds = round(time.monotonic() - run.began, 1)
        hits.append(Hit(fault.name, found.number, len(found.exit_codes) + 1, seconds, run.progress()))
    for hit in hits:
        hit.alone = len(hits) == 1
    found.hits += hits
    return late, undos


def wait_for_moment(run: Run, chance: random.Random) -> None:
    """Until some more spans are done, none to two, and a moment more; at the beginning anywhere in the first seconds."""
    if chance.random() < 0.2:
        until = time.monotonic() + chance.uniform(0.0, 15.0)
        while not run.over and time.monotonic() < until:
            time.sleep(STEP_SECONDS)
        return
    begun, more = run.progress(), chance.randint(0, 2)
    # A file that appears takes its spans out of the ledgers.
    while not run.over and (now := run.progress())[1] < begun[1] + more and now[0] == begun[0]:
        time.sleep(STEP_SECONDS)
    time.sleep(chance.uniform(0.0, 0.5))


def summary(rounds: list[Round], reference: dict[str, str], seed: int) -> dict[str, Any]:
    """What each kind of fault did, and the rounds."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for one in rounds:
        for hit in one.hits:
            kinds[hit.fault] += Counter(
                injected=1,
                at_once=hit.exit_code == 0,
                after_rerun=hit.exit_code != 0 and one.exit_codes[-1] == 0,
                lost=one.exit_codes[-1] != 0,
                stood_still=hit.exit_code is None,
                differing=len(one.differing) + len(one.missing),
                left_over=len(one.strays) + len(one.processes),
            )
    return {
        "seed": seed,
        "reference": reference,
        "rounds": len(rounds),
        "runs": sum(len(one.exit_codes) for one in rounds),
        "good_rounds": sum(one.good for one in rounds),
        "faults": {name: dict(kinds[name]) for name in sorted(kinds)},
        "seconds": round(sum(one.seconds for one in rounds), 1),
        "all": [asdict(one) for one in rounds],
    }


def told(one: Round) -> str:
    """One line about a round."""
    hits = ", ".join(f"{hit.fault} at {hit.where} -> {hit.exit_code}" for hit in one.hits)
    wrong = "" if one.good else f" BAD: {one.differing} {one.missing} {one.strays} {one.processes} {one.errors}"
    return f"round {one.number}: {one.exit_codes} in {one.seconds:.0f} s: {hits}{wrong}"


def as_markdown(data: dict[str, Any]) -> str:
    """The table for people."""
    injected = sum(kind["injected"] for kind in data["faults"].values())
    lines = [
        "# Faults",
        "",
        f"`python -m bench.faults --rounds {data['rounds']} --seed {data['seed']}` at {_commit()}: {data['rounds']} rounds, {data['runs']} runs, "
        f"{injected} faults injected; {data['good_rounds']} rounds ended with every byte of the undisturbed run and nothing left over "
        f"({len(data['reference'])} files each). {os.cpu_count()} CPUs. Two undisturbed conversions without Ray, with 1 and 2 threads, agreed first.",
        "",
        "| fault | injected | run went on to exit code 0 | same command again did | lost | stood still | files differing or missing | left over |",
        "|---|---|---|---|---|---|---|---|",
    ]
    columns = ("injected", "at_once", "after_rerun", "lost", "stood_still", "differing", "left_over")
    for name, kind in data["faults"].items():
        lines.append(f"| {name} | {' | '.join(str(int(kind.get(column, 0))) for column in columns)} |")
    lines += [
        "",
        "Most runs are hit by several faults; what became of the run is told beside each of them, so one that ends it counts for those before it, too.",
    ]
    return "\n".join(lines) + "\n"


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()

"""A process that converts the files it is told on standard input, one JSON line in and one out, and says what became of each.

A crash ends it, a hang holds it up: the test on the other side sees both.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import torch

from configs.schema import load_config
from pipeline.convert import convert
from pipeline.describe import describe
from pipeline.errors import SunvisorError

WORDS = ["model=neutral", "span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast"]


def attempt(source: Path, folder: Path) -> dict[str, str]:
    """How converting a file ends: "done", "refused" or "failed" with the sentence, or "bug" with the traceback."""
    words = [*WORDS, "input.salvage=true"] if int(source.stem[-1]) % 2 else WORDS
    words = [*words, "input.fps=25"] if source.suffix == ".h264" else words
    output = folder / f"{source.stem}_{source.suffix[1:]}.out.mp4"
    try:
        describe(source)
    except SunvisorError:
        pass  # convert says it again
    except Exception:  # noqa: BLE001 - this is what the test looks for
        return {"ended": "bug", "text": traceback.format_exc()}
    try:
        report = convert(source, output, load_config("dashcam", None, words))
        return {"ended": report.status, "text": ""}
    except SunvisorError as error:
        return {"ended": "refused" if error.exit_code == 2 else "failed", "text": str(error)}
    except Exception:  # noqa: BLE001 - this is what the test looks for
        return {"ended": "bug", "text": traceback.format_exc()}


def peak_bytes() -> int:
    """The most memory this program has held. Not getrusage's, which begins with that of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        told = attempt(Path(json.loads(line)), folder)
        told["peak_bytes"] = peak_bytes()
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

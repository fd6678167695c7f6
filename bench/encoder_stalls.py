"""How often the preview's encoder for HDR video stands still for ever (preview/encoder_thread.py), on a machine with more to do than cores.

    python -m bench.encoder_stalls --processes 6 --seconds 300

Each process makes one small video after the other and counts its frames and the encoders that it had to give up. The table goes to
bench/results/encoder_stalls.{md,json}.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from fractions import Fraction
from pathlib import Path

import av
import torch
from rich.console import Console

from bench.results_files import write_results
from preview import encoder_thread
from preview.hdr_video import KEY_FRAMES, EncoderStalled, HdrVideo
from preview.stills import cores
from tests.clips import packed

RESULTS = Path(__file__).resolve().parent / "results"
FRAMES = 2 * KEY_FRAMES + 1
WIDTH, HEIGHT = 64, 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=300.0)
    args = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        counts = pool.map(work, [args.seconds] * args.processes, chunksize=1)
    frames, stalls = (sum(column) for column in zip(*counts, strict=True))
    told = {"processes": args.processes, "seconds": args.seconds, "frames": frames, "stalls": stalls}
    table = "\n".join(
        [
            f"# Encoders for the preview's HDR video that stood still for {encoder_thread.STALL_SECONDS:g} s",
            "",
            f"`python -m bench.encoder_stalls --processes {args.processes} --seconds {args.seconds:g}`, {cores()} cores, PyAV {av.__version__}.",
            "",
            "| frames | encoders given up |",
            "|---:|---:|",
            f"| {frames:,} | {stalls} |",
            "",
        ]
    )
    write_results(RESULTS, "encoder_stalls", table, told)
    Console().print(table)


def work(seconds: float) -> tuple[int, int]:
    """(frames encoded, encoders given up) in this time."""
    torch.set_num_threads(1)
    encoder_thread.MOST_LOST = 1000
    pictures = [packed(number, WIDTH, HEIGHT) for number in range(FRAMES)]
    frames = stalls = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with HdrVideo(WIDTH, HEIGHT, Fraction(25)) as video:
                for number, one in enumerate(pictures):
                    video.write(one, number / 25)
                    frames += 1
                video.close()
        except EncoderStalled:
            stalls += 1
    return frames, stalls


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Sunvisor: turn SDR driving video into verified 10-bit HDR video.

This file is the door: it reads the command line and calls one function per command.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.schema import Config, load_config, profiles, recipes
from pipeline.errors import InputError, SunvisorError

OVERRIDE = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)*=", re.IGNORECASE)
ERRORS = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description="Turn SDR driving video (dashcam, action cam) into verified 10-bit HDR video.",
        epilog="Start with: run_pipeline.py demo    then: run_pipeline.py convert drive.mp4 --output drive_hdr.mp4",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_demo(commands)
    _add_evaluate(commands)
    _add_figures(commands)
    _add_train(commands)
    bench = _command(
        commands, "bench", _bench, "Measure this machine: stages alone, the whole, and the ratio between them.", ""
    )
    bench.add_argument(
        "--output",
        type=Path,
        default=Path("bench_out"),
        help="folder for the clip, result and tables (default: %(default)s)",
    )
    bench.add_argument("--clip", type=Path, help="a video to measure on (default: the demo's drive)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, 1 (something failed), 2 (the user can mend it) or 130 (interrupted)."""
    parser = build_parser()
    args, more = parser.parse_known_args(argv)
    # argparse gives up on inputs and settings that come after an option; they belong to `convert` or `train`.
    if more and (args.command not in ("convert", "train") or any(word.startswith("-") for word in more)):
        parser.error(f"{args.command} does not know: {' '.join(more)}; see {parser.prog} {args.command} --help")
    if more:
        args.words += more
    try:
        return args.run(args)
    except SunvisorError as error:
        ERRORS.print(f"error: {error}")
        if getattr(args, "json", False):
            _print_json({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except KeyboardInterrupt:
        ERRORS.print("interrupted")
        return 130


def _command(
    commands: Any,  # noqa: ANN401 - argparse does not name this type publicly
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _add_convert(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "convert",
        _convert,
        "Convert videos to 10-bit HDR. Stop it at any time: the same command goes on where it stopped.",
        """examples:
  run_pipeline.py convert drive.mp4 --output drive_hdr.mp4
  run_pipeline.py convert sdcard/ --output hdr/                 a folder; its tree is mirrored
  run_pipeline.py convert 'trip*/*.mp4' --output hdr/ --dry-run what would happen, and why
  run_pipeline.py convert drive.mp4 --output d.mkv grade.peak_nits=600 output.codec=av1

Settings: any key of configs/schema.py as key=value; a misspelt key lists the legal ones.
Exit code: 0 all well, 1 something failed, 2 something you can mend, 130 interrupted. With several files the rest goes on.""",
    )
    parser.add_argument(
        "words", nargs="+", metavar="INPUT|key=value", help="video files, folders or globs, and settings as key=value"
    )
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="PATH",
        help="file to write (.mp4 .mov .mkv), or a folder for several inputs",
    )
    parser.add_argument(
        "--profile", default="dashcam", help=f"settings to start from: {', '.join(profiles())} (default: %(default)s)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="your own YAML on top of the profile")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="worker processes (default: one a GPU, or one for the CPU); never changes the result",
    )
    parser.add_argument("--address", metavar="ADDR", help="a running Ray cluster (default: start and stop one here)")
    parser.add_argument(
        "--video", metavar="all|N", help="which video streams to convert (default: the first); others are copied"
    )
    parser.add_argument(
        "--fps", metavar="RATE", help="frame rate of a raw .h264/.hevc stream, such as 20 or 30000/1001"
    )
    parser.add_argument("--force", action="store_true", help="convert a source that is HDR already")
    parser.add_argument(
        "--strict", action="store_true", help="fail on a damaged frame instead of repeating the last good one"
    )
    parser.add_argument("--salvage", action="store_true", help="convert the readable part of a file that was cut short")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that was made from something else")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON report on standard output")


def _add_inspect(commands: Any) -> None:  # noqa: ANN401
    parser = _command(commands, "inspect", _inspect, "Say what a video file holds and how Sunvisor reads it.", "")
    parser.add_argument("file", type=Path, help="a video file")
    parser.add_argument(
        "--fps", type=Fraction, metavar="RATE", help="frame rate of a raw .h264/.hevc stream, such as 20 or 30000/1001"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_verify(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "verify",
        _verify,
        "Check that OUTPUT is a true conversion of SOURCE.",
        "Exit code 0 when every check holds, 1 when one fails.",
    )
    parser.add_argument("source", type=Path, help="the SDR video")
    parser.add_argument("output", type=Path, help="the HDR video made from it")
    parser.add_argument("--full", action="store_true", help="decode every frame and measure its light")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_demo(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "demo",
        _demo,
        "Render a short drive with known HDR truth, convert what a dashcam would record of it, and score it.",
        "",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo_out"), help="folder for the results (default: %(default)s)"
    )


def _add_figures(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "figures",
        _figures,
        "Draw what a checkpoint does to a picture: its summands, feature maps, sampling positions, and before and after.",
        """examples:
  run_pipeline.py figures still.png --output figures/
  run_pipeline.py figures drive.mp4 --at 12.5 --output figures/ --point 412,96 --point 500,101
  run_pipeline.py figures still.png --output figures/ --strip 'thin line:400,80,120,60' --strip sky:0,0,320,200 --truth still.exr

Categories: thin line, small structure, car, sky, tree, building. Coordinates are pixels of the picture, from its upper left corner.
Several pictures get a folder each; points and strips then count for all of them.""",
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="an 8-bit image or a video")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="folder for the figures")
    parser.add_argument(
        "--model", default="auto", metavar="NAME|PATH", help="checkpoint (default: the one that convert would use)"
    )
    parser.add_argument(
        "--frame", type=int, action="append", default=[], metavar="N", help="frame of a video, from 0 (default: 0)"
    )
    parser.add_argument(
        "--at", type=float, action="append", default=[], metavar="SECONDS", help="frame of a video shown at that time"
    )
    parser.add_argument(
        "--point", action="append", default=[], metavar="X,Y", help="where to draw sampling positions (default: chosen)"
    )
    parser.add_argument(
        "--strip",
        action="append",
        default=[],
        metavar="CATEGORY:X,Y,W,H",
        help="a crop for the before and after strips (default: the largest clipped regions)",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="linear HDR of the picture (.hdr, .exr, .npy; 1.0 = SDR white); with several pictures one for each, in order",
    )


def _add_evaluate(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "evaluate",
        _evaluate,
        "Measure results against truth: the paper's measures, and for videos the scores of the project's bench.",
        """examples:
  run_pipeline.py evaluate result.exr truth.hdr                             two pictures
  run_pipeline.py evaluate results/ truths/ --output eval/                  two folders, pictures matched by name
  run_pipeline.py evaluate --vds VDS --model base --output eval/            a data set, through a network
  run_pipeline.py evaluate --cityscapes cityscapes --split val --results my_results/
  run_pipeline.py evaluate drive_hdr.mp4 gt.npz                             a drive of known light
  run_pipeline.py evaluate sdr.mp4 gt.npz                                   what the SDR itself scores
  run_pipeline.py evaluate mine_hdr.mp4 other_hdr.mp4 --no-jod              two videos

Pictures: .hdr, .exr, .npy and floats are linear light; 16-bit PNG is linear, code / 65535; 8-bit pictures are sRGB. The two sides must
be in one unit; `--align` forgives each result one factor. Videos: PQ, HLG, or SDR as a BT.1886 display shows it. A truth .npz has
`hdr` (frames, height, width, 3), 1.0 = SDR white, and for flicker yaw, pitch, roll, fov.
Tables are printed as Markdown; --output also writes evaluation.md, summary.csv, pictures.csv and, for videos, drive.csv.
HDR-VDP-2 and -3 need GNU Octave and the toolbox's folder. They could not be run where this program was made: only how they are called is
tested. Compare with published values of your own toolbox before you rely on them.""",
    )
    parser.add_argument("result", nargs="?", type=Path, metavar="RESULT", help="picture, folder of pictures, or video")
    parser.add_argument("truth", nargs="?", type=Path, metavar="TRUTH", help="the same kind, or a drive's gt.npz")
    parser.add_argument("--vds", type=Path, metavar="DIR", help="the VDS data set (pictures and .hdr)")
    parser.add_argument("--cityscapes", type=Path, metavar="DIR", help="Cityscapes (leftImg8bit and leftImg16bit)")
    parser.add_argument("--split", help="part of the data set (default: test of VDS, val of Cityscapes)")
    parser.add_argument(
        "--model", metavar="NAME|PATH", help="run this checkpoint on the data set's pictures (neutral: the SDR itself)"
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="ready results, named as the data set's pictures")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="for --model")
    parser.add_argument(
        "--normalise",
        default="none",
        choices=("none", "peak"),
        help="peak: divide each picture's light by the truth's largest value (default: none)",
    )
    parser.add_argument("--align", action="store_true", help="scale each result to the truth's brightness first")
    parser.add_argument("--mu", type=float, default=5000.0, help="of PSNR-mu (default: 5000; the paper's figures: 10)")
    parser.add_argument(
        "--white-nits",
        type=float,
        metavar="NITS",
        help="luminance of light 1.0 (default: 203; for data sets and --normalise peak: --peak-nits)",
    )
    parser.add_argument(
        "--peak-nits", type=float, default=1000.0, metavar="NITS", help="of the display (default: 1000)"
    )
    parser.add_argument("--no-jod", action="store_true", help="leave ColorVideoVDP out (it is the slowest)")
    parser.add_argument("--hdrvdp2", type=Path, metavar="DIR", help="folder with hdrvdp.m: HDR-VDP-2 through Octave")
    parser.add_argument("--hdrvdp3", type=Path, metavar="DIR", help="folder with hdrvdp3.m: HDR-VDP-3 through Octave")
    parser.add_argument("--ppd", type=float, default=30.0, help="pixels a degree, for HDR-VDP (default: 30)")
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="folder for the tables")


def _add_train(commands: Any) -> None:  # noqa: ANN401
    parser = _command(
        commands,
        "train",
        _train,
        "Train a network, or (train prepare) render what it learns from. Stop it at any time: the same command goes on where it stopped.",
        """examples:
  run_pipeline.py train prepare --scenes ../shared/data/hdr_train --output runs/data
  run_pipeline.py train --config configs/train_tiny.yaml
  run_pipeline.py train --config configs/train_tiny.yaml output=runs/mine iterations=2000 model.width=32
  torchrun --nproc-per-node 4 run_pipeline.py train --config configs/train_base.yaml

Settings: any key of training/settings.py as key=value; a wrong one lists the legal ones. The run's folder gets best.safetensors (by
validation on held-out scenes; give it to convert as model=PATH), last.safetensors, curve.tsv, state.safetensors (to go on from) and
log/ (tensorboard --logdir FOLDER/log). prepare renders pairs of camera pictures and true light from any folder of linear HDR images
or panoramas (.exr, .hdr) into shards of at most 60 MiB; the scenes named in training/prepare.py are held out for validation, and of a
folder without them every eighth one.""",
    )
    shipped = ", ".join(recipes())
    parser.add_argument("words", nargs="*", metavar="prepare|key=value", help="prepare, or settings")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings to start from, such as {shipped}")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's)")
    group = parser.add_argument_group("train prepare")
    group.add_argument("--scenes", type=Path, metavar="DIR", help="folder of linear HDR images")
    group.add_argument(
        "--output", type=Path, default=Path("runs/data"), metavar="DIR", help="where shards go (default: %(default)s)"
    )
    group.add_argument("--frames", type=int, default=2190, help="frames to render for training (default: %(default)s)")
    group.add_argument(
        "--validation-views",
        type=int,
        default=3,
        metavar="N",
        help="frames of each held-out scene (default: %(default)s)",
    )
    group.add_argument("--seed", type=int, default=0, help="of all random choices (default: %(default)s)")


def _convert(args: argparse.Namespace) -> int:
    from pipeline.report import plan_facts, print_plan, print_results
    from workers.batch import plan_batch, run_batch
    from workers.jobs import find_jobs

    overrides = [word for word in args.words if OVERRIDE.match(word) and not Path(word).exists()]
    inputs = [word for word in args.words if word not in overrides]
    if not inputs:
        raise InputError("convert: no input named; give a video file, a folder or a glob.")
    config = load_config(args.profile, args.config, overrides)
    _apply_flags(config, args)
    jobs, skipped = find_jobs(inputs, args.output, config.output.container)
    console = Console(stderr=args.json)
    if args.dry_run:
        prepared, reports = plan_batch(jobs, config)
        for item in prepared:
            if not args.json:
                print_plan(console, item)
        if args.json:
            _print_json(
                {"plans": [plan_facts(item) for item in prepared], "files": [report.to_dict() for report in reports]}
            )
        else:
            for report in reports:
                ERRORS.print(f"{report.source}: {report.status}: {report.error}")
        return max([report.exit_code for report in reports], default=0)
    batch = run_batch(jobs, config, overwrite=args.overwrite)
    if args.json:
        _print_json(batch.to_dict() | {"skipped": [str(path) for path in skipped]})
    else:
        print_results(console, batch.files)
        for path in skipped:
            console.print(f"{path}: skipped, not a video file by its name", markup=False, soft_wrap=True)
    return batch.exit_code


def _apply_flags(config: Config, args: argparse.Namespace) -> None:
    config.input.force |= args.force
    config.input.strict |= args.strict
    config.input.salvage |= args.salvage
    if args.video is not None:
        if args.video != "all" and not args.video.isdigit():
            raise InputError(f"--video {args.video}: legal: all, or the number of a video stream (0, 1, ...).")
        config.input.video = args.video
    if args.fps is not None:
        config.input.fps = args.fps
    if args.address is not None:
        config.workers.address = args.address
    if args.workers is not None:
        if args.workers < 1:
            raise InputError(f"--workers {args.workers}: legal: 1 or more.")
        config.workers.count = args.workers


def _inspect(args: argparse.Namespace) -> int:
    from pipeline.describe import describe, describe_text

    facts = describe(args.file, fps=args.fps)
    if args.json:
        _print_json(facts)
    else:
        sys.stdout.write(describe_text(facts) + "\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from pipeline.verify import verify

    report = verify(args.source, args.output, full=args.full)
    if args.json:
        _print_json(report.to_dict())
    else:
        for check in report.checks:
            told = check.detail if check.detail.startswith(check.name) else f"{check.name}: {check.detail}"
            sys.stdout.write(f"{'ok  ' if check.ok else 'FAIL'} {told}\n")
        sys.stdout.write("verified\n" if report.ok else "not a true conversion\n")
    return 0 if report.ok else 1


def _demo(args: argparse.Namespace) -> int:
    from demo.demo import run_demo
    from workers.batch import run_batch
    from workers.jobs import Job

    def convert(source: Path, output: Path) -> Any:  # noqa: ANN401 - a FileReport
        batch = run_batch([Job(source, output)], load_config("dashcam"), overwrite=True)
        if batch.exit_code:
            raise SunvisorError(batch.files[0].error or "the demo clip could not be converted")
        return batch.files[0]

    sys.stdout.write(run_demo(args.output, convert)["text"] + "\n")
    return 0


def _figures(args: argparse.Namespace) -> int:
    from evaluation.figures import make_figures

    told = make_figures(
        args.inputs,
        args.output,
        model=args.model,
        frames=args.frame,
        seconds=args.at,
        points=args.point,
        strips=args.strip,
        truths=args.truth,
    )
    sys.stdout.write(told + "\n")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from evaluation.evaluate import Request, evaluate
    from evaluation.tables import make_folder

    if args.output:
        make_folder(args.output)
    report = evaluate(
        Request(
            result=args.result,
            truth=args.truth,
            vds=args.vds,
            cityscapes=args.cityscapes,
            split=args.split,
            model=args.model,
            results=args.results,
            device=args.device,
            normalise=args.normalise,
            align=args.align,
            mu=args.mu,
            unit_nits=args.white_nits,
            peak_nits=args.peak_nits,
            jod=not args.no_jod,
            hdrvdp2=args.hdrvdp2,
            hdrvdp3=args.hdrvdp3,
            pixels_per_degree=args.ppd,
        )
    )
    sys.stdout.write(report.markdown())
    for path in report.write(args.output) if args.output else ():
        sys.stdout.write(f"wrote {path}\n")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from bench.cpu import run_bench

    sys.stdout.write(run_bench(args.output, args.clip) + "\n")
    return 0


def _train(args: argparse.Namespace) -> int:
    from training.command import run

    return run(args)


def _print_json(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, indent=1, default=str) + "\n")


if __name__ == "__main__":
    sys.exit(main())

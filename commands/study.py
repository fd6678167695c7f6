"""The commands about networks: `train`, `evaluate` and `figures`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands.shared import add_command
from configs.schema import recipes


def add_train(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
        commands,
        "train",
        _train,
        "Train a network, or (train prepare) render what it learns from. Stop it at any time: the same command goes on where it stopped.",
        """examples:
  run_pipeline.py train prepare --scenes hdr_images/ --output runs/data
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
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's)")
    group = parser.add_argument_group("train prepare")
    group.add_argument("--scenes", type=Path, metavar="DIR", help="folder of linear HDR images")
    group.add_argument("--output", type=Path, metavar="DIR", help="where shards go (default: runs/data)")
    group.add_argument("--frames", type=int, metavar="N", help="frames to render for training (default: 2190)")
    group.add_argument("--validation-views", type=int, metavar="N", help="frames of each held-out scene (default: 3)")
    group.add_argument("--seed", type=int, metavar="N", help="of all random choices (default: 0)")


def _train(args: argparse.Namespace) -> int:
    from training.command import run

    return run(args)


def add_evaluate(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
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


def add_figures(commands: Any) -> None:  # noqa: ANN401
    """Add it to the command line."""
    parser = add_command(
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

"""`run_pipeline.py evaluate`: results against truth, as the paper does it and as the project's bench does."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from datasets.cityscapes import CityscapesDataset
from datasets.images import SUFFIXES
from datasets.pairs import PairDataset
from datasets.vds import VDSDataset
from evaluation import colorvideovdp, drives, operators
from evaluation.colorvideovdp import ColorVideoVDP
from evaluation.hdrvdp import HdrVdp
from evaluation.metrics import LIMIT_SHARE, WHITE_NITS, Meter, limit
from evaluation.pairs import Case, Network, dataset_cases, picture_cases
from evaluation.progress import Bar
from evaluation.psnr import PEAK, SSIM_WINDOW, Viewing, fitted_scale, measure
from evaluation.tables import Report, Row
from evaluation.tonemap import MU_METRICS
from pipeline.errors import InputError, SunvisorError
from pipeline.version import software

Array = np.ndarray
NORMALISATIONS = ("none", "peak")
VDS_TEST_PICTURES = 48
DEFAULT_SPLIT = {"vds": "test", "cityscapes": "val"}


@dataclass(frozen=True)
class Request:
    """What to evaluate, and how; the command line's options.

    result, truth: two files or two folders; or vds or cityscapes: a data set's folder, with model (a checkpoint's name or path) or results
    (a folder). split: None for the usual one. normalise: "none" or "peak" (the light divided by the truth's largest value). align: scale
    each result to the truth's brightness. unit_nits: luminance of light 1.0; None: 203, or the peak for data sets, whose 1.0 is full
    scale. jod: with ColorVideoVDP. hdrvdp2, hdrvdp3: folders of the toolboxes.
    """

    result: Path | None = None
    truth: Path | None = None
    vds: Path | None = None
    cityscapes: Path | None = None
    split: str | None = None
    model: str | None = None
    results: Path | None = None
    device: str = "auto"
    normalise: str = "none"
    align: bool = False
    mu: float = MU_METRICS
    unit_nits: float | None = None
    peak_nits: float = 1000.0
    jod: bool = True
    hdrvdp2: Path | None = None
    hdrvdp3: Path | None = None
    pixels_per_degree: float = 30.0


@dataclass(frozen=True)
class Judges:
    """The measures that need an outside program or package; None: not asked for."""

    jod: ColorVideoVDP | None
    toolboxes: tuple[HdrVdp, ...]

    def quality(self, result: Array, truth: Array, name: str) -> dict[str, float]:
        """hdrvdp2 and hdrvdp3, as asked for, of a picture in nits."""
        return {f"hdrvdp{box.version}": box(result, truth, name) for box in self.toolboxes}


def evaluate(request: Request) -> Report:
    """Measure everything that was asked for. Raises InputError for what the user can mend, ConversionError when Octave fails."""
    _check(request)
    toolboxes = tuple(
        HdrVdp(version, folder, request.pixels_per_degree)
        for version, folder in ((2, request.hdrvdp2), (3, request.hdrvdp3))
        if folder is not None
    )
    judge = ColorVideoVDP("cuda" if torch.cuda.is_available() else "cpu") if request.jod else None
    judges = Judges(judge, toolboxes)
    if request.vds or request.cityscapes:
        return _evaluate_dataset(request, judges)
    if request.result is None or request.truth is None:
        raise InputError(
            "evaluate: name RESULT and TRUTH, or a data set with --vds or --cityscapes; see evaluate --help."
        )
    if not request.truth.is_dir() and request.truth.suffix.lower() not in SUFFIXES:
        return _evaluate_drive(request, request.result, request.truth, judges)
    cases = picture_cases(request.result, request.truth)
    facts = {"result": str(request.result), "truth": str(request.truth)}
    rows, viewing = _measure_cases(request, cases, judges, divide_both=True)
    parameters = facts | _parameters(request, viewing, judges)
    return Report(str(request.result), str(request.truth), parameters, rows)


def _check(request: Request) -> None:
    sets = [name for name in ("vds", "cityscapes") if getattr(request, name) is not None]
    if len(sets) == 2:
        raise InputError("evaluate: --vds and --cityscapes are both given; evaluate one data set at a time.")
    if sets and (request.result or request.truth):
        raise InputError(f"evaluate: with --{sets[0]} no RESULT and TRUTH; name a folder of results with --results.")
    if sets and (request.model is None) == (request.results is None):
        raise InputError(f"evaluate: --{sets[0]} needs either --model NAME|PATH or --results FOLDER.")
    if not sets and (request.model or request.results or request.split):
        raise InputError("evaluate: --model, --results and --split belong to --vds or --cityscapes.")
    if request.normalise not in NORMALISATIONS:
        raise InputError(f"--normalise {request.normalise}: legal are {', '.join(NORMALISATIONS)}.")
    if request.normalise != "none" and request.cityscapes:
        raise InputError("--normalise: Cityscapes is divided by 65535 and by nothing else; leave the option out.")
    numbers = {"mu": request.mu, "peak-nits": request.peak_nits, "ppd": request.pixels_per_degree}
    for name, value in {
        **numbers,
        "white-nits": WHITE_NITS if request.unit_nits is None else request.unit_nits,
    }.items():
        if not 0 < value < math.inf:
            raise InputError(f"--{name} {value}: it must be a number above 0.")


def _evaluate_dataset(request: Request, judges: Judges) -> Report:
    data: PairDataset
    if request.vds:
        kind, split = "VDS", request.split or DEFAULT_SPLIT["vds"]
        # a network answers in the unit it was trained in; ready results are in the unit of the files and are divided with the truth
        data = VDSDataset(request.vds, split, request.normalise if request.model else "none")
        scaling = {"none": "as the .hdr files hold it", "peak": "divided by each truth's largest value"}[
            request.normalise
        ]
    else:
        kind, split = "Cityscapes", request.split or DEFAULT_SPLIT["cityscapes"]
        data = CityscapesDataset(Path(request.cityscapes or "."), split)
        scaling = "code / 65535"
    network = Network(request.model, request.device) if request.model else None
    cases = dataset_cases(data, network.restore if network else None, request.results)
    facts = {
        "data set": f"{kind}, {split}, {len(data)} pictures of {request.vds or request.cityscapes}",
        "truth": scaling,
    }
    if network:
        spec = network.model.spec
        facts["result"] = (
            f"model {spec.name} ({spec.architecture}, width {spec.width}, sha256 {spec.sha256[:12]}), fp32 on {network.device}, its light in "
            f"the unit of its training (SDR white = {spec.white_level:g})"
        )
    else:
        facts["result"] = f"ready results of {request.results}"
    rows, viewing = _measure_cases(request, cases, judges, divide_both=network is None)
    parameters = facts | _parameters(request, viewing, judges)
    whole = bool(request.vds) and split == "test" and len(data) == VDS_TEST_PICTURES
    method = network.model.spec.name if network else str(request.results)
    return Report(method, f"{kind} {split}", parameters, rows, is_vds_test=whole)


def _measure_cases(request: Request, cases: list[Case], judges: Judges, divide_both: bool) -> tuple[list[Row], Viewing]:
    """A row for each case. divide_both: with normalise=peak, divide result and truth by the truth's peak; otherwise it is done."""
    full_scale = request.peak_nits if request.vds or request.cityscapes or request.normalise == "peak" else WHITE_NITS
    viewing = Viewing(request.mu, request.unit_nits or full_scale, request.peak_nits)
    rows = []
    with Bar("pictures", len(cases)) as bar:
        for case in cases:
            result, truth = case.read()
            if result.shape != truth.shape:
                raise InputError(
                    f"{case.name}: the result is {_size(result)} pixels, the truth {_size(truth)}; compare pictures of one size."
                )
            if not np.isfinite(result).all():
                raise InputError(f"{case.name}: the result holds values that are not finite; it cannot be compared.")
            if divide_both and request.normalise == "peak":
                peak = float(truth.max())
                if peak <= 0:
                    raise InputError(f"{case.name}: the truth holds no light, so it has no peak to divide by.")
                result, truth = result / peak, truth / peak
            if request.align:
                result = result * fitted_scale(result, truth)
            nits = tuple(limit(light * viewing.unit_nits, viewing.limit_nits) for light in (result, truth))
            values = measure(result, truth, viewing)
            if judges.jod:
                values["jod"] = judges.jod.picture(*nits)
            rows.append(Row(case.name, values | judges.quality(*nits, case.name)))
            bar.advance()
    return rows, viewing


def _evaluate_drive(request: Request, result: Path, truth_path: Path, judges: Judges) -> Report:
    if request.normalise != "none" or request.align:
        raise InputError(
            "evaluate: --normalise and --align are for pictures; light of a video is relative to SDR white."
        )
    white = request.unit_nits or WHITE_NITS
    truth = drives.read_truth(truth_path, white)
    frames, fps = drives.read_result(result, white)
    fps = fps or truth.fps or drives.DEFAULT_FPS
    meter = Meter(white, request.peak_nits, truth.pose)
    viewing = Viewing(request.mu, white, LIMIT_SHARE * request.peak_nits)
    rows: list[Row] = []
    with Bar("frames", truth.frames) as bar:
        pairs = _frame_pairs(truth, frames, meter, viewing, judges, rows, bar.advance)
        try:
            jod = judges.jod.video(pairs, truth.frames, fps) if judges.jod else math.nan
            deque(pairs, maxlen=0)
        except SunvisorError as error:
            raise type(error)(f"{result}: {error}") from error
    facts = {"result": str(result), "truth": f"{truth_path}, {truth.frames} frames"}
    parameters = facts | _parameters(request, viewing, judges)
    parameters["light"] = (
        f"SDR white = 1.0 = {white:g} nits; result and truth limited, hue kept, to {LIMIT_SHARE:g} x {request.peak_nits:g} nits for all measures"
    )
    if judges.jod:
        parameters["ColorVideoVDP"] += f", the whole video at {fps:g} frames a second"
    if truth.pose is None:
        parameters["flicker"] = "not measured: the truth does not say where the camera looked"
    return Report(str(result), str(truth_path), parameters, rows, replace(meter.scores(), jod=jod))


def _frame_pairs(
    truth: drives.Truth,
    frames: Iterator[Array],
    meter: Meter,
    viewing: Viewing,
    judges: Judges,
    rows: list[Row],
    on_frame: Callable[[], None],
) -> Iterator[tuple[Array, Array]]:
    """(result, truth) of each frame in nits, limited; on the way each is measured. InputError when the numbers of frames differ."""
    for number, light in enumerate(truth.light()):
        nits = next(frames, None)
        if nits is None:
            raise InputError(
                f"the result ends after {number} frames, the truth has {truth.frames}; none may be missing."
            )
        wanted, got = meter.add(light, nits, None if truth.text is None else truth.text[number])
        name = f"frame {number:05d}"
        values = measure(got / viewing.unit_nits, wanted / viewing.unit_nits, viewing)
        rows.append(Row(name, values | judges.quality(got, wanted, name)))
        on_frame()
        yield got, wanted
    if next(frames, None) is not None:
        raise InputError(
            f"the result has more frames than the truth, which has {truth.frames}; compare the same frames."
        )


def _parameters(request: Request, viewing: Viewing, judges: Judges) -> dict[str, str]:
    """All that decides the numbers but the files themselves."""
    dark, bright = operators.KIM_KAUTZ_DISPLAY_NITS
    low, high = operators.KIM_KAUTZ_PERCENTILES
    told = {
        "normalisation": {"none": "none", "peak": "light divided by the truth's largest value"}[request.normalise],
        "alignment": "result scaled by the median ratio of luminance" if request.align else "none",
        "light": f"1.0 = {viewing.unit_nits:g} nits; for PU21 and the VDPs limited, hue kept, to {viewing.limit_nits:g} nits",
        "PSNR-L": f"linear light, peak {PEAK:g}",
        "PSNR-mu": f"log(1 + mu tanh(I)) / log(1 + mu), mu = {viewing.mu:g}, peak {PEAK:g}",
        "PU21": f"banding_glare, RGB, peak = the code of {viewing.limit_nits:g} nits",
        "SSIM": f"Gaussian window of {SSIM_WINDOW} pixels, sigma 1.5, K1 = 0.01, K2 = 0.03, whole windows only",
        "RH's TMO": f"Reinhard et al. 2002, global, key {operators.REINHARD_KEY:g}, white = the brightest pixel; sRGB, not rounded",
        "KK's TMO": (
            f"Kim and Kautz 2008, c1 = {operators.KIM_KAUTZ_C1:g}, c2 = {operators.KIM_KAUTZ_C2:g}, display {dark:g} to {bright:g} nits, "
            f"percentiles {low:g} and {high:g}; sRGB, not rounded"
        ),
        "± and std": "sample standard deviation (n - 1) over pictures",
    }
    if request.cityscapes:
        told["normalisation"] = "truth code / 65535"
    if judges.jod:
        told["ColorVideoVDP"] = f"display {colorvideovdp.DISPLAY}"
    for box in judges.toolboxes:
        told[box.name] = f"{box.folder}, rgb-bt.709, {box.pixels_per_degree:g} pixels a degree, through GNU Octave"
    return told | {"software": software()}


def _size(picture: Array) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"

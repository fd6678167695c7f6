"""The tables of an evaluation: what was measured, with which parameters, beside what the paper published."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from evaluation.metrics import Scores
from pipeline.errors import InputError

COLUMNS = {
    "psnr_l": ("PSNR-L", 2),
    "psnr_mu": ("PSNR-mu", 2),
    "psnr_pu21": ("PU21-PSNR", 2),
    "ssim_pu21": ("PU21-SSIM", 4),
    "psnr_reinhard": ("PSNR RH's TMO", 2),
    "psnr_kim_kautz": ("PSNR KK's TMO", 2),
    "jod": ("ColorVideoVDP JOD", 2),
    "hdrvdp2": ("HDR-VDP-2 Q", 2),
    "hdrvdp3": ("HDR-VDP-3 Q", 2),
}
"""Measure -> its heading and decimals, in the order of the tables. All: more is better."""

DRIVE_COLUMNS = ("hl_stops", "hl_bias", "hl_detail", "mid_stops", "flicker", "pu_psnr", "jod")
OTHER_DATA = "published, other data"
SAME_DATA = "published, same data set"


@dataclass(frozen=True)
class Published:
    """A row of the paper. data: what it was measured on. values: measure -> (mean, standard deviation or None)."""

    method: str
    source: str
    data: str
    values: Mapping[str, tuple[float, float | None]]


def _table_2(method: str, *numbers: float) -> Published:
    names = ("psnr_reinhard", "psnr_kim_kautz", "hdrvdp2")
    pairs = zip(names, numbers[0::2], numbers[1::2], strict=True)
    return Published(method, "supplement, Table 2", "VDS", {name: (mean, spread) for name, mean, spread in pairs})


def _table_1(method: str, linear: float, mu: float, vdp3: float) -> Published:
    values = {"psnr_l": (linear, None), "psnr_mu": (mu, None), "hdrvdp3": (vdp3, None)}
    return Published(method, "supplement, Table 1", "VDS divided by peaks, which its authors call incorrect", values)


PUBLISHED = (
    _table_2("DrTMO", 25.49, 4.28, 21.36, 4.50, 54.33, 6.27),
    _table_2("Deep chain HDRI", 30.86, 3.36, 24.54, 3.50, 56.36, 4.35),
    _table_2("Deep recursive HDR", 32.99, 2.81, 28.02, 6.99, 57.15, 6.46),
    _table_2("Mask HDRCNN", 22.56, 2.68, 18.23, 3.53, 53.51, 4.76),
    _table_2("SingleHDR", 30.89, 3.27, 28.00, 4.11, 56.97, 6.15),
    _table_2("CEVR", 34.67, 3.50, 30.04, 4.45, 59.00, 5.78),
    _table_2("DCDR-UNet (Cityscapes)", 24.22, 3.09, 21.00, 4.40, 56.99, 5.85),
    _table_2("DCDR-UNet (VDS)", 33.61, 4.66, 30.38, 6.40, 61.11, 7.14),
    _table_1("HDRUNet", 22.31, 18.04, 5.35),
    _table_1("DCDR-UNet", 25.01, 22.32, 6.99),
)
"""The rows of both tables of the supplement (Kim et al., CVPR Workshops 2024)."""


@dataclass(frozen=True)
class Row:
    """One picture, or one frame. values: measure -> number."""

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """Everything that is printed and written.

    method, data: how the measured row is named. parameters: name -> value of all that decides the numbers. drive: scores of a video.
    is_vds_test: the user supplied the data set of the paper's tables.
    """

    method: str
    data: str
    parameters: Mapping[str, str]
    rows: Sequence[Row]
    drive: Scores | None = None
    is_vds_test: bool = False

    def markdown(self) -> str:
        """Parameters, the scores of a drive, and the table of means and standard deviations."""
        lines = [f"# Evaluation of {self.method} on {self.data}", ""]
        lines += [f"- {name}: {value}" for name, value in self.parameters.items()] + [""]
        if self.drive is not None:
            lines += [
                "| scores of the drive | " + " | ".join(DRIVE_COLUMNS) + " |",
                "|---" * (len(DRIVE_COLUMNS) + 1) + "|",
            ]
            values = asdict(self.drive)
            cells = [_number(values[name], 2 if name in ("pu_psnr", "jod") else 3) for name in DRIVE_COLUMNS]
            lines += [f"| {self.method} | " + " | ".join(cells) + " |", ""]
        shown = [key for key in COLUMNS if any(key in values for _, _, _, values in self._summary())]
        lines += ["| method | data | pictures | " + " | ".join(COLUMNS[key][0] for key in shown) + " |"]
        lines += ["|---" * (len(shown) + 3) + "|"]
        for method, data, count, values in self._summary():
            cells = [_spread(*values[key], COLUMNS[key][1]) if key in values else "-" for key in shown]
            lines.append(f"| {method} | {data} | {count or '-'} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def summary_csv(self) -> str:
        """A row for what was measured and one for each published one: method, data, pictures, then mean and std of each measure."""
        head = ["method", "data", "pictures", *(f"{key}_{what}" for key in COLUMNS for what in ("mean", "std"))]
        rows = []
        for method, data, count, values in self._summary():
            numbers = [_plain(value) for key in COLUMNS for value in values.get(key, (None, None))]
            rows.append([method, data, str(count or ""), *numbers])
        return self._csv(head, rows)

    def pictures_csv(self) -> str:
        """A row a picture or frame: its name and each measure."""
        rows = [[row.name, *(_plain(row.values.get(key)) for key in COLUMNS)] for row in self.rows]
        return self._csv(["name", *COLUMNS], rows)

    def drive_csv(self) -> str:
        """One row: the scores of the drive. ValueError when the report has none."""
        if self.drive is None:
            raise ValueError("this report has no drive")
        values = asdict(self.drive)
        return self._csv(["method", *values], [[self.method, *(_plain(value) for value in values.values())]])

    def write(self, folder: Path) -> list[Path]:
        """Write evaluation.md, summary.csv, pictures.csv and, for a video, drive.csv. Returns them. InputError when that fails."""
        texts = {
            "evaluation.md": self.markdown(),
            "summary.csv": self.summary_csv(),
            "pictures.csv": self.pictures_csv(),
        }
        if self.drive is not None:
            texts["drive.csv"] = self.drive_csv()
        make_folder(folder)
        try:
            for name, text in texts.items():
                (folder / name).write_text(text, "utf-8")
        except OSError as error:
            raise InputError(
                f"--output {folder}: cannot be written ({error.strerror}); choose another folder."
            ) from error
        return [folder / name for name in texts]

    def _summary(self) -> list[tuple[str, str, int, dict[str, tuple[float | None, float | None]]]]:
        """(method, data, number of pictures, measure -> (mean, standard deviation)), the measured row first."""
        measured = {
            key: spread([row.values[key] for row in self.rows])
            for key in COLUMNS
            if all(key in row.values for row in self.rows)
        }
        if self.drive is not None and not math.isnan(self.drive.jod):
            measured["jod"] = (self.drive.jod, None)
        rows = [(self.method, self.data, len(self.rows), measured)]
        for row in PUBLISHED:
            label = SAME_DATA if self.is_vds_test else OTHER_DATA
            rows.append((f"{row.method} ({row.source})", f"{label}: {row.data}", 0, dict(row.values)))
        return rows

    def _csv(self, head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
        """The parameters as lines that begin with #, then the table."""
        stream = io.StringIO()
        for name, value in {"evaluation": f"{self.method} on {self.data}", **self.parameters}.items():
            stream.write(f"# {name}: {value}\n")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
        return stream.getvalue()


def make_folder(folder: Path) -> None:
    """Make the folder for the tables, before the long work that fills them. InputError when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be made ({error.strerror}); choose another folder.") from error


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) of values that are not NaN; no deviation for one value or infinite ones, NaN for none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, None
    if len(known) < 2 or not np.isfinite(known).all():
        return float(np.mean(known)), None
    return float(np.mean(known)), float(np.std(known, ddof=1))


def _spread(mean: float | None, deviation: float | None, decimals: int) -> str:
    told = _number(mean, decimals)
    return told if deviation is None else f"{told} ± {deviation:.{decimals}f}"


def _number(value: float | None, decimals: int) -> str:
    if value is None or math.isnan(value):
        return "-"
    return "equal" if math.isinf(value) else f"{value:.{decimals}f}"


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"

"""What the colours of a source mean: its tags as found, and the policy for what is not tagged."""

from __future__ import annotations

from pipeline.color import ColorSpec, PixelLayout
from pipeline.errors import InputError

# Code points of ITU-T H.273 (the numbers of H.264, HEVC, AV1 and of mp4's colr box), by FFmpeg's names. 2 is "unspecified".
PRIMARIES_NAMES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020",
    10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
TRANSFER_NAMES = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084",
    17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
MATRIX_NAMES = {
    0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc",
    10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp",
}  # fmt: skip
RANGE_NAMES = {1: "limited", 2: "full"}
CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")

LEGAL = {
    "matrix": ("bt709", "bt601", "bt2020", "rgb"),
    "range": ("limited", "full"),
    "transfer": ("bt1886", "srgb", "linear"),
    "primaries": ("bt709", "bt601-525", "bt601-625", "bt2020"),
    "chroma_location": CHROMA_LOCATIONS,
}
"""Legal values of each override (`input.matrix=bt601` and so on); None and "auto" mean: as the policy says."""

_MATRIX_OF = {
    "rgb": "rgb",
    "bt709": "bt709",
    "bt470bg": "bt601",
    "smpte170m": "bt601",
    "bt2020nc": "bt2020",
}
_PRIMARIES_OF = {
    "bt709": "bt709",
    "smpte170m": "bt601-525",
    "smpte240m": "bt601-525",
    "bt470bg": "bt601-625",
    "bt2020": "bt2020",
}
_SDR_TRANSFERS = frozenset(TRANSFER_NAMES.values()) - {
    "smpte2084",
    "arib-std-b67",
    "linear",
    "log100",
    "log316",
    "smpte428",
}


def _layouts() -> dict[str, PixelLayout]:
    table = {"gray": PixelLayout("gray", 8), "gbrp": PixelLayout("444", 8), "rgb24": PixelLayout("444", 8)}
    for chroma in ("420", "422", "444", "440", "411", "410"):
        table[f"yuv{chroma}p"] = PixelLayout(chroma, 8)
    for chroma in ("420", "422", "444", "440", "411"):
        table[f"yuvj{chroma}p"] = PixelLayout(chroma, 8)
    for bits in (9, 10, 12, 14, 16):
        for chroma in ("420", "422", "444"):
            table[f"yuv{chroma}p{bits}le"] = PixelLayout(chroma, bits)
        table[f"gray{bits}le"] = PixelLayout("gray", bits)
        table[f"gbrp{bits}le"] = PixelLayout("444", bits)
    for bits in (10, 12):
        table[f"yuv440p{bits}le"] = PixelLayout("440", bits)
    table["nv12"] = table["nv21"] = PixelLayout("420", 8)
    table["nv16"] = PixelLayout("422", 8)
    table["nv24"] = PixelLayout("444", 8)
    table["p010le"] = PixelLayout("420", 10)
    table["p012le"] = PixelLayout("420", 12)
    table["p016le"] = PixelLayout("420", 16)
    table["p210le"] = PixelLayout("422", 10)
    return table


LAYOUTS = _layouts()
"""Pixel formats that are read: FFmpeg's name -> shape of the planes that decode hands out. gbrp and rgb24 come as the planes G, B, R."""


def hdr_reason(
    transfer_tag: str | None, primaries_tag: str | None, codec_tag: str, bit_depth: int, matrix_tag: str | None = None
) -> str | None:
    """Why a video is already HDR, in plain words, or None when it is SDR.

    PQ or HLG transfer (ITU-R BT.2100), Dolby Vision, or BT.2020 primaries at 10 bits or more without any SDR transfer tag.
    """
    if transfer_tag == "smpte2084":
        return "its transfer is PQ (SMPTE ST 2084)"
    if transfer_tag == "arib-std-b67":
        return "its transfer is HLG (ARIB STD-B67)"
    if codec_tag in {"dvh1", "dvhe", "dva1", "dvav", "dav1"}:
        return f"it is Dolby Vision (codec tag {codec_tag})"
    if matrix_tag == "ictcp":
        return "its matrix is ICtCp, which only HDR video uses"
    if primaries_tag == "bt2020" and bit_depth >= 10 and transfer_tag not in _SDR_TRANSFERS:
        return f"it has BT.2020 primaries at {bit_depth} bits and no tag that calls it SDR"
    return None


def resolve_color(
    *,
    name: str,
    codec: str,
    pix_fmt: str,
    height: int,
    primaries_tag: str | None,
    transfer_tag: str | None,
    matrix_tag: str | None,
    range_tag: str | None,
    chroma_location_tag: str | None,
    overrides: dict[str, str | None],
) -> tuple[ColorSpec, dict[str, str]]:
    """The ColorSpec of a video and, for each of its fields, the reason in plain words.

    A tag is believed. Untagged: height >= 720 is BT.709, else BT.601 with the primaries of 525 lines up to 486 lines and of
    625 lines above. An override wins over both. `name` (a file) only words the errors.
    Raises InputError: unknown override, illegal value, or a tag that has no counterpart (the override is named).
    """
    _check_overrides(overrides)
    chosen = {key: value for key, value in overrides.items() if value not in (None, "auto")}
    values: dict[str, str] = {}
    reasons: dict[str, str] = {}

    def settle(field: str, value: str, reason: str) -> None:
        values[field], reasons[field] = value, reason

    is_rgb = pix_fmt == "rgb24" or pix_fmt.startswith("gbrp")
    layout = LAYOUTS[pix_fmt]
    by_height = "bt709" if height >= 720 else "bt601"
    rule = f"not tagged; {height} lines, and {'720 or more are' if height >= 720 else 'fewer than 720 are'}"
    if "matrix" in chosen:
        settle("matrix", chosen["matrix"], f"given by input.matrix (the tag is {matrix_tag})")
    elif is_rgb:
        settle("matrix", "rgb", f"the pixel format is {pix_fmt}")
    elif matrix_tag == "rgb" and layout.chroma != "444":
        settle("matrix", by_height, f"tagged rgb, which cannot be as the pixel format is {pix_fmt}; {height} lines")
    elif matrix_tag is not None:
        settle("matrix", _mapped(_MATRIX_OF, matrix_tag, name, "matrix"), f"tagged {matrix_tag}")
    elif primaries_tag == "bt2020":
        settle("matrix", "bt2020", "not tagged; the primaries are tagged bt2020")
    else:
        settle("matrix", by_height, f"{rule} {by_height.upper().replace('BT', 'BT.')}")
    if (values["matrix"] == "rgb") != is_rgb and layout.chroma != "444":
        raise InputError(f"{name}: input.matrix=rgb needs a 4:4:4 video, and this one is {pix_fmt}.")

    if "range" in chosen:
        settle("range", chosen["range"], f"given by input.range (the tag is {range_tag})")
    elif range_tag is not None:
        settle("range", range_tag, f"tagged {range_tag}")
    elif pix_fmt.startswith("yuvj") or is_rgb:
        settle("range", "full", f"not tagged; the pixel format {pix_fmt} is full range")
    else:
        settle("range", "limited", "not tagged; limited is the rule for video")

    if "transfer" in chosen:
        settle("transfer", chosen["transfer"], f"given by input.transfer (the tag is {transfer_tag})")
    elif transfer_tag == "linear":
        settle("transfer", "linear", "tagged linear")
    else:
        found = "not tagged" if transfer_tag is None else f"tagged {transfer_tag}"
        settle("transfer", "bt1886", f"{found}; SDR video is shown on a BT.1886 display (gamma 2.4)")

    if "primaries" in chosen:
        settle("primaries", chosen["primaries"], f"given by input.primaries (the tag is {primaries_tag})")
    elif primaries_tag is not None:
        settle("primaries", _mapped(_PRIMARIES_OF, primaries_tag, name, "primaries"), f"tagged {primaries_tag}")
    elif codec == "mjpeg" or values["matrix"] == "rgb":
        what = "JPEG" if codec == "mjpeg" else "RGB"
        settle("primaries", "bt709", f"not tagged; {what} pictures have sRGB's primaries, which are BT.709's")
    elif "matrix" not in chosen and matrix_tag in {"smpte170m", "bt470bg"}:
        settle("primaries", _PRIMARIES_OF[matrix_tag], f"not tagged; the matrix is tagged {matrix_tag}")
    elif values["matrix"] in {"bt709", "bt2020"}:
        settle("primaries", values["matrix"], f"not tagged; as the matrix ({values['matrix']})")
    else:
        lines = "bt601-525" if height <= 486 else "bt601-625"
        settle("primaries", lines, f"not tagged; BT.601 with {height} lines")

    if "chroma_location" in chosen:
        settle("chroma_location", chosen["chroma_location"], "given by input.chroma_location")
    elif layout.chroma in {"444", "gray"}:
        settle("chroma_location", "left", "no subsampled chroma")
    elif chroma_location_tag is not None:
        settle("chroma_location", chroma_location_tag, f"tagged {chroma_location_tag}")
    elif codec in {"mjpeg", "mpeg1video"}:
        what = "JPEG (JFIF)" if codec == "mjpeg" else "MPEG-1"
        settle("chroma_location", "center", f"not tagged; {what} has chroma between the pixels")
    else:
        settle("chroma_location", "left", f"not tagged; left is the default of {codec}")
    return ColorSpec(**values), reasons


def _mapped(table: dict[str, str], tag: str, name: str, field: str) -> str:
    if tag in table:
        return table[tag]
    legal = ", ".join(LEGAL[field])
    raise InputError(
        f"{name}: its {field} tag '{tag}' is not supported; say what to read it as with input.{field}=, one of {legal}."
    )


def _check_overrides(overrides: dict[str, str | None]) -> None:
    for key, value in overrides.items():
        if key not in LEGAL:
            raise InputError(f"input.{key} is no colour setting; legal are {', '.join(LEGAL)}.")
        if value not in (None, "auto") and value not in LEGAL[key]:
            raise InputError(f"input.{key}={value} is not legal; legal are auto, {', '.join(LEGAL[key])}.")

"""Overlay view: a picture of a file with the burnt-in text and the bonnet that a conversion would find, framed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from pipeline import exclusion
from pipeline.errors import ConversionError, InputError
from pipeline.exclusion import Polygon, find_bonnet
from pipeline.index import build_index
from pipeline.overlay import OverlayBox, draw, find_overlays
from pipeline.overlay_pictures import read_keyframes
from pipeline.probe import probe, read_color


def write_overlay_view(
    source: Path, target: Path, fps: Fraction | None = None
) -> tuple[tuple[OverlayBox, ...], Polygon | None]:
    """Draw what is found into the middle one of the pictures looked at, and write it (PNG or JPEG by its name). Returns what was found.

    Raises InputError when the source cannot be read or the target cannot be written, ConversionError when no picture decodes.
    """
    import cv2

    info = probe(source)
    stream = next(one for one in info.streams if one.kind == "video" and not one.attached_pic)
    index = build_index(source, stream.index, fps)
    color, _ = read_color(stream, {})
    pictures = read_keyframes(source, stream.index, index, stream.layout, color)
    if not pictures:
        raise ConversionError(f"{source}: not one keyframe decodes; there is nothing to look for text in.")
    boxes = find_overlays(pictures)
    bonnet = find_bonnet(pictures)
    drawn = draw(pictures[len(pictures) // 2], boxes)
    drawn = exclusion.draw(drawn, [bonnet] if bonnet else [])
    try:
        written = cv2.imwrite(str(target), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    except cv2.error:
        written = False
    if not written:
        raise InputError(f"{target}: cannot be written; name a .png or .jpg file in a folder that is there.")
    return boxes, bonnet

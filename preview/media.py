"""Media: a source that is opened once and shared by all tabs. It plans as `convert` plans, by the same function, and keeps what was found."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import Config
from models.model import Model
from pipeline.color import ColorSpec
from pipeline.index import VideoIndex
from pipeline.looks import Looks, Seen
from pipeline.plan import Plan, Track
from pipeline.planning import wrapped
from pipeline.prepare import make_plan
from pipeline.probe import StreamInfo, VideoInfo
from preview.sources import Source

Found = TypeVar("Found")


class KeptLooks(Looks):
    """Looks at each thing once; whoever asks while another looks waits for it. May be used by any thread."""

    def __init__(self) -> None:
        self._kept: dict[tuple, Future] = {}
        self._lock = threading.Lock()

    def probe(self, source: Path) -> VideoInfo:
        return self._once(("probe", source), lambda: super(KeptLooks, self).probe(source))

    def index(self, source: Path, stream_index: int, fps: Fraction | None, salvage: bool) -> VideoIndex:
        asked = (source, stream_index, fps, salvage)
        return self._once(("index", *asked), lambda: super(KeptLooks, self).index(*asked))

    def model(self, name: str) -> Model:
        return self._once(("model", name), lambda: super(KeptLooks, self).model(name))

    def keyframes(
        self,
        source: Path,
        stream: StreamInfo,
        index: VideoIndex,
        color: ColorSpec,
        given: list[list[int]],
        *,
        find: bool,
        judge: bool,
        bonnet: bool,
    ) -> Seen:
        if not (find or given or judge or bonnet):
            return Seen()
        key = ("keyframes", source, stream.index, color, str(given))
        look = super().keyframes
        all_of_it = {"find": True, "judge": True, "bonnet": True}
        seen = self._once(key, lambda: look(source, stream, index, color, given, **all_of_it))
        return Seen(
            seen.overlays if find or given else (), seen.bonnet if bonnet else None, seen.blocks if judge else 1.0
        )

    def _once(self, key: tuple, look: Callable[[], Found]) -> Found:
        with self._lock:
            future = self._kept.get(key)
            mine = future is None
            if future is None:
                future = self._kept[key] = Future()
        if mine:
            try:
                future.set_result(look())
            except BaseException as error:
                with self._lock:
                    del self._kept[key]
                future.set_exception(error)
                raise
        return future.result()


@dataclass(frozen=True)
class Planned:
    """A plan of the first video stream for some settings.

    exact: made as `convert` makes it, with a look at keyframes where it takes one
    lent: indices of the files "before" and "after" it in its drive, where they lend frames to smoothing
    """

    plan: Plan
    index: VideoIndex
    exact: bool
    lent: Mapping[str, VideoIndex] = field(default_factory=dict)

    @property
    def track(self) -> Track:
        """The stream that is shown."""
        return self.plan.tracks[0]

    def seconds(self, frame: int) -> float:
        """When a frame is shown, from the first one on."""
        ticks = int(self.index.frame_pts[frame] - self.index.frame_pts[0])
        return float(ticks * self.index.time_base)

    @property
    def path(self) -> Path:
        """The file that is decoded."""
        return Path(self.plan.source)


class Media:
    """A file, or pictures wrapped into one in a folder of its own that is removed at `close`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._looks = KeptLooks()
        self._looked: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._wrapped: tuple[str, Path] | None = None
        self._folder: tempfile.TemporaryDirectory | None = None
        self._lock = threading.Lock()

    def plan(self, config: Config, *, quick: bool = False) -> Planned:
        """quick: without the look at keyframes, as long as that was not taken. Raises InputError as make_plan does."""
        boxes = str(config.overlay.boxes)
        if quick and boxes in self._failed:
            raise self._failed[boxes]
        exact = not quick or self.looked(config)
        path, config = self._file(config if exact else _without_look(config))
        prepared = make_plan(path, self.source.output, config, looks=self._looks)
        if exact:
            self._looked.add(boxes)
        return Planned(prepared.plan, prepared.indices[0], exact, prepared.lent[0])

    def look(self, config: Config) -> None:
        """Take the look that an exact plan needs. Where it fails, the next plan says why."""
        try:
            self.plan(config)
        except Exception as error:  # noqa: BLE001 - raised by the next plan
            self._failed[str(config.overlay.boxes)] = error

    def looked(self, config: Config) -> bool:
        """Is all known that an exact plan needs?"""
        return _without_look(config) == config or str(config.overlay.boxes) in self._looked

    def close(self) -> None:
        """Remove what was made for it."""
        if self._folder is not None:
            self._folder.cleanup()

    def _file(self, config: Config) -> tuple[Path, Config]:
        """The file to read, and the settings that it is planned with: as for `convert`."""
        if self.source.run is None:
            return self.source.path, config
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="sunvisor_preview_")
            folder = Path(self._folder.name)
            if self._wrapped is not None and self._wrapped[0] == config.input.fps:
                return self._wrapped[1], _as_wrapped(config)
            path, config_for_it = wrapped(self.source.run, folder, config)
            self._wrapped = (config.input.fps, path)
            return path, config_for_it


def _as_wrapped(config: Config) -> Config:
    """The settings that `wrapped` gives, without writing the file again."""
    transfer = "srgb" if config.input.transfer == "auto" else config.input.transfer
    return _changed(config, "input", fps="auto", transfer=transfer)


def _without_look(config: Config) -> Config:
    """Settings that need no look at keyframes: neither text nor a bonnet is found, and no blocks are judged."""
    if "overlay" in config.stages:
        config = _changed(config, "overlay", find=False, boxes=[])
    if "denoise" in config.stages and config.denoise.strength is None:
        config = _changed(config, "denoise", strength=0.0)
    return _changed(config, "exclude", find=False)


def _changed(config: Config, section: str, **values: Any) -> Config:  # noqa: ANN401
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})

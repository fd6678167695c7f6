"""HDR-VDP-2 and HDR-VDP-3 (Mantiuk et al. 2011, 2023): MATLAB code that the user has, run by GNU Octave.

Neither the toolboxes nor Octave come with this project, and neither could be run where it was made: what is tested is how Octave is
called and how its answer is read. The toolboxes are at https://hdrvdp.sourceforge.net.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from pipeline.errors import ConversionError, InputError

Array = np.ndarray
PROGRAMS = (("octave-cli",), ("octave", "--no-gui"))
"""What Octave is called, best first: the one without windows may be absent."""
ENTRY = {2: "hdrvdp.m", 3: "hdrvdp3.m"}
"""Version -> file in the toolbox's folder that defines the function to call."""
CALL = {
    2: "hdrvdp(test, reference, 'rgb-bt.709', {ppd:.6g}, {{}})",
    3: "hdrvdp3('quality', test, reference, 'rgb-bt.709', {ppd:.6g}, {{}})",
}
ANSWER = re.compile(r"^sunvisor_q (\S+)$", re.MULTILINE)
SCRIPT = """\
1;
try
  pkg load image;
catch
end
addpath('{folder}');
function picture = load_picture(path)
  file = fopen(path, 'rb', 'ieee-le');
  picture = permute(reshape(fread(file, Inf, 'single=>double'), [3 {width} {height}]), [3 2 1]);
  fclose(file);
end
test = load_picture('{test}');
reference = load_picture('{reference}');
result = {call};
printf('sunvisor_q %.9g\\n', result.Q);
"""


class HdrVdp:
    """Quality of pictures by one of the two toolboxes: Q of HDR-VDP-2 (100 = best) or Q of HDR-VDP-3 (10 = best).

    version: 2 or 3. folder: the toolbox, where hdrvdp.m or hdrvdp3.m is. pixels_per_degree: of visual angle.
    Raises InputError when Octave is not on the PATH, or the folder is not that toolbox.
    """

    def __init__(self, version: int, folder: Path, pixels_per_degree: float = 30.0) -> None:
        self.version, self.folder, self.pixels_per_degree = version, Path(folder).absolute(), pixels_per_degree
        self.name = f"HDR-VDP-{version}"
        if not self.folder.is_dir():
            raise InputError(f"--hdrvdp{version} {folder}: no such folder; name the one that holds {ENTRY[version]}.")
        if not (self.folder / ENTRY[version]).is_file():
            raise InputError(
                f"--hdrvdp{version} {folder}: it holds no {ENTRY[version]}, so it is not {self.name}; get the toolbox from "
                "https://hdrvdp.sourceforge.net, unpack it, and name its folder."
            )
        self._program = _octave(self.name)

    def __call__(self, result: Array, truth: Array, name: str = "the picture") -> float:
        """Q of one picture in nits (H, W, 3), BT.709 primaries. `name` words the error. ConversionError when Octave gives no number."""
        with tempfile.TemporaryDirectory(prefix="sunvisor-hdrvdp-") as place:
            script = self.write_script(Path(place), result, truth)
            command = [*self._program, "--quiet", "--norc", str(script)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        found = ANSWER.search(done.stdout)
        if done.returncode or found is None:
            told = " ".join((done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-3:])
            raise ConversionError(f"{self.name} failed on {name} (octave ended with {done.returncode}): {told}")
        return float(found[1])

    def write_script(self, place: Path, result: Array, truth: Array) -> Path:
        """Put both pictures (float32, little-endian, R G B of each pixel in turn) and the script that reads them into `place`."""
        files = {"test": place / "test.f32", "reference": place / "reference.f32"}
        for path, picture in zip(files.values(), (result, truth), strict=True):
            path.write_bytes(np.ascontiguousarray(picture, "<f4").tobytes())
        height, width = truth.shape[:2]
        script = place / "run.m"
        call = CALL[self.version].format(ppd=self.pixels_per_degree)
        named = {key: _quoted(path) for key, path in files.items()}
        script.write_text(
            SCRIPT.format(folder=_quoted(self.folder), width=width, height=height, call=call, **named), "utf-8"
        )
        return script


def _octave(name: str) -> list[str]:
    for program, *options in PROGRAMS:
        path = shutil.which(program)
        if path:
            return [path, *options]
    raise InputError(
        f"{name} needs GNU Octave, and neither octave-cli nor octave is on the PATH; install it with its image package "
        "(for example `apt install octave octave-image`), or leave the option out."
    )


def _quoted(path: Path) -> str:
    """A path for between single quotes in Octave."""
    return str(path).replace("'", "''")

"""Deaths: what killed a worker, and which errors of a GPU leave a process that can do no more."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipeline.errors import SunvisorError

VMSTAT = Path("/proc/vmstat")
OWN_GROUP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
DEVICE_WORDS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "[CUDA]")
"""What errors of a GPU say that are plain RuntimeErrors: PyTorch's of old, its libraries', Triton's."""
MEMORY_ADVICE = "use a smaller reconstruct.tile_budget_bytes, fewer workers.per_gpu, or a GPU that nobody else uses."
DEVICE_ADVICE = (
    "the GPU's work of this process is lost, so the worker is made anew; when it happens again, look at the system's log (dmesg, Xid) "
    "and at the driver."
)


def kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started: of this process' control group (version 2) and those
    in it, or where there is none, of the whole machine. 0 where it does not tell."""
    for file in (*_group_events(), VMSTAT):
        with contextlib.suppress(OSError):
            words = file.read_text().split()
            if "oom_kill" in words:
                return int(words[words.index("oom_kill") + 1])
    return 0


def _group_events() -> list[Path]:
    """What tells of a control group of version 2, Linux' Documentation/admin-guide/cgroup-v2.rst: "0::", then its path."""
    try:
        lines = OWN_GROUP.read_text().splitlines()
    except OSError:
        return []
    return [GROUPS / line[3:].lstrip("/") / "memory.events" for line in lines if line.startswith("0::")]


def wears_out(error: BaseException) -> bool:
    """Did the GPU fail, or have no memory, in this error or in one that it came from? Then no later span of this process is to be trusted
    with it: after a CUDA error every call fails, and what is left of a full memory is in pieces."""
    return _is_memory(error) or _is_device(error) or (error.__cause__ is not None and wears_out(error.__cause__))


def advice(error: BaseException) -> str:
    """What to do about an error of a GPU, to be added to its message; empty for others, and for those that say it themselves."""
    if isinstance(error, SunvisorError):
        return ""
    if _is_memory(error):
        return MEMORY_ADVICE
    return DEVICE_ADVICE if _is_device(error) else ""


def _is_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")


def _is_device(error: BaseException) -> bool:
    named = any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)
    return named or (isinstance(error, RuntimeError) and any(word in str(error) for word in DEVICE_WORDS))

"""A function of tensors as a CUDA graph: recorded once, replayed with one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_CALLS = 2
"""Before the capture: the first compiles kernels and uploads tables, the second allocates as every later one does."""

Outputs = tuple[Tensor, ...]


class Graphed:
    """The same function, shapes fixed, without launching its kernels one by one.

    function: takes tensors on the device, returns tensors, and asks the host nothing on the way
    inputs: an example of what it takes
    stream: where to warm up and to record; a side stream
    Raises RuntimeError when the function cannot be captured, torch.cuda.OutOfMemoryError when its own memory pool does not fit.
    """

    def __init__(self, function: Callable[..., Outputs], inputs: tuple[Tensor, ...], stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            self._inputs = tuple(one.clone() for one in inputs)
            for _ in range(WARM_UP_CALLS):
                function(*self._inputs)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: an encoder or decoder in another thread may allocate meanwhile.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Queue it on the current stream, always the same one. The outputs are overwritten by the next call."""
        for own, one in zip(self._inputs, inputs, strict=True):
            own.copy_(one, non_blocking=True)
        self._graph.replay()
        return self._outputs

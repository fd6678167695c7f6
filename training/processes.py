"""Processes: one, or several that torchrun started, one a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import InputError

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first, which validates alone."""


class Summands(nn.Module):
    """A network whose forward gives both of its summands, so that DistributedDataParallel sees one forward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, coded: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) coded signal -> Net_T(I), Net_R(I) in the output encoding."""
        return self.network.parts(coded)  # type: ignore[operator]


@dataclass(frozen=True)
class Processes:
    """rank: which of `count` this process is; the first writes files. device: where it computes."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one logs, validates and saves."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with forward -> summands; gradients are averaged over processes when there are several."""
        summands = Summands(network)
        return DistributedDataParallel(summands) if self.count > 1 else summands

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the others that torchrun started (it sets RANK, WORLD_SIZE and LOCAL_RANK), if any. InputError when CUDA is wanted and missing."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: there is no CUDA device here; legal: auto, cpu, cuda.")
    cuda = device != "cpu" and torch.cuda.is_available()
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    if count == 1:
        yield Processes(0, 1, place)
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield Processes(rank, count, place)
    finally:
        dist.destroy_process_group()

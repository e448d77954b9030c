"""GPU memory: weights that are on the GPU only while they are used, and out of memory as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dubmill.errors import GpuMemoryError


@contextmanager
def copied_to(device: torch.device, module: torch.nn.Module) -> Iterator[None]:
    """Gives a frozen module a copy of its weights on `device` while open.

    The originals stay where they are, so nothing is copied back: 24 GB of text encoder take one transfer, not two.
    """
    originals = [
        (owner, name, tensor)
        for owner in module.modules()
        for name, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
    ]
    copies: dict[int, torch.Tensor] = {}  # by the original's id: tied weights stay one tensor
    try:
        for owner, name, tensor in originals:
            if id(tensor) not in copies:
                copy = tensor.detach().to(device)
                is_weight = isinstance(tensor, torch.nn.Parameter)
                copies[id(tensor)] = torch.nn.Parameter(copy, requires_grad=False) if is_weight else copy
            setattr(owner, name, copies[id(tensor)])
        yield
    finally:
        for owner, name, tensor in originals:
            setattr(owner, name, tensor)


@contextmanager
def explained_out_of_memory(work: str, cure: str) -> Iterator[None]:
    """Turns CUDA's out of memory inside it into a `GpuMemoryError` that says what was computed and what to change.

    Raises:
        GpuMemoryError: the GPU has too little memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise GpuMemoryError(
            f"the GPU ran out of memory while {work} ({str(error).split('. ')[0]})",
            cure=f"{cure}; `dubmill plan` counts what fits",
        ) from error

"""Where a part trains: a CUDA device with bfloat16 if there is one, else the CPU, in bfloat16 only where it has the instructions.

On a processor without them bfloat16 convolutions are emulated and a hundred times slower than float32 (measured: .3 against
30 GFLOP a second on one core of an AMD EPYC with AVX2).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch


def device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(place: torch.device) -> AbstractContextManager[object]:
    """bfloat16 for what may be narrow, where that is quick."""
    if place.type == "cuda" or _has_bfloat16_instructions():
        return torch.autocast(place.type, torch.bfloat16)
    return nullcontext()


def _has_bfloat16_instructions() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags

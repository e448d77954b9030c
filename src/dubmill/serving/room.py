"""How many clips fit the memory in one batch, by the counts of `dubmill plan` and the memory that is free."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil

from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import ClipSize
from dubmill.model.shapes import latent_shape
from dubmill.plan.architecture import load_architecture
from dubmill.plan.gpus import load_assumptions
from dubmill.plan.host import dub_pixel_bytes
from dubmill.plan.layers import Tokens
from dubmill.plan.memory import dub_clip_bytes
from dubmill.plan.work import num_dub_samples

if TYPE_CHECKING:
    import torch

    from dubmill.dubbing.dubber import Dubber

COUNTED_AS = "ltx-2-19b"  # of the published models the one with more activations for a token and a pixel
CGROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own


def room_for_clips(dubber: ClipDubber, size: ClipSize) -> Callable[[], int]:
    """A function that says how many clips of `size` fit the memory that is free when it is called, at least 1."""
    loaded = cast("Dubber", dubber)
    device, one_clip = loaded.modules.device, clip_bytes(loaded, size)
    return partial(_num_fitting, device, one_clip)


def clip_bytes(dubber: Dubber, size: ClipSize) -> float:
    """Bytes that each clip of a batch takes beside the weights, with the margin of `dubmill plan`."""
    modules, assumed = dubber.modules, load_assumptions()
    on_gpu = modules.device.type == "cuda"
    counted, config = load_architecture(COUNTED_AS), dict(modules.transformer.config)
    architecture = replace(
        counted,
        dtype="bfloat16" if on_gpu else "float32",
        modules={**counted.modules, "transformer": config},
    )
    shape = latent_shape(
        num_frames=size.num_frames,
        height=size.height,
        width=size.width,
        frame_rate=float(size.frame_rate),
        geometry=modules.geometry,
    )
    num_pixels = size.num_frames * size.height * size.width
    computing = dub_clip_bytes(
        architecture,
        Tokens(2 * shape.video_tokens, 2 * shape.audio, modules.max_text_tokens),
        num_pixels,
        num_samples=num_dub_samples(dubber.sampling, 1),
        caches_reference=dubber.mode.attention == "self",
    )
    return assumed.margin * computing if on_gpu else assumed.host_margin * (computing + dub_pixel_bytes(num_pixels))


def _num_fitting(device: torch.device, one_clip: float) -> int:
    return max(1, int(free_bytes(device) / one_clip))


def free_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on `device`: of a GPU with what PyTorch keeps unused, of a CPU within its container's limit."""
    if device.type == "cuda":
        import torch  # not above: the API process imports this module, and never needs it

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, container_bytes(CGROUP))


def container_bytes(cgroup: Path) -> float:
    """Bytes that the control group of this process may still allocate, where pages of files count as free; infinite without a limit."""
    with suppress(OSError, ValueError):  # no such file, or the word max
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return limit - used + int(statistics["inactive_file"]) + int(statistics["active_file"])
    return float("inf")

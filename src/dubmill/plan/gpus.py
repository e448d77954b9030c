"""Loads the table of GPUs, and what a plan assumes instead of counting."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.config.overlays import read_yaml
from dubmill.errors import UsageError
from dubmill.plan.architecture import HERE

MIB = 2**20
TABLE = HERE / "gpus.yaml"


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    name: str
    vram_bytes: int
    tflops: float  # dense bf16, the vendor's figure at second hand
    price: float  # US dollars per hour; 0 where none is known


@dataclass(frozen=True)
class Assumptions:
    """Quantities that a plan assumes, because they cannot be counted; see gpus.yaml."""

    slowest: float  # share of a GPU's `tflops` that is reached, at least
    fastest: float  # and at most
    context_bytes: float  # GPU memory of the CUDA context and libraries
    margin: float  # factor on GPU activations
    process_bytes: float  # CPU memory of one Python process with its libraries
    cuda_host_bytes: float  # CPU memory that CUDA adds to a process
    host_margin: float  # factor on CPU memory
    prices_of: str


def gpu_named(name: str) -> Gpu:
    """Returns the GPU of that name.

    Raises:
        UsageError: it is not in the table.
    """
    table = read_yaml(TABLE)["gpus"]
    if name not in table:
        raise UsageError(f"unknown GPU {name!r}", where="--gpu", cure=f"use one of {', '.join(table)}")
    row = table[name]
    return Gpu(name, row["vram_mib"] * MIB, row["tflops"], row.get("price", 0.0))


def all_gpus() -> list[Gpu]:
    """Returns all GPUs of the table, the one with the least memory first."""
    return sorted(map(gpu_named, read_yaml(TABLE)["gpus"]), key=lambda gpu: gpu.vram_bytes)


def load_assumptions() -> Assumptions:
    """Returns the assumptions of gpus.yaml, in bytes and factors."""
    values = read_yaml(TABLE)
    slowest, fastest = values["utilisation"]
    return Assumptions(
        slowest=slowest,
        fastest=fastest,
        context_bytes=values["context_mib"] * MIB,
        margin=values["margin"],
        process_bytes=values["process_mib"] * MIB,
        cuda_host_bytes=values["cuda_host_mib"] * MIB,
        host_margin=values["host_margin"],
        prices_of=values["prices_of"],
    )

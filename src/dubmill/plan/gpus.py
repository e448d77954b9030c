"""The GPUs that a plan knows, and what it assumes of them."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.config.overlays import read_yaml
from dubmill.errors import UsageError
from dubmill.plan.architecture import HERE

MIB = 2**20


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    name: str
    vram_bytes: int
    tflops: float  # dense bf16, as others quote the vendor
    price: float  # US dollars an hour; 0 where none is known


@dataclass(frozen=True)
class Assumptions:
    """What no count tells."""

    slowest: float  # share of a GPU's `tflops`
    fastest: float
    context_bytes: float
    margin: float
    prices_of: str


def gpu(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        UsageError: it is not in the table.
    """
    table = read_yaml(HERE / "gpus.yaml")["gpus"]
    if name not in table:
        raise UsageError(
            f"{name!r} is no GPU that the plan knows", where="--gpu", cure=f"use one of {', '.join(table)}"
        )
    row = table[name]
    return Gpu(name, row["vram_mib"] * MIB, row["tflops"], row.get("price", 0.0))


def gpus() -> list[Gpu]:
    """All of them, the smallest first."""
    return sorted(map(gpu, read_yaml(HERE / "gpus.yaml")["gpus"]), key=lambda one: one.vram_bytes)


def assumptions() -> Assumptions:
    """What the plan takes for granted."""
    values = read_yaml(HERE / "gpus.yaml")
    slowest, fastest = values["utilisation"]
    return Assumptions(slowest, fastest, values["context_mib"] * MIB, values["margin"], values["prices_of"])

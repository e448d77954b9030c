"""The optimizer of a LoRA, and its tensors in full or sharded over processes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from dubmill.config.training import TrainParams
from dubmill.errors import InvalidParamsError


def build_optimizer(
    weights: Mapping[str, torch.nn.Parameter], rates: Mapping[str, float], params: TrainParams, device: torch.device
) -> torch.optim.Optimizer:
    """Returns AdamW over named weights, with a group for each learning rate, which the group keeps as `full_rate`.

    Raises:
        InvalidParamsError: the 8-bit form cannot run here.
    """
    grouped = [
        {"params": [weights[name] for name in rates if rates[name] == rate], "full_rate": rate}
        for rate in dict.fromkeys(rates.values())
    ]
    if params.optimizer == "adamw":
        # on a GPU foreach would make temporaries as large as the gradients: 4.9 GB at rank 128 of LTX-2
        is_fused = device.type == "cuda"
        return torch.optim.AdamW(grouped, weight_decay=params.weight_decay, fused=is_fused, foreach=not is_fused)
    _refuse_8bit(params, device)
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports] (optional, for CUDA)

    return AdamW8bit(grouped, weight_decay=params.weight_decay)


def _refuse_8bit(params: TrainParams, device: torch.device) -> None:
    reasons = {
        "needs a CUDA GPU, and there is none": device.type != "cuda",
        "needs the package bitsandbytes, which is not installed": find_spec("bitsandbytes") is None,
        "cannot hold weights that are sharded over processes": params.parallel == "fsdp",
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise InvalidParamsError(f"adamw8bit {reason}", where="train.optimizer", cure="use adamw")


def count_weights(module: torch.nn.Module) -> tuple[int, int]:
    """Returns how many of a module's weights are in this process, and how many there are."""
    weights = list(module.parameters())
    local = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights)
    return sum(weight.numel() for weight in local), sum(weight.numel() for weight in weights)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the full tensor if it is sharded over processes, or the tensor itself; all processes must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(full: torch.Tensor, weight: torch.Tensor) -> Any:
    """Returns this process's part of a checkpoint's tensor, sharded as `weight` is; a step count of Adam8bit as a number."""
    if full.ndim == 0:  # a step count; fused AdamW wants it on the weight's device
        return full.to(weight.device) if full.is_floating_point() else full.item()
    placed = full.to(weight.device)
    if not isinstance(weight, DTensor):
        return placed
    return distribute_tensor(placed, weight.device_mesh, weight.placements, src_data_rank=None)

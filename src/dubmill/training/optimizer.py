"""The optimizer of a LoRA, and its tensors whole or spread over processes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from dubmill.config.params import TrainParams
from dubmill.errors import InvalidParamsError


def optimizer(
    weights: Mapping[str, torch.nn.Parameter], rates: Mapping[str, float], params: TrainParams, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW over named weights, one group for each different rate, which the group keeps as `full_rate`.

    Raises:
        InvalidParamsError: its 8-bit form was asked for where it cannot run.
    """
    grouped = [
        {"params": [weights[name] for name in rates if rates[name] == rate], "full_rate": rate}
        for rate in dict.fromkeys(rates.values())
    ]
    if params.optimizer == "adamw":
        return torch.optim.AdamW(grouped, weight_decay=params.weight_decay, foreach=True)
    _refuse_8bit(params, device)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(grouped, weight_decay=params.weight_decay)


def _refuse_8bit(params: TrainParams, device: torch.device) -> None:
    reasons = {
        "needs a CUDA GPU, and there is none": device.type != "cuda",
        "needs the package bitsandbytes, which is not installed": find_spec("bitsandbytes") is None,
        "cannot hold weights that are spread over processes": params.parallel == "fsdp",
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise InvalidParamsError(f"adamw8bit {reason}", where="train.optimizer", cure="use adamw")


def held(module: torch.nn.Module) -> tuple[int, int]:
    """How many of a module's weights this process holds, and how many there are."""
    weights = list(module.parameters())
    local = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights)
    return sum(weight.numel() for weight in local), sum(weight.numel() for weight in weights)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor gathered from all processes, where it is spread over them; all of them must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(full: torch.Tensor, weight: torch.Tensor) -> Any:
    """What this process holds of a checkpoint's tensor, laid out as `weight` is; a whole number is no tensor to Adam8bit."""
    if full.ndim == 0:
        return full if full.is_floating_point() else full.item()
    placed = full.to(weight.device)
    if not isinstance(weight, DTensor):
        return placed
    return distribute_tensor(placed, weight.device_mesh, weight.placements, src_data_rank=None)

"""Frozen linear layers whose weights lie in 8 bits: half of bf16's memory, computed in the dtype of what goes in.

A weight is a whole number from -127 to 127 times its row's scale, a row being all weights of one output. Only the linear
layers of the repeated blocks, where nearly all weights are, become such; norms, embeddings, modulation tables and what
stands around the blocks stay as they are, and so does a LoRA put on top. Why not fp8: docs/plan.md.

Axes: O outputs, I inputs.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.nn.functional import linear

from dubmill.errors import InvalidArtifactError

IN_A_BLOCK = re.compile(r"(transformer_blocks|language_model\.layers)\.\d+\.")
LARGEST = 127


class Int8Linear(torch.nn.Linear):
    """A linear layer made from another, to be used and passed gradients through, not trained.

    It stays a `torch.nn.Linear`, so that PEFT puts a LoRA on it. The weights are whole numbers, which `.to(dtype)` and
    PEFT leave alone; fp8's would be taken for a dtype to compute in.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)  # Linear's own would make weights
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight_OI = layer.weight.detach().float()
        scale_O = (weight_OI.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        whole_OI = (weight_OI / scale_O[:, None]).round().to(torch.int8)
        self.weight = torch.nn.Parameter(whole_OI, requires_grad=False)  # type: ignore[assignment]
        self.scale_O = torch.nn.Parameter(scale_O, requires_grad=False)
        self.bias = layer.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # noqa: D102 (Linear's)
        return _Product.apply(inputs, self.weight, self.scale_O, self.bias)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """inputs @ weights + bias, which keeps the 8-bit weights for the backward pass, not the wide ones made of them.

    The scale goes onto the outputs: fewer numbers than weights, and the product sees the whole numbers exactly.
    """

    @staticmethod
    def forward(  # noqa: D102 (Function's)
        ctx: Any, inputs: torch.Tensor, weight_OI: torch.Tensor, scale_O: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight_OI, scale_O)
        made = linear(inputs, weight_OI.to(inputs.dtype)).mul_(scale_O)
        return made if bias_O is None else made.add_(bias_O)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: D102 (Function's)
        weight_OI, scale_O = ctx.saved_tensors
        return (gradient * scale_O.to(gradient.dtype)) @ weight_OI.to(gradient.dtype), None, None, None


def block_linear_layers(module: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """The linear layers of a transformer's or a text encoder's blocks, by name."""
    named = module.named_modules()
    return {name: one for name, one in named if isinstance(one, torch.nn.Linear) and IN_A_BLOCK.search(name)}


def quantize_blocks(module: torch.nn.Module) -> None:
    """Put the linear layers of a module's blocks into 8 bits, where they are.

    Raises:
        InvalidArtifactError: a weight is not a finite number.
    """
    for name, layer in block_linear_layers(module).items():
        packed = Int8Linear(layer)
        if not torch.isfinite(packed.scale_O).all():
            raise InvalidArtifactError(f"the weights of {name} are not all finite", cure="fetch the backbone again")
        module.set_submodule(name, packed)

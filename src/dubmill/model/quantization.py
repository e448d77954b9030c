"""Int8 weight-only quantization of frozen linear layers: half of bf16's memory, computed in the dtype of the inputs.

A weight is a whole number from -127 to 127 times its row's scale; a row is all weights of one output. Only the linear
layers of the repeated blocks are quantized, where nearly all weights are; norms, embeddings, modulation tables, all layers
outside the blocks and a LoRA on top stay as they are. Why not fp8: docs/plan.md.

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
    """A linear layer with int8 weights, made from another layer; it passes gradients through but does not train.

    It stays a `torch.nn.Linear`, so that PEFT puts a LoRA on it. `.to(dtype)` and PEFT leave whole numbers alone; they
    would take an fp8 weight's dtype for one to compute in.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)  # Linear's own would allocate full weights
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight_OI = layer.weight.detach().float()
        scale_O = (weight_OI.abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        whole_OI = (weight_OI / scale_O[:, None]).round().to(torch.int8)
        self.weight = torch.nn.Parameter(whole_OI, requires_grad=False)
        self.scale_O = torch.nn.Parameter(scale_O, requires_grad=False)
        self.bias = layer.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns the layer's output in the dtype of `input`."""
        output: torch.Tensor = _Int8Product.apply(input, self.weight, self.scale_O, self.bias)
        return output


class _Int8Product(torch.autograd.Function):
    """inputs @ weights + bias; keeps the int8 weights for the backward pass instead of weights in the inputs' dtype.

    The outputs are multiplied by the scale, as there are fewer of them than weights, and the product is exact in the whole
    numbers.
    """

    @staticmethod
    def forward(  # noqa: D102 (Function's)
        ctx: Any, inputs: torch.Tensor, weight_OI: torch.Tensor, scale_O: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight_OI, scale_O)
        output = linear(inputs, weight_OI.to(inputs.dtype)).mul_(scale_O)
        return output if bias_O is None else output.add_(bias_O)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: D102 (Function's)
        (gradient,), (weight_OI, scale_O) = grad_outputs, ctx.saved_tensors
        return (gradient * scale_O.to(gradient.dtype)) @ weight_OI.to(gradient.dtype), None, None, None


def block_linear_layers(module: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Returns the linear layers of a transformer's or a text encoder's blocks, by name."""
    named = module.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, torch.nn.Linear) and IN_A_BLOCK.search(name)}


def quantize_blocks(module: torch.nn.Module) -> None:
    """Replaces the linear layers of a module's blocks with int8 ones.

    Raises:
        InvalidArtifactError: a weight is not a finite number.
    """
    for name, layer in block_linear_layers(module).items():
        quantized = Int8Linear(layer)
        if not torch.isfinite(quantized.scale_O).all():
            raise InvalidArtifactError(f"the weights of {name} are not all finite", cure="fetch the backbone again")
        module.set_submodule(name, quantized)

"""What the library uses of PEFT, with types for its functions."""

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.lora.config import LoraConfig as LoraConfig

def get_peft_model_state_dict(model: torch.nn.Module, *, adapter_name: str = ...) -> dict[str, torch.Tensor]: ...
def set_peft_model_state_dict(
    model: torch.nn.Module, peft_model_state_dict: Mapping[str, torch.Tensor], adapter_name: str = ...
) -> Any: ...
def __getattr__(name: str) -> Any: ...  # names that only other libraries use

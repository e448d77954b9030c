"""LoRA adapters: added to the transformer, saved and loaded, and exchanged with other tools.

lora      add to a transformer, learning rates by layer, save and attach; used by training and dubbing
naming    a layer's name in diffusers and in Lightricks' own checkpoints
exchange  export of a sealed adapter for diffusers or ComfyUI, and import of a LoRA file
"""

from dubmill.adapters.lora import (
    ADAPTER_NAME,
    WEIGHTS,
    ReferenceMode,
    add_lora,
    attach_adapter,
    facts_in_file,
    learning_rate_table,
    learning_rates,
    lora_bytes,
    lora_facts,
    lora_parameters,
    read_lora,
    reference_mode_of,
)

__all__ = [
    "ADAPTER_NAME",
    "WEIGHTS",
    "ReferenceMode",
    "add_lora",
    "attach_adapter",
    "facts_in_file",
    "learning_rate_table",
    "learning_rates",
    "lora_bytes",
    "lora_facts",
    "lora_parameters",
    "read_lora",
    "reference_mode_of",
]

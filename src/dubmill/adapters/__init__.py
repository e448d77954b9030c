"""LoRA adapters: added to the transformer, read, written, and handed to other tools.

lora      add, group by learning rate, save and attach; what training and dubbing use
naming    a layer's name in diffusers and in Lightricks' own checkpoints
exchange  a sealed adapter as a folder for diffusers or ComfyUI, and their file as a sealed adapter
"""

from dubmill.adapters.lora import (
    NAME,
    WEIGHTS,
    add,
    attach,
    facts,
    group_table,
    groups,
    parameters,
    read,
    to_bytes,
    trained_as,
)

__all__ = [
    "NAME",
    "WEIGHTS",
    "add",
    "attach",
    "facts",
    "group_table",
    "groups",
    "parameters",
    "read",
    "to_bytes",
    "trained_as",
]

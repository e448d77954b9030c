"""Full-size modules at work on torch's meta device: bytes that would be alive, without any of them.

Attention is the kernel that a GPU takes (it keeps no score matrix), and linear layers work in bf16, as under autocast.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dubmill.plan.layers import Tokens

BF16 = torch.bfloat16


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made while it is on: now, and at the peak."""

    def __init__(self, known):
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._forget, storage._cdata)
        return out

    def _forget(self, key):
        self.now -= self.sizes.pop(key, 0)


def _attention(query, key, value, attn_mask=None, **_):
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False)[0]
    mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, mask, True)[0]


@contextmanager
def as_on_a_gpu(monkeypatch):
    """While open, attention and linear layers are those of a GPU under bf16 autocast."""
    linear = torch.nn.functional.linear

    def in_bf16(tokens, weight, bias=None):
        return linear(tokens.to(BF16), weight.to(BF16), None if bias is None else bias.to(BF16))

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "scaled_dot_product_attention", _attention)
        patched.setattr(torch.nn.functional, "linear", in_bf16)
        yield


def arguments(transformer, tokens: Tokens, dtype=BF16, device="meta"):
    """What the transformer's forward takes for one sample of `tokens`, every token with a noise level of its own."""
    config = transformer.config
    video, audio = config.cross_attention_dim, config.audio_cross_attention_dim
    if config.use_prompt_embeddings:
        video = audio = config.caption_channels

    def empty(*shape, kind=dtype):
        return torch.zeros(1, *shape, dtype=kind, device=device)

    full = torch.float32
    return {
        "hidden_states": empty(tokens.video, config.in_channels),
        "audio_hidden_states": empty(tokens.audio, config.audio_in_channels),
        "encoder_hidden_states": empty(tokens.text, video),
        "audio_encoder_hidden_states": empty(tokens.text, audio),
        "timestep": empty(tokens.video, kind=full),
        "audio_timestep": empty(tokens.audio, kind=full),
        "sigma": empty(kind=full),
        "audio_sigma": empty(kind=full),
        "encoder_attention_mask": empty(tokens.text, kind=full),
        "audio_encoder_attention_mask": empty(tokens.text, kind=full),
        "video_coords": empty(3, tokens.video, 2, kind=full),
        "audio_coords": empty(1, tokens.audio, 2, kind=full),
        "use_cross_timestep": bool(transformer.prompt_modulation),
        "return_dict": False,
    }


def loss_of(transformer, inputs):
    """A number that depends on all that comes out."""
    video, audio = transformer(**inputs)
    return video.float().pow(2).mean() + audio.float().pow(2).mean()

"""Captions to the text features that an LTX-2 transformer attends to: text encoder, then connectors.

Axes: B batch, T text tokens, D numbers per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import Gemma3ForConditionalGeneration

from dubmill.model.memory import copied_to, explained_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dubmill.model.load import Modules

CURE = "set DUBMILL_TEXT_ENCODER=cpu or backbone.text_encoder_bits: 8"
TOKENS_PER_BATCH = 2048
"""Text tokens per pass of the text encoder. All hidden states of Gemma 3 12B take 0.4 MB per token in bf16."""


@dataclass(frozen=True)
class TextFeatures:
    """Captions as the transformer's cross-attention reads them, one row per caption."""

    video_BTD: torch.Tensor
    audio_BTD: torch.Tensor
    mask_BT: torch.Tensor

    def __len__(self) -> int:
        return len(self.mask_BT)

    def pick(self, index: torch.Tensor | Sequence[int]) -> TextFeatures:
        """Returns the rows of `index`, which may repeat."""
        rows = torch.as_tensor(index)
        return TextFeatures(self.video_BTD[rows], self.audio_BTD[rows], self.mask_BT[rows])

    def to(self, device: torch.device) -> TextFeatures:
        """Returns the same features on a device."""
        return TextFeatures(self.video_BTD.to(device), self.audio_BTD.to(device), self.mask_BT.to(device))


def concatenate(features: Sequence[TextFeatures]) -> TextFeatures:
    """Returns the rows of all `features`, in order."""
    return TextFeatures(
        torch.cat([one.video_BTD for one in features]),
        torch.cat([one.audio_BTD for one in features]),
        torch.cat([one.mask_BT for one in features]),
    )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns token ids and attention mask (B, T) of captions, padded on the left to `max_tokens`."""
    encoding = tokenizer(
        [caption.strip() for caption in captions],
        padding="max_length",
        padding_side="left",
        max_length=max_tokens,
        truncation=True,
        return_tensors="pt",
    )
    return encoding["input_ids"], encoding["attention_mask"]


def hidden_states(text_encoder: Any, token_ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Returns the hidden states of all layers of a text encoder, side by side: (B, T, width x layers).

    Gemma 3 is run without its language-model head, whose logits (262,144 numbers per token) nobody reads.
    """
    model = text_encoder
    if isinstance(text_encoder, Gemma3ForConditionalGeneration):
        model = text_encoder.model.language_model
    states = model(input_ids=token_ids_BT, attention_mask=mask_BT, output_hidden_states=True, use_cache=False)
    return torch.stack(states.hidden_states, dim=-1).flatten(2)


@torch.no_grad()
def caption_batches(captions: Sequence[str], modules: Modules) -> Iterator[TextFeatures]:
    """Yields the text features of captions, in order, in batches that the text encoder has room for.

    The text encoder is on the GPU only until the last batch is taken.
    """
    batch_size = max(1, TOKENS_PER_BATCH // modules.max_text_tokens)
    encoder, device = modules.text_encoder, modules.text_encoder_device
    with copied_to(device, encoder), explained_out_of_memory("encoding captions", CURE):
        for start in range(0, len(captions), batch_size):
            batch = captions[start : start + batch_size]
            token_ids_BT, mask_BT = tokenize(modules.tokenizer, batch, modules.max_text_tokens)
            states = hidden_states(encoder, token_ids_BT.to(device), mask_BT.to(device))
            states = states.to(modules.device, modules.dtype)
            yield TextFeatures(*modules.connectors(states, mask_BT.to(modules.device), padding_side="left"))


def encode_captions(captions: Sequence[str], modules: Modules) -> TextFeatures:
    """Returns the text features of captions, a row for each; equal captions are encoded once."""
    unique = list(dict.fromkeys(captions))
    features = concatenate(list(caption_batches(unique, modules)))
    row_of = {caption: row for row, caption in enumerate(unique)}
    return features.pick([row_of[caption] for caption in captions])

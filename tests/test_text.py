"""Text features: bounded batches, no logits, each caption once, and a text encoder that visits the GPU."""

import pytest
import torch
from doubles import miniature

from dubmill.generation.sampling import encode_prompts
from dubmill.model import text
from dubmill.model.text import caption_batches, encode_captions

CAPTIONS = ["A person is speaking Spanish", "one two", "uno", "A person", "one two"]


@pytest.fixture
def passes(mini):
    """The batch sizes of the text encoder's passes."""
    sizes = []
    model = mini.text_encoder.model.language_model
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    yield sizes
    hook.remove()


def test_batches_are_bounded_by_tokens_and_give_what_single_captions_give(mini, passes, monkeypatch):
    """Trap: 64 captions of 1,024 tokens keep 25 GB of hidden states."""
    monkeypatch.setattr(text, "TOKENS_PER_BATCH", 2 * miniature.TEXT_TOKENS)
    together = encode_captions(CAPTIONS, mini)
    assert max(passes) == 2
    for row, caption in enumerate(CAPTIONS):
        alone = encode_captions([caption], mini)
        assert torch.allclose(together.video_BTD[row], alone.video_BTD[0], atol=1e-5)
        assert torch.allclose(together.audio_BTD[row], alone.audio_BTD[0], atol=1e-5)


def test_a_caption_longer_than_a_batch_is_still_encoded(mini, passes, monkeypatch):
    monkeypatch.setattr(text, "TOKENS_PER_BATCH", 1)
    assert len(encode_captions(["one", "two"], mini)) == 2
    assert passes == [1, 1]


def test_equal_captions_are_encoded_once(mini, passes):
    features = encode_captions(CAPTIONS * 3, mini)
    assert sum(passes) == len(set(CAPTIONS))
    assert torch.equal(features.video_BTD[1], features.video_BTD[4])
    assert len(features) == 15


def test_no_logits_are_computed(mini):
    """Trap: 64 captions of 1,024 tokens would make 34 GB of logits that nobody reads."""

    def refuse(*args):
        raise AssertionError("the language-model head ran")

    hook = mini.text_encoder.lm_head.register_forward_pre_hook(refuse)
    try:
        encode_captions(["one"], mini)
    finally:
        hook.remove()


def test_features_come_batch_by_batch(mini, monkeypatch):
    monkeypatch.setattr(text, "TOKENS_PER_BATCH", miniature.TEXT_TOKENS)
    assert [len(batch) for batch in caption_batches(["one", "two"], mini)] == [1, 1]


def test_the_headless_model_gives_the_states_of_the_whole_one(mini):
    ids, mask = text.tokenize(mini.tokenizer, CAPTIONS[:2], miniature.TEXT_TOKENS)
    with torch.no_grad():
        whole = mini.text_encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        assert torch.equal(text.hidden_states(mini.text_encoder, ids, mask), torch.stack(whole, dim=-1).flatten(2))


def test_the_negative_and_the_empty_prompt_come_with_the_captions(mini):
    prompts = encode_prompts(["one", "two"], mini, negative="uno")
    expected = encode_captions(["one", "two", "uno", ""], mini)
    assert torch.equal(prompts.captions.video_BTD, expected.video_BTD[:2])
    assert torch.equal(prompts.negative.video_BTD, expected.video_BTD[2:3])
    assert torch.equal(prompts.empty.audio_BTD, expected.audio_BTD[3:])

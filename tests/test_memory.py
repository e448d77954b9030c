"""GPU memory: weights that visit a device, and out of memory as a sentence with a cure."""

from dataclasses import replace

import pytest
import torch
from doubles import miniature

from dubmill.errors import GpuMemoryError
from dubmill.generation.sampling import build_pipeline, encode_prompts, sample
from dubmill.generation.seeds import generators
from dubmill.model import text
from dubmill.model.latents import decode_pixels
from dubmill.model.load import device_of
from dubmill.model.memory import copied_to, explained_out_of_memory
from dubmill.model.quantization import Int8Linear
from dubmill.model.shapes import LatentShape

NO_ROOM = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


def out_of_memory(*args, **options):
    raise torch.OutOfMemoryError(NO_ROOM)


@pytest.mark.parametrize("kind", [torch.nn.Linear, lambda *size: Int8Linear(torch.nn.Linear(*size))])
def test_weights_visit_a_device_and_the_originals_stay(kind):
    """The meta device stands for a GPU."""
    layer = kind(4, 4).requires_grad_(False)
    before = {name: value.data_ptr() for name, value in layer.named_parameters()}
    with copied_to(torch.device("meta"), layer):
        assert {value.device.type for value in layer.parameters()} == {"meta"}
    assert {name: value.data_ptr() for name, value in layer.named_parameters()} == before


def test_the_originals_come_back_after_a_failure():
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    with pytest.raises(KeyError), copied_to(torch.device("meta"), layer):
        raise KeyError
    assert layer.weight.device.type == "cpu"


def test_the_text_encoder_is_on_the_device_only_while_it_encodes(mini, monkeypatch):
    """Trap: 24 GB of text encoder lie on the GPU while the transformer denoises."""
    visits, copy = [], text.copied_to

    def watch(device, module):
        visits.append(device.type)
        return copy(torch.device("cpu"), module)

    monkeypatch.setattr(text, "copied_to", watch)
    text.encode_captions(["one"], replace(mini, device=torch.device("cpu")))
    monkeypatch.setenv("DUBMILL_TEXT_ENCODER", "cpu")
    assert visits == ["cpu"]
    assert replace(mini, device=torch.device("cuda")).text_encoder_device.type == "cpu"
    monkeypatch.setenv("DUBMILL_TEXT_ENCODER", "")
    assert replace(mini, device=torch.device("cuda")).text_encoder_device.type == "cuda"
    assert device_of("text_encoder", torch.device("cuda"), ["text_encoder"]).type == "cpu"


def test_out_of_memory_says_what_ran_and_what_to_change():
    with pytest.raises(GpuMemoryError) as caught, explained_out_of_memory("denoising", "lower batch_size"):
        out_of_memory()
    assert "denoising" in caught.value.what
    assert "Tried to allocate" in caught.value.what or "out of memory" in caught.value.what
    assert caught.value.cure.startswith("lower batch_size")
    assert "dubmill plan" in caught.value.cure
    assert "\n" not in caught.value.sentence


def test_other_errors_pass():
    with pytest.raises(ValueError, match="^x$"), explained_out_of_memory("denoising", "lower batch_size"):
        raise ValueError("x")


def test_a_transformer_a_decoder_and_a_text_encoder_without_room_give_that_error(mini, monkeypatch):
    prompts = encode_prompts(["one"], mini, negative="")
    pipe, one_step, shape = build_pipeline(mini), miniature.plain_sampling(1), LatentShape(3, 2, 3, 17)
    with monkeypatch.context() as patched:
        patched.setattr(type(mini.transformer), "forward", out_of_memory)
        with pytest.raises(GpuMemoryError) as caught:
            sample(pipe, one_step, prompts, generators([0]), shape, 25.0)
    assert "transformer_bits" in caught.value.cure
    with monkeypatch.context() as patched:
        patched.setattr(mini.vae, "decode", out_of_memory)
        with pytest.raises(GpuMemoryError) as caught:
            decode_pixels(torch.zeros(1, 128, 2, 2, 2), mini.vae)
    assert "height" in caught.value.cure
    with monkeypatch.context() as patched:
        patched.setattr(text, "hidden_states", out_of_memory)
        with pytest.raises(GpuMemoryError) as caught:
            text.encode_captions(["one"], mini)
    assert "DUBMILL_TEXT_ENCODER=cpu" in caught.value.cure


def test_tied_weights_are_copied_once():
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 2), "head": torch.nn.Linear(2, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    with copied_to(torch.device("meta"), model):
        assert model["head"].weight is model["embed"].weight
    assert model["head"].weight is model["embed"].weight
    assert model["head"].weight.device.type == "cpu"

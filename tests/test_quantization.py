"""Weights in 8 bits: what is packed and what is not, how far it is off, that a LoRA trains on it, and what it weighs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import meta_memory, miniature, noise_pairs

from dubmill import adapters
from dubmill.artifacts.files import LOSSES_FILE
from dubmill.artifacts.rows import Line
from dubmill.config import params
from dubmill.dubbing.dubber import Dubber
from dubmill.errors import BackboneMismatchError, InvalidArtifactError
from dubmill.launching import train_together
from dubmill.model import quantization
from dubmill.model.load import load
from dubmill.model.quantization import Int8Linear
from dubmill.model.text import encode_captions
from dubmill.plan.architecture import load_architecture
from dubmill.plan.layers import Tokens
from dubmill.plan.memory import FP32, NOT_QUANTIZED, weight_bytes
from dubmill.steps.train import train
from dubmill.worlds.materialize import materialize

ROOT = Path(__file__).parents[1]
PARTS = ("transformer", "text_encoder")
PARAMS = noise_pairs.PARAMS.model_copy(update={"dropout": 0.0, "num_steps": 3})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The miniature, both parts in 8 bits."""
    return miniature.backbone(tmp_path_factory.mktemp("packed") / "backbone", in_8_bits=PARTS)


@pytest.fixture(scope="module")
def packed(backbone):
    return load(backbone)


@pytest.fixture(scope="module")
def latents(backbone, packed, tmp_path_factory):
    return noise_pairs.latents(backbone, packed, tmp_path_factory.mktemp("latents") / "latents")


@pytest.fixture(scope="module")
def adapter(backbone, latents, tmp_path_factory):
    return train(backbone, latents, PARAMS, tmp_path_factory.mktemp("trained") / "adapter")


def relative(found, expected):
    """How far one tensor is from another, in units of the other's size."""
    return float((found - expected).detach().norm() / expected.detach().norm())


def losses(adapter):
    return [json.loads(row)["total"] for row in (adapter.path / LOSSES_FILE).read_text().splitlines()]


@pytest.mark.parametrize(("part", "per_block"), [("transformer", 28), ("text_encoder", 7)])
def test_the_linear_layers_of_the_blocks_are_quantized_and_all_else_is_as_it_was(part, per_block, mini, packed):
    plain, small = getattr(mini, part), getattr(packed, part)
    layers = {name for name, one in small.named_modules() if isinstance(one, Int8Linear)}
    config = plain.config if part == "transformer" else plain.config.text_config
    num_blocks = config.num_layers if part == "transformer" else config.num_hidden_layers
    assert len(layers) == per_block * num_blocks
    held = dict(small.named_parameters())
    for name, value in plain.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if layer in layers and leaf == "weight":
            assert held[name].dtype == torch.int8
        else:
            assert torch.equal(held[name], value), name
    outside = ("norm", "proj_in", "proj_out", "time_embed", "caption_projection", "embed_tokens", "lm_head", "vision")
    assert not [name for name in layers if any(word in name for word in outside)]
    assert small.dtype == plain.dtype == torch.float32


def test_only_the_parts_that_a_step_needs_are_loaded(backbone):
    modules = load(backbone, needed=["transformer"])
    assert set(modules.parts) == {"transformer"}
    assert any(isinstance(layer, Int8Linear) for layer in modules.transformer.modules())


def test_a_weight_is_off_by_half_a_step_of_its_row_at_most_whatever_its_size():
    """fp8 as it is has no number over 448, and only multiples of 0.002 under 0.016."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 5)
    layer.weight.data *= torch.tensor([1.0, 1e-4, 0.0, 1e4, 1e30])[:, None]
    small = Int8Linear(layer)
    restored_OI = small.weight.float() * small.scale_O[:, None]
    assert torch.isfinite(restored_OI).all()
    gap_O = (restored_OI - layer.weight).abs().amax(dim=1)
    assert (gap_O <= 0.501 * layer.weight.abs().amax(dim=1) / 127).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_those_of_the_restored_weights(dtype):
    torch.manual_seed(0)
    small = Int8Linear(torch.nn.Linear(32, 16).to(dtype))
    inputs = torch.randn(2, 3, 32, dtype=dtype, requires_grad=True)
    twin = inputs.detach().float().requires_grad_()
    made = small(inputs)
    expected = torch.nn.functional.linear(twin, small.weight.float() * small.scale_O[:, None], small.bias.float())
    made.float().pow(2).sum().backward()
    expected.pow(2).sum().backward()
    assert made.dtype == inputs.grad.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert relative(made.float(), expected) < tolerance
    assert relative(inputs.grad.float(), twin.grad) < tolerance


def test_under_autocast_the_product_is_bf16s_and_the_gradient_has_the_inputs_dtype():
    small = Int8Linear(torch.nn.Linear(32, 16))
    inputs = torch.ones(2, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        made = small(inputs)
    made.float().sum().backward()
    assert (made.dtype, inputs.grad.dtype) == (torch.bfloat16, torch.float32)
    assert relative(made.float(), small(inputs)) < 2e-2


def test_the_backward_pass_waits_with_the_8_bit_weights_not_with_wide_ones():
    small, kept = Int8Linear(torch.nn.Linear(256, 256)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        small(torch.randn(1, 256, requires_grad=True))
    assert {one.dtype for one in kept} == {torch.int8, torch.float32}
    assert sum(one.nbytes for one in kept) == 256 * 256 + 4 * 256


def test_weights_that_are_no_numbers_are_refused():
    model = torch.nn.ModuleDict(
        {"transformer_blocks": torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 2))])}
    )
    model["transformer_blocks"][0][0].weight.data[0, 0] = torch.nan
    with pytest.raises(InvalidArtifactError, match=r"transformer_blocks\.0\.0"):
        quantization.quantize_blocks(model)


def test_a_training_step_gives_gradients_to_the_lora_alone_and_nearly_those_of_16_bits(mini_backbone, backbone):
    gradients = []
    for one in (mini_backbone, backbone):
        transformer = load(one, needed=["transformer"]).transformer
        torch.manual_seed(1)
        adapters.add_lora(transformer, rank=4, alpha=4, dropout=0.0, targets=PARAMS.targets)
        lora = adapters.lora_parameters(transformer)
        assert {value.dtype for value in lora.values()} == {torch.float32}
        for value in lora.values():
            value.data.normal_(std=0.05)
        inputs = meta_memory.arguments(transformer, Tokens(12, 8, 16), dtype=torch.float32, device="cpu")
        for name in ("hidden_states", "audio_hidden_states", "encoder_hidden_states", "audio_encoder_hidden_states"):
            inputs[name].normal_()
        meta_memory.loss_of(transformer, inputs).backward()
        trained = {name for name, value in transformer.named_parameters() if value.grad is not None}
        assert trained == set(lora)
        gradients.append(torch.cat([value.grad.flatten() for value in lora.values()]))
    assert relative(gradients[1], gradients[0]) < 0.05


def test_a_lora_on_8_bits_is_put_into_the_dtype_that_the_modules_compute_in(backbone, adapter):
    modules = replace(load(backbone, needed=["transformer"]), dtype=torch.bfloat16)
    adapters.attach_adapter(modules, backbone, adapter, 1.0)
    lora = [value for name, value in modules.transformer.named_parameters() if "lora_" in name]
    assert {value.dtype for value in lora} == {torch.bfloat16}


def test_an_adapter_of_8_bits_is_refused_on_16(mini_backbone, mini, adapter):
    with pytest.raises(BackboneMismatchError):
        adapters.attach_adapter(mini, mini_backbone, adapter, 1.0)


def test_training_and_dubbing_run_on_8_bits_as_on_16(backbone, adapter, latents, tmp_path):
    """Checkpointing computes the blocks again, which must give the same."""
    checkpointed = PARAMS.model_copy(update={"gradient_checkpointing": True})
    again = train(backbone, latents, checkpointed, tmp_path / "again")
    assert losses(again) == losses(adapter)
    dubber = Dubber.load(backbone, adapter, sampling=miniature.sampling(video_guidance=2.0))
    clip = miniature.clip()
    dubbed = dubber.dub(clip, line=Line(language="es", text="uno dos"), seed=1)
    assert dubbed.frames_FHWC.shape == clip.frames_FHWC.shape
    assert np.isfinite(dubbed.audio_CN).all()


def test_quantized_weights_can_be_sharded_over_processes(backbone, latents, adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spread = PARAMS.model_copy(update={"parallel": "fsdp"})
    shared = train_together(backbone, latents, spread, tmp_path / "fsdp", num_processes=2)
    np.testing.assert_allclose(losses(shared), losses(adapter), rtol=1e-4)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """nano's modules in 16 bits (float32 here) and in 8."""
    values = params.load(ROOT / "params.yaml").backbone
    folder = tmp_path_factory.mktemp("nano")
    small = values.model_copy(update={"transformer_bits": 8, "text_encoder_bits": 8})
    return [load(materialize(one, folder / name)) for one, name in ((values, "wide"), (small, "small"))]


def test_the_bytes_of_nanos_weights_are_those_that_the_plan_counts(nano):
    architecture = load_architecture("nano")
    for modules, in_8_bits in zip(nano, (False, True), strict=True):
        for part in PARTS:
            held = sum(value.nbytes for value in getattr(modules, part).parameters())
            packed = architecture.int8_layers[part] if in_8_bits else NOT_QUANTIZED
            assert held == weight_bytes(architecture.parameters[part], packed, FP32), part


def test_nanos_features_and_velocities_are_within_3_percent(nano):
    wide, small = nano
    text = [encode_captions(["A person is speaking"], modules) for modules in nano]
    assert relative(text[1].video_BTD, text[0].video_BTD) < 0.03
    torch.manual_seed(0)
    inputs = meta_memory.arguments(wide.transformer, Tokens(32, 16, 32), dtype=torch.float32, device="cpu")
    for name in ("hidden_states", "audio_hidden_states"):
        inputs[name].normal_()
    inputs["encoder_hidden_states"], inputs["audio_encoder_hidden_states"] = text[0].video_BTD, text[0].audio_BTD
    inputs |= {"timestep": inputs["timestep"] + 500.0, "audio_timestep": inputs["audio_timestep"] + 500.0}
    inputs["encoder_attention_mask"] = inputs["audio_encoder_attention_mask"] = text[0].mask_BT
    with torch.no_grad():
        made = [modules.transformer(**inputs) for modules in nano]
    for found, expected in zip(made[1], made[0], strict=True):
        assert relative(found, expected) < 0.03

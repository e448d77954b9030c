"""The dubber on the miniature: how it reads an adapter, the first frame, the second stage."""

import numpy as np
import pytest
import torch
from doubles import miniature
from safetensors.torch import load_file

from dubmill import adapters
from dubmill.adapters import reference_mode_of
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter
from dubmill.config.params import SynthesizeParams
from dubmill.dubbing.dubber import Dubber, half_size
from dubmill.errors import InvalidArtifactError, InvalidParamsError
from dubmill.generation.codec import encode_clips
from dubmill.generation.sampling import generate_clips
from dubmill.model.conditioning import ReferenceMode
from dubmill.model.load import PIPELINE, UPSAMPLER, load
from dubmill.model.loras import DISTILLED, DISTILLED_FOLDER, load_for_sampling

LINE = Line(language="es", text="uno dos")
TARGETS = ["to_q", "to_v", "to_out.0"]
LATER = {"sigmas": [0.909375, 0.421875], "keep_adapter": True, "lora": "none"}


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    """A backbone with a latent upsampler and a distilled LoRA."""
    out = tmp_path_factory.mktemp("doubling") / "backbone"
    return miniature.backbone(out, has_upsampler=True, distilled_lora=miniature.lora_file())


def lora(transformer, seed):
    """A LoRA that does something, as bytes; the layers are left on the transformer."""
    adapters.add_lora(transformer, rank=2, alpha=8.0, dropout=0.0, targets=TARGETS)
    torch.manual_seed(seed)
    for value in adapters.lora_parameters(transformer).values():
        torch.nn.init.normal_(value, std=0.5)


def an_adapter(out, backbone, metadata, **info):
    """An untrained adapter that moves everything, sealed with this info."""
    transformer = load(backbone).transformer
    lora(transformer, 3)
    draft = Adapter.draft(out, Lineage(step="train", params={}, backbone=backbone.digest))
    draft.write(adapters.WEIGHTS, adapters.lora_bytes(transformer, metadata))
    return draft.seal({"rank": 2, "alpha": 8.0, "targets": TARGETS, "isolate_modalities": True, **info})


@pytest.fixture(scope="module")
def adapter(doubling, tmp_path_factory):
    told = {"reference_positions": "negative", "reference_attention": "self"}
    return an_adapter(tmp_path_factory.mktemp("adapter") / "adapter", doubling, told, **told)


def test_a_dub_reads_its_reference_as_the_adapter_was_trained_to(doubling, adapter):
    dubber = Dubber.load(doubling, adapter, sampling=miniature.sampling(video_guidance=2.0))
    assert dubber.mode == ReferenceMode("negative", "self", isolate_modalities=True)
    seen = []
    block = dubber.modules.transformer.transformer_blocks[0]
    hook = block.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(len(output[0])), with_kwargs=True
    )
    clip = miniature.clip()
    dubbed = dubber.dub(clip, line=LINE, seed=1)
    hook.remove()
    assert dubbed.frames_FHWC.shape == clip.frames_FHWC.shape
    assert seen == [1, 2, 2]  # the reference once, then both halves of guidance at each step


def test_an_adapter_that_does_not_tell_how_it_reads_its_reference_is_older_and_reads_it_in_full(doubling, tmp_path):
    old = an_adapter(tmp_path / "adapter", doubling, {}, reference_positions="shared")
    assert reference_mode_of(old).attention == "full"


@pytest.mark.parametrize("name", ["reference_positions", "reference_attention"])
def test_an_adapter_whose_weights_and_manifest_disagree_is_refused(doubling, tmp_path, name):
    """Trap: an adapter used at positions, or with an attention, that it was not trained with."""
    told = {"reference_positions": "negative", "reference_attention": "full"}
    other = told | {name: {"reference_positions": "shared", "reference_attention": "self"}[name]}
    mixed = an_adapter(tmp_path / "adapter", doubling, told, **other)
    with pytest.raises(InvalidArtifactError, match=f"{name} '{told[name]}'"):
        Dubber.load(doubling, mixed, sampling=miniature.sampling())


@pytest.mark.parametrize("is_asked", [True, False])
def test_the_sources_first_frame_is_the_dubs_where_params_say_so(doubling, is_asked):
    clip, sigmas = miniature.clip(), []
    dubber = Dubber.load(doubling, None, sampling=miniature.sampling(num_steps=1, first_frame=is_asked))
    dubber.modules.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: sigmas.append((kwargs["timestep"][0], kwargs["hidden_states"][0])),
        with_kwargs=True,
    )
    dubber.dub(clip, line=LINE, seed=1)
    (timesteps, tokens), first = sigmas[0], 2 * 3  # rows and columns of latents in 64 x 96 pixels
    source = encode_clips([clip], dubber.modules).video_BSD[0]
    assert (timesteps[:first] == 0).all() == is_asked
    assert torch.equal(tokens[:first], source[:first]) == is_asked
    assert (timesteps[first : len(source)] > 0).all()


def test_progress_is_reported_over_both_stages(doubling):
    told = []
    dubber = Dubber.load(doubling, None, sampling=miniature.sampling(second_stage=LATER))
    dubber.dub(miniature.clip(height=128, width=128), line=LINE, seed=1, progress=told.append)
    assert told == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_the_second_stage_doubles_the_picture_and_leaves_the_sound_as_the_first_made_it(doubling, adapter):
    dubber = Dubber.load(doubling, adapter, sampling=miniature.sampling(second_stage=LATER))
    calls, run = [], dubber.pipeline.__call__

    def watch(*args, **asked):
        made = run(*args, **asked)
        calls.append((asked, made))
        return made

    dubber.pipeline = watched(dubber.pipeline, watch)
    clip = miniature.clip(height=128, width=192)
    dubbed = dubber.dub(clip, line=LINE, seed=1)
    (first, rough), (second, fine) = calls
    assert (first["height"], first["width"], second["height"], second["width"]) == (64, 96, 128, 192)
    assert torch.equal(fine[1], rough[1])
    assert torch.equal(second["reference_audio_latents"], rough[1])
    assert torch.equal(second["reference_latents"], encode_clips([clip], dubber.modules).video_BSD)
    assert torch.equal(first["reference_latents"], encode_clips([half_size(clip)], dubber.modules).video_BSD)
    assert second["guidance_scale"] == 1
    assert dubbed.frames_FHWC.shape == clip.frames_FHWC.shape


def watched(pipeline, call):
    """The pipeline, called through `call`."""
    kind = type(
        "Watched",
        (),
        {
            "__call__": lambda self, *args, **options: call(*args, **options),
            "__getattr__": lambda self, name: getattr(pipeline, name),
        },
    )
    return kind()


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (("none", True, "none"), (["dub"], ["dub"])),
        (("none", False, "none"), (["dub"], [])),
        (("none", True, "distilled"), (["dub"], ["distilled", "dub"])),
        (("none", False, "distilled"), (["dub"], ["distilled"])),
        (("distilled", True, "none"), (["distilled", "dub"], ["dub"])),
        (("distilled", False, "distilled"), (["distilled", "dub"], ["distilled"])),
    ],
)
def test_each_stage_has_the_loras_of_its_own_sampling(doubling, adapter, stages, expected):
    """The 19B recipe leaves the dubbing LoRA out of stage two and puts the distilled one in; the 22B one keeps it."""
    lora, keep, later_lora = stages
    later = {**LATER, "keep_adapter": keep, "lora": later_lora}
    sampling = miniature.sampling(lora=lora, second_stage=later)
    dubber = Dubber.load(doubling, adapter, strength=0.5, sampling=sampling)
    layer = dubber.modules.transformer.transformer_blocks[0].attn1.to_q
    active = []
    layer.register_forward_pre_hook(
        lambda module, args: active.append([] if layer.disable_adapters else sorted(layer.active_adapters))
    )
    for _ in range(2):
        dubber.dub(miniature.clip(height=128, width=128), line=LINE, seed=1)
    one_dub = [expected[0]] * 3 + [expected[1]] * 3  # each stage: the reference, then two steps
    assert active == 2 * one_dub
    assert layer.scaling["dub"] == pytest.approx(0.5)  # the strength: a sealed adapter's own scale is 1


def test_the_distilled_lora_is_the_file_in_the_backbone_and_serves_the_base_too(doubling):
    dubber = Dubber.load(doubling, None, sampling=miniature.sampling(lora="distilled"))
    layer = dubber.modules.transformer.transformer_blocks[0].attn1.to_q
    stored = load_file(doubling.path / PIPELINE / DISTILLED_FOLDER / "lora.safetensors")
    assert torch.equal(
        layer.lora_A[DISTILLED].weight, stored["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"]
    )
    plain = Dubber.load(doubling, None, sampling=miniature.sampling(), modules=dubber.modules)
    dubs = [each.dub(miniature.clip(), line=LINE, seed=1).frames_FHWC for each in (dubber, plain, dubber)]
    assert np.array_equal(dubs[0], dubs[2])
    assert not np.array_equal(dubs[0], dubs[1])


def test_clips_are_generated_with_the_lora_that_their_sampling_names(doubling):
    modules = load_for_sampling(doubling, "distilled")
    plain, distilled = (
        SynthesizeParams(
            seed=1,
            num_frames=17,
            height=64,
            width=64,
            frame_rate=25.0,
            batch_size=1,
            sampling=miniature.plain_sampling(1).model_copy(update={"lora": lora}),
        )
        for lora in ("none", "distilled")
    )
    clips = [generate_clips(["uno"], [1], params, modules)[0].frames_FHWC for params in (distilled, plain, distilled)]
    assert np.array_equal(clips[0], clips[2])
    assert not np.array_equal(clips[0], clips[1])
    with pytest.raises(AssertionError, match="add_sampling_lora"):
        generate_clips(["uno"], [1], distilled, load(doubling))


def test_a_quick_dub_takes_two_steps_and_the_dubber_keeps_its_own(doubling, adapter):
    dubber = Dubber.load(doubling, adapter, sampling=miniature.sampling(num_steps=3))
    steps, run = [], dubber.pipeline.__call__
    dubber.pipeline = watched(
        dubber.pipeline, lambda *args, **how: steps.append(how["num_inference_steps"]) or run(*args, **how)
    )
    clip = miniature.clip()
    dubbed, seconds = dubber.quick_dub(clip, line=LINE, seed=1)
    dubber.dub(clip, line=LINE, seed=1)
    assert dubbed.frames_FHWC.shape == clip.frames_FHWC.shape
    assert seconds > 0
    assert steps == [2, 3]


def test_a_removed_dubber_takes_its_loras_along_but_not_those_that_another_uses(doubling, adapter):
    """The LoRA of its second stage stayed on the transformer, and so did one whose second stage could not be loaded."""
    sampling = miniature.sampling(lora="distilled", second_stage={**LATER, "lora": "distilled"})
    one = Dubber.load(doubling, adapter, sampling=sampling, name="one")
    two = Dubber.load(doubling, adapter, sampling=sampling, name="two", modules=one.modules)
    loras = one.modules.transformer.peft_config
    one.detach()
    assert set(loras) == {"two", "distilled"}
    assert two.dub(miniature.clip(height=128, width=128), line=LINE, seed=1)
    upsampler = doubling.path / PIPELINE / UPSAMPLER
    upsampler.rename(upsampler.with_name("gone"))
    try:
        with pytest.raises(InvalidArtifactError):
            Dubber.load(doubling, adapter, sampling=sampling, name="three", modules=one.modules)
    finally:
        upsampler.with_name("gone").rename(upsampler)
    assert set(loras) == {"two", "distilled"}
    two.detach()
    assert not loras


def test_a_second_stage_without_an_upsampler_and_a_backbone_without_the_lora_are_refused(mini_backbone):
    with pytest.raises(InvalidArtifactError, match="no latent upsampler"):
        Dubber.load(mini_backbone, None, sampling=miniature.sampling(second_stage=LATER))
    with pytest.raises(InvalidArtifactError, match="no distilled LoRA"):
        Dubber.load(mini_backbone, None, sampling=miniature.sampling(lora="distilled"))


def test_a_clip_whose_half_does_not_fit_is_refused_before_anything_is_sampled(doubling):
    dubber = Dubber.load(doubling, None, sampling=miniature.sampling(second_stage=LATER))
    with pytest.raises(InvalidParamsError, match="48.*32"):
        dubber.dub(miniature.clip(height=64, width=96), line=LINE, seed=1)


def test_half_a_clip_has_the_means_of_its_pixels():
    clip = miniature.clip(num_frames=1, height=4, width=4)
    small = half_size(clip).frames_FHWC
    assert small.shape == (1, 2, 2, 3)
    assert np.abs(small[0, 0, 1] - clip.frames_FHWC[0, :2, 2:].mean(axis=(0, 1))).max() <= 0.5


def test_one_backbone_serves_the_adapter_and_the_base_in_turn(doubling, adapter):
    """Trap: a backbone for each method; of LTX-2 that is 62 GB while the last one is still held."""
    sampling, clip = miniature.sampling(), miniature.clip()
    alone = [Dubber.load(doubling, one, sampling=sampling) for one in (adapter, None)]
    expected = [one.dub(clip, line=LINE, seed=1) for one in alone]
    modules = load(doubling)
    shared = [Dubber.load(doubling, one, sampling=sampling, modules=modules) for one in (adapter, None)]
    for _ in range(2):
        for one, other in zip(shared, expected, strict=True):
            assert (one.dub(clip, line=LINE, seed=1).audio_CN == other.audio_CN).all()
    assert (expected[0].audio_CN != expected[1].audio_CN).any()

"""`LTX2DubPipeline` on the miniature, and against the sampler written out on nano."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTX2Pipeline, LTX2VideoTransformer3DModel
from doubles import miniature

from dubmill.config import params
from dubmill.generation.codec import encode_clips, shape_of
from dubmill.generation.sampling import build_pipeline, encode_prompts, sample
from dubmill.generation.seeds import generators
from dubmill.media.clips import Clip
from dubmill.model.conditioning import ReferenceMode, cache_reference, patched_attention, predict, sequence_layout
from dubmill.model.diffusion import schedule
from dubmill.model.inputs import NO_EMBEDS
from dubmill.model.latents import Latents
from dubmill.model.load import PIPELINE, load
from dubmill.model.pipeline import LTX2DubPipeline
from dubmill.model.text import encode_captions
from dubmill.nano import world
from dubmill.worlds.materialize import materialize

PROMPT = 'A person is speaking Spanish, saying: "uno dos"'
SIZE = {"height": 64, "width": 96, "num_frames": 17, "frame_rate": 25.0}
TEXT = {"max_sequence_length": miniature.TEXT_TOKENS}
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pipe(mini):
    return build_pipeline(mini)


@pytest.fixture(scope="module")
def source(mini):
    """Reference latents of a clip, as the pipeline is given them."""
    tokens = encode_clips([miniature.clip(seed=5)], mini)
    return {"reference_latents": tokens.video_BSD, "reference_audio_latents": tokens.audio_BLD}


def run(pipe, *seeds, **more):
    """Packed tokens of a short dub, a clip for each seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or (1,)]
    plain = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "packed", "return_dict": False}
    return Latents(*pipe([PROMPT] * len(generators), generator=generators, **SIZE, **TEXT, **(plain | more)))


def same(one, other, atol=1e-5):
    """Whether two results are equal but for float noise, in picture and in sound."""
    return torch.allclose(one.video_BSD, other.video_BSD, atol=atol) and torch.allclose(
        one.audio_BLD, other.audio_BLD, atol=atol
    )


def test_it_opens_the_folder_of_any_ltx2_pipeline_and_dubs_frames_and_a_waveform(mini_backbone):
    """The whole way of a stranger: from_pretrained, a source clip as arrays, frames and sound out."""
    stranger = LTX2DubPipeline.from_pretrained(mini_backbone.path / PIPELINE)
    stranger.set_progress_bar_config(disable=True)
    clip = miniature.clip(num_frames=25)
    made = stranger(
        prompt=PROMPT,
        reference_frames=clip.frames_FHWC[None] / 255,
        reference_audio=torch.from_numpy(clip.audio_CN[:1, ::2]),
        reference_audio_sampling_rate=8000,
        num_inference_steps=2,
        guidance_scale=2.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
        **SIZE,
        **TEXT,
    )
    assert np.asarray(made.frames).shape == (1, 17, 64, 96, 3)
    assert made.audio.shape[:2] == (1, 2)
    assert made.audio.shape[2] / 24000 == pytest.approx(17 / 25, abs=0.06)
    assert np.isfinite(np.asarray(made.frames)).all()


def test_frames_and_a_waveform_give_the_latents_that_are_trained_on(pipe, mini):
    clip = miniature.clip(seed=5)
    tokens = encode_clips([clip], mini)
    frames = clip.frames_FHWC[None] / 255
    assert torch.allclose(pipe.encode_video(frames, 64, 96, 17), tokens.video_BSD, atol=1e-4)
    sound = pipe.encode_audio(torch.from_numpy(clip.audio_CN), None, tokens.audio_BLD.shape[1])
    assert torch.allclose(sound, tokens.audio_BLD, atol=1e-4)


def test_its_text_features_are_those_that_are_trained_on(pipe, mini):
    ours = pipe.encode_text([PROMPT], "", NO_EMBEDS, miniature.TEXT_TOKENS, has_negative=True)
    both = encode_captions(["", PROMPT], mini)
    assert torch.allclose(ours.video_BTD, both.video_BTD, atol=1e-5)
    assert torch.allclose(ours.audio_BTD, both.audio_BTD, atol=1e-5)


@pytest.mark.parametrize("attention", ["full", "self"])
def test_text_features_made_before_give_the_dub_of_their_prompt(pipe, mini, source, attention):
    more = {"guidance_scale": 2.0, "reference_attention": attention, **source}
    generator = [torch.Generator().manual_seed(1)]
    plain = {"num_inference_steps": 2, "output_type": "packed", "return_dict": False}
    text = encode_prompts([PROMPT], mini, negative="")
    features = {
        "text_features": text.captions,
        "negative_text_features": text.negative,
        "empty_text_features": text.empty,
    }
    made = Latents(*pipe(**features, generator=generator, **SIZE, **TEXT, **plain, **more))
    assert same(made, run(pipe, 1, **more))


NEWER = {
    "gated_attn": True,
    "audio_gated_attn": True,
    "cross_attn_mod": True,
    "audio_cross_attn_mod": True,
    "perturbed_attn": True,
}


@pytest.fixture(scope="module")
def newer(mini, mini_backbone):
    """The miniature with what LTX-2.3's transformer has beyond LTX-2's: gates, prompt modulation, perturbed attention."""
    torch.manual_seed(2)
    transformer = LTX2VideoTransformer3DModel.from_config(mini.transformer.config, **NEWER).eval()
    made = LTX2DubPipeline.from_pretrained(mini_backbone.path / PIPELINE, transformer=transformer)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("is_newer", [False, True])
def test_without_a_reference_it_makes_what_the_pipeline_of_diffusers_makes(pipe, newer, is_newer):
    """All guidance at once, from the same noise. On LTX-2 diffusers' own perturbation does nothing: left out there."""
    ours = newer if is_newer else pipe
    stock = LTX2Pipeline(**ours.components)
    stock.set_progress_bar_config(disable=True)
    shape, generator = ours.latent_shape(64, 96, 17, 25.0), torch.Generator().manual_seed(0)
    scales = {
        "guidance_scale": 3.0,
        "modality_scale": 3.0,
        "guidance_rescale": 0.7,
        "stg_scale": 1.0 * is_newer,
        "spatio_temporal_guidance_blocks": [1],
        "audio_guidance_scale": 7.0,
        "audio_modality_scale": 2.0,
        "audio_guidance_rescale": 0.5,
        "audio_stg_scale": 0.5 * is_newer,
    }
    call = {"prompt": PROMPT, "num_inference_steps": 2, "noise_scale": 0.0, "output_type": "latent", **SIZE, **TEXT}
    call |= {
        "latents": torch.randn(1, 128, shape.frames, shape.height, shape.width, generator=generator),
        "audio_latents": torch.randn(1, 8, shape.audio, 16, generator=generator),
        "return_dict": False,
    }
    expected, made = stock(**call, **scales, use_cross_timestep=is_newer), ours(**call, **scales)
    assert torch.allclose(made[0], expected[0], atol=1e-3)
    assert torch.allclose(made[1], expected[1], atol=1e-3)


def test_a_cached_reference_works_with_gates_and_prompt_modulation(newer, source):
    """Prompt modulation makes the text depend on sigma: the reference has sigma 0 at every step, so it still waits."""
    layout = sequence_layout(
        newer.latent_shape(64, 96, 17, 25.0),
        25.0,
        newer.transformer,
        reference="shared",
        isolate=True,
        attention="self",
    )
    tokens = Latents(source["reference_latents"], source["reference_audio_latents"])
    text = newer.encode_text([""], None, NO_EMBEDS, miniature.TEXT_TOKENS, has_negative=False)
    shape = layout.num_video, layout.num_audio
    noise = Latents(torch.randn(1, shape[0], 128), torch.randn(1, shape[1], 128))
    velocities = []
    with patched_attention(newer.transformer, layout), torch.no_grad():
        for is_fresh in (True, True, False):  # the third reads what was cached before another level's step
            if is_fresh:
                cache_reference(newer.transformer, tokens, text, layout)
            level = 0.9 if len(velocities) == 1 else 0.4
            sigmas = torch.full((1, shape[0]), level), torch.full((1, shape[1]), level)
            velocities.append(predict(newer.transformer, noise, None, *sigmas, text, layout))
    assert layout.use_cross_timestep
    assert same(velocities[0], velocities[2])
    assert not same(velocities[0], velocities[1])
    both = run(newer, 1, 2, guidance_scale=3.0, reference_attention="self", **source)
    alone = run(newer, 2, guidance_scale=3.0, reference_attention="self", **source)
    assert same(Latents(both.video_BSD[1:], both.audio_BLD[1:]), alone, atol=1e-4)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    values = params.load(ROOT / "params.yaml")
    return load(materialize(values.backbone, tmp_path_factory.mktemp("nano") / "backbone")), values.dub.sampling


def euler(source, captions, seeds, layout, sampling, modules):
    """Classifier-free guidance and Euler steps, written out: what dubs were sampled by before there was a pipeline."""
    sigmas = schedule(modules.scheduler, sampling.num_steps, None, layout.num_video, modules.device).sigmas
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sizes = ((layout.num_video, modules.geometry.video_channels), (layout.num_audio, modules.geometry.audio_channels))
    video, audio = zip(*[[torch.randn(*size, generator=one) for size in sizes] for one in generators], strict=True)
    state = Latents(torch.stack(video), torch.stack(audio))
    text, empty = encode_captions(captions, modules), encode_captions([""] * len(captions), modules)
    with patched_attention(modules.transformer, layout), torch.no_grad():
        for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
            levels = now.expand(len(seeds), layout.num_video), now.expand(len(seeds), layout.num_audio)
            asked, plain = (
                predict(modules.transformer, state, source, *levels, words, layout) for words in (text, empty)
            )
            guided = (
                low + scale * (high - low)
                for low, high, scale in (
                    (plain.video_BSD, asked.video_BSD, sampling.video_guidance),
                    (plain.audio_BLD, asked.audio_BLD, sampling.audio_guidance),
                )
            )
            moved = (x + (after - now) * v for x, v in zip((state.video_BSD, state.audio_BLD), guided, strict=True))
            state = Latents(*moved)
    return state


def test_on_nano_guidance_by_captions_is_the_sampler_that_it_was(nano):
    modules, committed = nano
    sampling = committed.model_copy(
        update={"num_steps": 6, "lora": "none", "video_guidance": 3.0, "audio_guidance": 3.0}
    )
    phrases = tuple(world.random_phrases(np.random.default_rng(1)))
    film = world.halves(world.film(world.puppet(1), phrases, motion_seed=1))[0]
    clip = Clip(film.frames_FHWC, Fraction(world.FRAME_RATE), film.audio_N[None], world.SAMPLE_RATE_HZ)
    source, captions, seeds = encode_clips([clip, clip], modules), ["one", "dos"], [3, 4]
    rate = float(clip.frame_rate)
    layout = sequence_layout(shape_of(clip, modules), rate, modules.transformer, reference="negative", isolate=True)
    expected = euler(source, captions, seeds, layout, sampling, modules)
    made = sample(
        build_pipeline(modules),
        sampling,
        encode_prompts(captions, modules, negative=""),
        generators(seeds),
        shape_of(clip, modules),
        rate,
        reference=source,
        mode=ReferenceMode(positions="negative", attention="full", isolate_modalities=True),
    )
    assert same(made, expected, atol=2e-3)


@pytest.mark.parametrize("attention", ["full", "self"])
def test_a_clip_comes_out_the_same_whatever_it_is_batched_with(pipe, source, attention):
    more = {"guidance_scale": 2.0, "reference_attention": attention, **source}
    both, alone = run(pipe, 7, 8, **more), run(pipe, 8, **more)
    assert same(Latents(both.video_BSD[1:], both.audio_BLD[1:]), alone, atol=1e-4)
    assert not torch.allclose(both.video_BSD[0], both.video_BSD[1], atol=0.1)


def test_every_way_to_read_the_reference_is_another(pipe, source):
    ways = [
        {"reference_positions": "shared"},
        {"reference_positions": "negative"},
        {"reference_attention": "self"},
        {"isolate_reference": False},
    ]
    made = [run(pipe, **source, **way).audio_BLD for way in ways]
    assert all(not torch.allclose(one, other, atol=1e-5) for i, one in enumerate(made) for other in made[i + 1 :])


@pytest.mark.parametrize("attention", ["full", "self"])
@pytest.mark.parametrize(
    "guidance",
    [
        {"guidance_scale": 3.0},
        {"stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1]},
        {"modality_scale": 3.0},
        {"guidance_scale": 3.0, "guidance_rescale": 0.7},
        {"audio_guidance_scale": 7.0},
    ],
    ids=lambda scales: "+".join(scales),
)
def test_each_guidance_changes_the_dub_beside_a_reference_of_either_kind(pipe, source, guidance, attention):
    plain = {"reference_attention": attention, **source}
    before, after = run(pipe, **plain), run(pipe, **plain, **guidance)
    assert not same(before, after, atol=1e-4)
    assert torch.isfinite(after.video_BSD).all()


def test_perturbation_works_on_a_transformer_that_was_made_without_it(pipe, mini):
    """Trap: diffusers leaves such a transformer (LTX-2's among them) unperturbed, and STG is then no guidance at all."""
    assert not mini.transformer.config.perturbed_attn
    guided = run(pipe, stg_scale=1.0, spatio_temporal_guidance_blocks=[0])
    assert not same(run(pipe), guided, atol=1e-4)


def test_given_sigmas_make_as_many_steps(pipe, source):
    told = []

    def tell(pipe, index, timestep, tensors):
        told.append((index, round(timestep.item(), 3)))
        return tensors

    run(pipe, sigmas=[1.0, 0.975, 0.421875], callback_on_step_end=tell, **source)
    assert told == [(0, 1000.0), (1, 975.0), (2, 421.875)]


def test_a_callback_gets_what_it_asks_for_and_what_it_returns_is_used(pipe):
    seen = []

    def silence(pipe, index, timestep, tensors):
        seen.append(sorted(tensors))
        return {"audio_latents": torch.zeros_like(tensors["audio_latents"])}

    made = run(pipe, callback_on_step_end=silence, callback_on_step_end_tensor_inputs=["audio_latents"])
    assert seen == [["audio_latents"]] * 2
    assert torch.count_nonzero(made.audio_BLD) == 0


def test_an_interrupt_ends_the_steps(pipe):
    told = []

    def stop(pipe, index, timestep, tensors):
        told.append(index)
        pipe._interrupt = True
        return tensors

    run(pipe, num_inference_steps=4, callback_on_step_end=stop)
    assert told == [0]


def test_the_first_frame_is_given_as_an_image(pipe, source, mini):
    """The video VAE is causal: the first frame alone has the latents that it has in its clip."""
    clip = miniature.clip(seed=5)
    first = shape_of(clip, mini).height * shape_of(clip, mini).width
    made = run(pipe, image=clip.frames_FHWC[0] / 255, **source)
    assert torch.allclose(made.video_BSD[:, :first], source["reference_latents"][:, :first], atol=1e-4)
    assert not torch.allclose(made.video_BSD[:, first:], source["reference_latents"][:, first:], atol=0.1)


def test_kept_tokens_come_out_untouched_and_the_rest_is_made_new(pipe, mini):
    context = encode_clips([miniature.clip(seed=3)], mini)
    keep = torch.arange(context.video_BSD.shape[1])[None] % 2 == 0
    made = run(
        pipe,
        latents=context.video_BSD,
        audio_latents=context.audio_BLD,
        conditioning_mask=keep,
        audio_conditioning_mask=torch.ones(context.audio_BLD.shape[:2], dtype=torch.bool),
        num_resamplings=2,
        guidance_scale=3.0,
        guidance_rescale=0.7,
    )
    assert torch.equal(made.video_BSD[keep], context.video_BSD[keep])
    assert torch.equal(made.audio_BLD, context.audio_BLD)
    assert not torch.allclose(made.video_BSD[~keep], context.video_BSD[~keep], atol=0.1)


def test_latents_go_out_and_in_again_packed_or_not(pipe):
    packed, plain = run(pipe), pipe.pack_latents(*run_latent(pipe))
    assert same(packed, plain, atol=1e-4)


def run_latent(pipe):
    """The same dub as diffusers hands latents out."""
    generator = [torch.Generator().manual_seed(1)]
    call = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent", "return_dict": False}
    return pipe(PROMPT, generator=generator, **call, **SIZE, **TEXT)


def test_a_call_leaves_the_pipeline_as_it_was(pipe, source):
    before = (dict(pipe.scheduler.config), dict(pipe.transformer.attn_processors), pipe.scheduler.timesteps.clone())
    run(
        pipe,
        sigmas=[0.9, 0.4],
        reference_attention="self",
        stg_scale=1.0,
        spatio_temporal_guidance_blocks=[0],
        **source,
    )
    assert dict(pipe.scheduler.config) == before[0]
    assert dict(pipe.transformer.attn_processors) == before[1]
    assert torch.equal(pipe.scheduler.timesteps, before[2])


HEARD = {"reference_audio_latents": torch.zeros(2, 17, 128)}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"height": 63}, "divisible by 32"),
        ({"num_frames": 16}, r"8k \+ 1"),
        ({"sigmas": [0.4, 0.9]}, "fall within"),
        ({"sigmas": [1.0, 0.0]}, "fall within"),
        ({"stg_scale": 1.0}, "spatio_temporal_guidance_blocks"),
        ({"reference_latents": torch.zeros(1, 24, 128)}, "a video and an audio"),
        ({"stg_scale": 1.0, "spatio_temporal_guidance_blocks": [2]}, "of blocks 0 to 1"),
        ({"reference_positions": "before"}, "shared"),
        ({"reference_attention": "own"}, "full"),
        ({"reference_attention": "self", "isolate_reference": False}, "isolate_reference=True"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 clips"),
        ({"prompt": [PROMPT] * 3, "reference_latents": torch.zeros(2, 18, 128)} | HEARD, "2 references for 3 prompts"),
        ({"prompt": None}, "one of `prompt`"),
        ({"prompt_embeds": torch.zeros(1, 4, 32)}, "no other"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "not \\['noise'\\]"),
        ({"reference_frames": np.zeros((1, 9, 64, 96, 3)), "reference_audio": torch.zeros(2, 9)}, "fewer than"),
    ],
)
def test_what_cannot_be_dubbed_is_refused(pipe, wrong, told):
    with pytest.raises(ValueError, match=told):
        pipe(**({"prompt": PROMPT, **SIZE, **TEXT} | wrong))

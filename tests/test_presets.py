"""Presets: overlays by name, each with the figures of the method and a mark where no source told one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dubmill.config.overlays import PRESETS, lay_over, merge, preset, preset_names, read_yaml
from dubmill.config.params import load
from dubmill.errors import InvalidParamsError
from dubmill.model.shapes import half_frames

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "params.yaml"
every_preset = pytest.mark.parametrize("name", preset_names())


def test_the_presets_of_the_method_are_there():
    assert preset_names() == ["dubit-2.3", "jdi-19b", "jdi-19b-paper", "jdi-19b-two-stages"]


@every_preset
def test_a_preset_is_valid_and_names_all_that_a_run_stands_on(name):
    backbone = load(COMMITTED, Path(name)).backbone
    assert backbone.source == "hub"
    assert backbone.repo.count("/") == 1
    assert backbone.text_encoder.startswith("google/gemma-3-12b")
    assert backbone.licence.startswith("LTX-2")
    assert backbone.vram_gb == 80


@every_preset
def test_the_first_of_two_stages_works_at_half_a_size_that_fits(name):
    """LTX-2's video VAE compresses 32 x 32 pixels; 544 or 352 halved divide by 16 only, and the dub was refused."""
    params = load(COMMITTED, Path(name))
    if params.dub.sampling.second_stage.sigmas:
        assert params.synthesize.height % 64 == 0
        assert params.synthesize.width % 64 == 0


@every_preset
def test_a_preset_samples_with_a_distilled_lora_in_the_second_stage_of_a_dub_alone(name):
    """params.yaml samples nano with its LoRA everywhere; a preset's guided steps, or distilled model, inherited that."""
    params = load(COMMITTED, Path(name))
    samplings = (
        params.synthesize.sampling,
        params.inpaint.sampling,
        params.train.validation.sampling,
        params.dub.sampling,
    )
    assert {sampling.lora for sampling in samplings} == {"none"}
    has_lora = params.backbone.distilled_lora != "none"
    assert (params.dub.sampling.second_stage.lora == "distilled") == has_lora == (name == "jdi-19b-two-stages")


def test_dubit_stands_on_the_distilled_model_and_names_its_upsampler():
    backbone = load(COMMITTED, Path("dubit-2.3")).backbone
    assert backbone.repo.endswith("-Distilled-Diffusers")
    assert backbone.upsampler != "none"


@every_preset
def test_a_preset_begins_with_one_line_that_tells_what_it_is(name):
    first = (PRESETS / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) < 120


@every_preset
def test_a_revision_that_is_no_pin_is_marked_where_it_is_set(name):
    for line in (PRESETS / f"{name}.yaml").read_text().splitlines():
        key, _, value = line.strip().partition(": ")
        if key == "revision" and len(value.split("#")[0].strip()) != 40:
            assert "UNVERIFIED" in value


@every_preset
def test_a_preset_has_halves_on_latent_borders_and_sides_that_divide(name):
    synthesize = load(COMMITTED, Path(name)).synthesize
    assert half_frames(synthesize.num_frames, temporal=8) in (89, 121)
    assert synthesize.height % 32 == synthesize.width % 32 == 0


def test_the_release_has_its_published_figures():
    params = load(COMMITTED, Path("jdi-19b"))
    train, clip = params.train, params.synthesize
    assert (train.rank, train.alpha, train.dropout, train.max_grad_norm) == (128, 128, 0, 1)
    assert (train.num_steps, train.batch_size, train.accumulate, train.seed) == (2000, 1, 1, 42)
    assert set(train.targets) == {"to_k", "to_q", "to_v", "to_out.0", "net.0.proj", "net.2"}
    assert (train.learning_rate, set(train.learning_rate_groups.values())) == (2e-4, {1e-6})
    assert (train.schedule, train.num_warmup_steps, train.mixed_precision) == ("linear", 0, "bf16")
    assert (train.first_frame_probability, train.background_weight, train.shared_sigma) == (0.1, 0.1, True)
    assert train.gradient_checkpointing
    sigmas = train.sigma_sampler
    assert (sigmas.kind, sigmas.std) == ("shifted-logit-normal", 1)
    assert (sigmas.shift_tokens, sigmas.shifts) == ([1024, 4096], [0.95, 2.05])
    assert (train.reference_positions, train.isolate_modalities) == ("shared", True)
    assert train.keep_checkpoints * train.checkpoint_every == train.num_steps
    assert (clip.width, clip.height, half_frames(clip.num_frames, 8), clip.frame_rate) == (640, 352, 121, 25)
    assert (params.dub.sampling.num_steps, params.dub.sampling.video_guidance, params.dub.adapter_strength) == (
        30,
        3,
        1,
    )
    assert (params.dub.sampling.first_frame, params.dub.sampling.second_stage.sigmas) == (True, [])
    assert params.inpaint.mask_threshold == 0.1


def test_the_release_looks_at_a_sample_as_often_and_under_the_guidance_that_it_tells():
    validation = load(COMMITTED, Path("jdi-19b")).train.validation
    sampling = validation.sampling
    assert (validation.every_steps, sampling.num_steps) == (100, 30)
    assert (sampling.video_guidance, sampling.audio_guidance) == (3, 3)
    assert (sampling.video_stg, sampling.audio_stg, sampling.stg_blocks) == (1, 1, [29])
    assert (sampling.video_modality, sampling.audio_modality) == (1, 1)


def test_clips_are_made_under_the_guidance_published_for_dev_models():
    sampling = load(COMMITTED, Path("jdi-19b")).synthesize.sampling
    assert (sampling.num_steps, sampling.video_guidance, sampling.audio_guidance) == (40, 3, 7)
    assert (sampling.video_stg, sampling.audio_stg, sampling.stg_blocks) == (1, 1, [29])
    assert (sampling.video_modality, sampling.audio_modality) == (3, 3)
    assert (sampling.video_rescale, sampling.audio_rescale) == (0.7, 0.7)


def test_the_released_second_stage_is_a_variant_of_its_own():
    second = load(COMMITTED, Path("jdi-19b-two-stages")).dub.sampling.second_stage
    assert (second.sigmas, second.keep_adapter) == ([0.725, 0.421875], False)
    assert second.lora == "distilled"


def test_the_papers_variant_differs_in_size_and_in_the_rate_of_the_audio_alone():
    released, paper = (load(COMMITTED, Path(name)) for name in ("jdi-19b", "jdi-19b-paper"))
    assert (paper.synthesize.width, paper.synthesize.height) == (960, 544)
    assert set(paper.train.learning_rate_groups.values()) == {1e-5}
    assert set(paper.train.learning_rate_groups) == set(released.train.learning_rate_groups)
    sides = {"width": released.synthesize.width, "height": released.synthesize.height}
    rates = {"learning_rate_groups": released.train.learning_rate_groups}
    assert paper.synthesize.model_copy(update=sides) == released.synthesize
    assert paper.train.model_copy(update=rates) == released.train
    assert paper.model_copy(update={"synthesize": released.synthesize, "train": released.train}) == released


def test_dub_it_has_its_references_before_time_zero_and_no_mask():
    params = load(COMMITTED, Path("dubit-2.3"))
    sigmas = params.train.sigma_sampler
    assert (sigmas.kind, sigmas.percentiles) == ("stretched-logit-normal", [0.5, 99.9])
    assert (sigmas.least, sigmas.uniform_share) == (1e-3, 0.1)
    assert (params.train.reference_positions, params.train.isolate_modalities) == ("negative", False)
    assert params.train.rank == 128
    assert params.dub.sampling.sigmas == [1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875]
    second = params.dub.sampling.second_stage
    assert (second.sigmas, second.keep_adapter, second.lora) == ([0.909375, 0.725, 0.421875], True, "none")
    assert (params.dub.sampling.video_guidance, params.dub.sampling.audio_guidance) == (1, 1)
    assert params.backbone.architecture == "ltx-2.3-22b"


def test_the_clusters_overlay_is_a_preset_and_repeats_none_of_its_values():
    path = ROOT / "k8s/overlays/ltx2/params.yaml"
    assert read_yaml(path)["extends"] == "jdi-19b"
    base = lay_over(read_yaml(COMMITTED), Path("jdi-19b"))
    for section, values in read_yaml(path).items():
        if section != "extends":
            for name, value in values.items():
                assert base[section][name] != value, f"{section}.{name} repeats the preset"
    assert load(COMMITTED, path).backbone.architecture == "ltx-2-19b"


def test_an_overlay_by_name_and_one_by_path_are_laid_in_turn(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("train: {rank: 32}\n")
    params = load(COMMITTED, Path("jdi-19b"), own)
    assert (params.train.rank, params.train.num_steps) == (32, 2000)


def test_an_overlay_may_stand_on_a_preset_and_has_the_last_word(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("extends: jdi-19b-paper\ntrain: {rank: 32}\n")
    params = load(COMMITTED, own)
    assert (params.train.rank, params.synthesize.width, params.train.seed) == (32, 960, 42)


@pytest.mark.parametrize("name", ["jdi-20b", "../params", ""])
def test_a_name_that_is_no_preset_is_refused_with_those_there_are(name):
    with pytest.raises(InvalidParamsError, match=r"jdi-19b"):
        preset(name)
    with pytest.raises(InvalidParamsError, match=r"use one of"):
        load(COMMITTED, Path("jdi-20b"))


def test_a_file_in_the_way_wins_over_a_preset_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "jdi-19b").write_text("train: {rank: 3}\n")
    monkeypatch.chdir(tmp_path)
    assert load(COMMITTED, Path("jdi-19b")).train.rank == 3


def test_a_preset_names_only_parameters_there_are():
    base = read_yaml(COMMITTED)
    for name in preset_names():
        given = {section: value for section, value in read_yaml(preset(name)).items() if section != "extends"}
        merge(base, given, name)


LTX2_SCHEDULER = {  # as the published scheduler of LTX-2 is configured
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
DISTILLED = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875]
BY_HAND = {  # s = e^2.05 / (e^2.05 + 1 / t - 1) at t = 1, 29/30, ...; then 1 - (1 - s) * 0.9 / (1 - the last s)
    30: {0: 1.0, 1: 0.9950, 5: 0.9714, 10: 0.9310, 15: 0.8699, 20: 0.7664, 25: 0.5531, 29: 0.1},
    40: {0: 1.0, 1: 0.9964, 10: 0.9556, 20: 0.8769, 30: 0.6993, 38: 0.2339, 39: 0.1},
}


def samplings(params):
    return {
        "synthesize": params.synthesize.sampling,
        "inpaint": params.inpaint.sampling,
        "validation": params.train.validation.sampling,
        "dub": params.dub.sampling,
    }


@every_preset
@pytest.mark.parametrize("step", ["synthesize", "inpaint", "validation", "dub"])
def test_the_noise_levels_of_a_preset_are_those_of_its_recipe_whatever_the_clips_size(name, step):
    """The shift is that of 4,096 tokens; a clip's own 15,360 would leave most steps near pure noise."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from dubmill.model.diffusion import schedule

    sampling = samplings(load(COMMITTED, Path(name)))[step]
    scheduler = FlowMatchEulerDiscreteScheduler(**LTX2_SCHEDULER)
    levels = schedule(
        scheduler, sampling.num_steps, sampling.sigmas or None, sampling.shift_tokens, torch.device("cpu")
    ).sigmas.tolist()
    assert levels[-1] == 0
    if sampling.sigmas:
        assert levels[:-1] == pytest.approx(DISTILLED)
    else:
        expected = BY_HAND[sampling.num_steps]
        assert len(levels) == sampling.num_steps + 1
        assert [levels[index] for index in expected] == pytest.approx(list(expected.values()), abs=1e-4)


@every_preset
def test_guided_sampling_of_a_preset_has_a_negative_prompt(name):
    for sampling in samplings(load(COMMITTED, Path(name))).values():
        is_guided = (sampling.video_guidance, sampling.audio_guidance) != (1, 1)
        assert bool(sampling.negative_prompt) == is_guided


@pytest.mark.parametrize("name", ["jdi-19b", "jdi-19b-paper", "jdi-19b-two-stages", "dubit-2.3"])
def test_presets_for_real_clips_do_not_demand_every_word_of_a_recogniser(name):
    """nano's thresholds, where every word is right or wrong for certain, reject nearly all real speech."""
    nano, real = load(ROOT / "params.yaml").gate, load(ROOT / "params.yaml", Path(name)).gate
    assert nano.strict.min_words_right == 1.0
    assert 0.5 <= real.strict.min_words_right < real.warning.min_words_right < 1.0
    for field in ("min_voice_cosine", "min_identity_cosine", "min_sync_correlation"):
        assert getattr(real.strict, field) < getattr(real.warning, field)
    assert real.strict.min_lse_c == "none"

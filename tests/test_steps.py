"""The steps on nano, few clips and few steps each: what goes in, what comes out, and what a killed run leaves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dubmill.artifacts.draft import ShardSlice
from dubmill.artifacts.store import Backbone, ClipSet, PairSet
from dubmill.config import overlays
from dubmill.config import params as parameters
from dubmill.errors import InvalidArtifactError, InvalidParamsError, UnsealedArtifactError, UnsupportedTextError
from dubmill.generation.codec import decode_clips, encode_clips, shape_of
from dubmill.model.load import load
from dubmill.model.loras import load_for_sampling
from dubmill.steps import dub as dub_module
from dubmill.steps import encode as encode_module
from dubmill.steps import inpaint as inpaint_module
from dubmill.steps import synthesize as synthesize_module
from dubmill.steps.backbone import backbone as backbone_step
from dubmill.steps.dub import dub
from dubmill.steps.encode import encode
from dubmill.steps.evaluate import evaluate
from dubmill.steps.gate import gate
from dubmill.steps.inpaint import half_tokens, inpaint
from dubmill.steps.prompts import prompts as prompts_step
from dubmill.steps.synthesize import synthesize
from dubmill.steps.train import train
from dubmill.worlds import fit_line, world_of

ROOT = Path(__file__).parents[1]
FEW = {"num_steps": 2, "video_guidance": 1.0, "audio_guidance": 2.0}


@pytest.fixture(scope="module")
def values():
    data = overlays.read_yaml(ROOT / "params.yaml")
    few = {
        "prompts": {"num_train": 3, "num_heldout": 2},
        "synthesize": {"batch_size": 2, "sampling": FEW},
        "inpaint": {"batch_size": 2, "sampling": FEW},
        "gate": {"min_accepted_share": 0.0},
    }
    return parameters.validate(parameters.Params, overlays.merge(data, few), "test")


@pytest.fixture(scope="module")
def nano(values, tmp_path_factory):
    return backbone_step(values.backbone, tmp_path_factory.mktemp("nano") / "backbone")


@pytest.fixture(scope="module")
def asked(values, tmp_path_factory):
    return prompts_step(values.prompts, tmp_path_factory.mktemp("prompts") / "prompts")


@pytest.fixture(scope="module")
def clips(nano, asked, values, tmp_path_factory):
    return synthesize(nano, asked, values.synthesize, tmp_path_factory.mktemp("clips") / "clips")


@pytest.fixture(scope="module")
def pairs(nano, clips, values, tmp_path_factory):
    return inpaint(nano, clips, values.inpaint, tmp_path_factory.mktemp("pairs") / "pairs")


@pytest.fixture(scope="module")
def filmed(nano, clips, values, tmp_path_factory):
    """World pairs, which pass the gate."""
    world = values.inpaint.model_copy(update={"source": "world"})
    return inpaint(nano, clips, world, tmp_path_factory.mktemp("filmed") / "pairs")


@pytest.fixture(scope="module")
def gated(nano, filmed, values, tmp_path_factory):
    return gate(nano, filmed, values.scorers, values.gate, tmp_path_factory.mktemp("gated") / "pairs")


def test_the_materialised_folder_is_an_ltx2_for_every_diffusers_pipeline(nano):
    from diffusers import LTX2ConditionPipeline, LTX2InContextPipeline, LTX2Pipeline

    for kind in (LTX2Pipeline, LTX2InContextPipeline, LTX2ConditionPipeline):
        pipeline = kind.from_pretrained(nano.path / "pipeline")
        assert pipeline.vae_temporal_compression_ratio == nano.info["geometry"]["temporal"]
    off = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    off |= {f"audio_{name}": value for name, value in off.items()} | {"spatio_temporal_guidance_blocks": None}
    made = LTX2Pipeline.from_pretrained(nano.path / "pipeline")(
        prompt='A person is speaking English, saying: "one two"',
        height=128,
        width=128,
        num_frames=13,
        frame_rate=12.5,
        num_inference_steps=2,
        max_sequence_length=32,
        output_type="np",
        generator=torch.Generator().manual_seed(1),
        **off,
    )
    assert made.frames.shape == (1, 13, 128, 128, 3)
    assert torch.as_tensor(made.audio).isfinite().all()


def test_only_training_prompts_are_synthesised_since_the_world_films_the_rest(clips, asked):
    assert [row.id for row in clips.rows] == [prompt.id for prompt in asked.rows]
    assert all(row.has_clip == (row.prompt.split == "train") for row in clips.rows)
    clip = clips.clip(clips.rows[0].id, "clip")
    assert clip.frames_FHWC.shape == (33, 128, 128, 3)
    assert clip.audio_CN.shape == (1, 42240)


def test_each_train_prompt_gives_two_self_made_pairs_and_each_heldout_prompt_two_filmed_ones(pairs, asked):
    assert (pairs.info["num_left_out_clips"], pairs.info["left_out_clips"]) == (0, {})
    assert len(pairs.split("train")) == 2 * 3
    assert {row.source for row in pairs.split("train")} == {"self-made"}
    assert {row.source for row in pairs.split("heldout")} == {"world"}
    for row in pairs.rows:
        sides = [pairs.clip(row.id, side) for side in ("original", "counterpart")]
        assert all(side.num_frames == 17 and side.audio_CN.shape == (1, 21760) for side in sides)
        assert row.original.language != row.counterpart.language


def test_the_original_half_is_the_clips_own_and_its_counterpart_has_new_sound(pairs, clips):
    row = next(row for row in pairs.split("train") if row.half == "second")
    whole = clips.clip(row.id.removesuffix("-second"), "clip")
    original, counterpart = pairs.clip(row.id, "original"), pairs.clip(row.id, "counterpart")
    assert np.array_equal(original.frames_FHWC, whole.frames_FHWC[16:])
    assert not np.array_equal(original.audio_CN, counterpart.audio_CN)


def test_what_lies_outside_the_region_comes_out_as_from_a_round_trip(nano, clips, values):
    """Only the half and the touched tokens are made new: the latents of all else are the clip's own."""
    modules = load_for_sampling(nano, values.inpaint.sampling.lora)
    clip = clips.clip(clips.split("train")[0].id, "clip")
    shape = shape_of(clip, modules)
    boxes, context = [np.tile([40.0, 80.0, 88.0, 120.0], (33, 1))], encode_clips([clip], modules)
    touched_BS = inpaint_module.touched_tokens([clip], boxes, context, values.inpaint, modules)
    region = inpaint_module.half_region(touched_BS, clip, "first", modules)
    is_half_F, _ = half_tokens(shape, 33, "first", 4)
    assert region.video_BS[0].reshape(shape.frames, -1)[~is_half_F].sum() == 0
    from dubmill.generation.sampling import inpaint_clips

    made = inpaint_clips([clip], context, [""], region, [1], values.inpaint.sampling, 1, modules)[0]
    trip = decode_clips(context, shape, clip.frame_rate, modules)[0]
    late = slice(28, 33)  # frames whose decoding sees no changed latent's far side as strongly as the border's
    before = np.abs(trip.frames_FHWC[late].astype(int) - made.frames_FHWC[late].astype(int)).mean()
    inside = np.abs(trip.frames_FHWC[:10].astype(int) - made.frames_FHWC[:10].astype(int)).mean()
    assert before < inside / 2


def test_the_two_halves_part_all_tokens_between_them():
    from dubmill.model.shapes import LatentShape

    first, second = (half_tokens(LatentShape(31, 11, 20, 241), 241, half, 8) for half in ("first", "second"))
    assert first[0].sum() == 16
    assert torch.equal(first[0], ~second[0])
    assert torch.equal(first[1], ~second[1])


def test_a_filmed_pair_is_the_same_puppet_in_the_same_motion_with_another_mouth(nano, asked, values):
    prompt = asked.split("heldout")[0]
    original, counterpart, boxes = world_of(nano).true_pair(prompt, "first", values.inpaint.world)
    assert np.array_equal(original.frames_FHWC[:, :20], counterpart.frames_FHWC[:, :20])
    assert not np.array_equal(original.frames_FHWC, counterpart.frames_FHWC)
    assert (boxes[:, 1] > 20).all()


def test_ungated_pairs_cannot_be_encoded(nano, filmed, values, tmp_path):
    with pytest.raises(InvalidArtifactError, match="never passed the gate"):
        encode(nano, filmed, values.encode, tmp_path / "latents")


def test_accepted_pairs_become_latents_with_a_face_region_and_captions(nano, gated, values, tmp_path):
    from dubmill.training.trainer import Pairs

    latents = encode(nano, gated, values.encode, tmp_path / "latents")
    accepted = [row for row in gated.split("train") if row.accepted]
    pairs = Pairs.open(latents)
    assert len(pairs.video_P2SD) == len(accepted) == latents.info["num_pairs"]
    assert len(pairs.text) == 2 * len(accepted) + 1
    assert 0 < pairs.face_PS.mean() < 1
    assert abs(pairs.video_P2SD.mean()) < 0.5
    assert 0.5 < pairs.video_P2SD.std() < 2
    assert latents.lineage.pair_source == "world"


@pytest.mark.parametrize("moment", range(4))
def test_a_killed_encoding_continues_and_ends_as_if_it_never_was(nano, gated, values, tmp_path, monkeypatch, moment):
    """Killed before the captions, before either batch of pairs, and before the merged file is written."""
    params = values.encode.model_copy(update={"batch_size": 3})
    unbroken = encode(nano, gated, params, tmp_path / "unbroken")
    steps, calls = [("caption_batches", 0), ("encode_clips", 0), ("encode_clips", 2), ("merge_rows", 0)], []
    name, at = steps[moment]
    whole = getattr(encode_module, name)

    def dying(*args, **options):
        calls.append(name)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(encode_module, name, dying)
    with pytest.raises(KeyboardInterrupt):
        encode(nano, gated, params, tmp_path / "latents")
    num_calls = len(calls)
    assert encode(nano, gated, params, tmp_path / "latents").digest == unbroken.digest
    assert len(calls) - num_calls == {0: 1, 1: 4, 2: 2, 3: 1}[moment]  # two sides of each batch that was missing
    assert [path.name for path in (tmp_path / "latents").glob("*.safetensors")] == ["latents.safetensors"]


def test_the_text_encoder_and_the_autoencoders_are_never_in_memory_together(nano, gated, values, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        encode_module,
        "load",
        lambda backbone, needed: (loaded.append(sorted(needed)), load(backbone, needed=needed))[1],
    )
    encode(nano, gated, values.encode, tmp_path / "latents")
    assert loaded == [[], ["connectors", "text_encoder"], ["audio_vae", "vae"]]


def test_the_same_work_gives_the_same_digest_and_a_killed_run_goes_on_to_it(
    nano, asked, clips, values, tmp_path, monkeypatch
):
    generate, calls = synthesize_module.generate_clips, []

    def die_in_the_second_batch(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*args)

    monkeypatch.setattr(synthesize_module, "generate_clips", die_in_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        synthesize(nano, asked, values.synthesize, tmp_path / "clips")
    with pytest.raises(UnsealedArtifactError):
        ClipSet.open(tmp_path / "clips")
    resumed = synthesize(nano, asked, values.synthesize, tmp_path / "clips")
    assert resumed.digest == clips.digest
    assert len(calls) == 3  # the first batch was not made again


def test_a_sealed_artifact_of_the_same_lineage_is_handed_back_without_work(nano, clips, pairs, values, monkeypatch):
    monkeypatch.setattr(inpaint_module, "load_for_sampling", lambda *_: pytest.fail("the model was loaded again"))
    assert inpaint(nano, clips, values.inpaint, pairs.path).digest == pairs.digest


def test_world_pairs_of_prompts_without_a_world_are_refused(nano, asked, values):
    prompt = asked.rows[0].model_copy(update={"source": "bank"})
    with pytest.raises(InvalidParamsError, match="nano world"):
        world_of(nano).true_pair(prompt, "first", values.inpaint.world)


def test_a_switch_clip_without_halves_is_refused_before_anything_is_made(nano, asked, values, tmp_path):
    with pytest.raises(InvalidParamsError, match="25 or 33"):
        synthesize(nano, asked, values.synthesize.model_copy(update={"num_frames": 29}), tmp_path / "clips")


def test_importing_the_command_line_does_not_import_torch():
    code = "import sys, dubmill.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_backbone_whose_manifest_declares_another_geometry_is_refused(nano):
    info = {**nano.info, "geometry": {**nano.info["geometry"], "spatial": 16}}
    liar = Backbone(nano.path, nano.manifest.model_copy(update={"info": info}))
    with pytest.raises(InvalidArtifactError, match="the manifest says"):
        load(liar)


def test_pairs_keep_which_source_made_them(pairs, filmed):
    assert (PairSet.open(pairs.path).lineage.pair_source, filmed.lineage.pair_source) == ("self-made", "world")


def test_pairs_that_several_tasks_make_are_those_that_one_makes(nano, clips, pairs, values, tmp_path):
    for index in (1, 0):
        draft = inpaint(nano, clips, values.inpaint, tmp_path / "pairs", shard_slice=ShardSlice(index, 2))
        assert not draft.is_sealed
    assert inpaint(nano, clips, values.inpaint, tmp_path / "pairs").digest == pairs.digest


class Blinking:
    """nano's own detector, which finds nobody in the given clips."""

    jitter_frames = 0

    def __init__(self, backbone, unseen):
        self.one, self.unseen = world_of(backbone).face_detector(), unseen

    def detect(self, frames_FHWC):
        return [[]] * len(frames_FHWC) if frames_FHWC.tobytes() in self.unseen else self.one.detect(frames_FHWC)


def test_clips_that_make_no_pair_are_reported_whoever_made_their_shard(nano, clips, values, tmp_path, monkeypatch):
    """Three clips of which two show nobody, in shards that two tasks made."""
    first, second, third = (row for row in clips.rows if row.has_clip)
    unseen = {clips.clip(row.id, "clip").frames_FHWC.tobytes() for row in (second, third)}
    blinking = Blinking(nano, unseen)
    monkeypatch.setattr("dubmill.worlds.nano.NanoWorld.face_detector", lambda world: blinking)
    for index in (1, 0):
        inpaint(nano, clips, values.inpaint, tmp_path / "pairs", shard_slice=ShardSlice(index, 2))
    made = inpaint(nano, clips, values.inpaint, tmp_path / "pairs")
    assert made.info["left_out_clips"] == {row.id: "no face is in it" for row in (second, third)}
    assert made.info["num_left_out_clips"] == 2
    assert {row.id for row in made.split("train")} == {f"{first.id}-first", f"{first.id}-second"}
    assert len(made.rows) == 2 * (len(clips.rows) - made.info["num_left_out_clips"])


def test_clips_of_which_none_makes_a_pair_end_the_step_with_the_first_reason(
    nano, clips, values, tmp_path, monkeypatch
):
    monkeypatch.setattr("dubmill.worlds.nano.NanoWorld.has_true_pair", lambda world, prompt: False)
    monkeypatch.setattr(
        inpaint_module, "_find_mouths", lambda clips, rows, detector: ([], {row.id: "nobody" for row in rows})
    )
    with pytest.raises(InvalidArtifactError, match="nobody") as failed:
        inpaint(nano, clips, values.inpaint, tmp_path / "pairs")
    assert failed.value.where == str(clips.path)
    with pytest.raises(UnsealedArtifactError):
        PairSet.open(tmp_path / "pairs")


@pytest.fixture(scope="module")
def adapter(nano, gated, values, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter")
    quick = values.train.model_copy(update={"num_steps": 1, "num_warmup_steps": 0})
    return train(nano, encode(nano, gated, values.encode, out / "latents"), quick, out / "adapter")


@pytest.fixture(scope="module")
def dub_params(values):
    sampling = values.dub.sampling.model_copy(update=FEW)
    return values.dub.model_copy(update={"batch_size": 2, "sampling": sampling})


def test_dubs_that_several_tasks_make_are_those_that_one_makes(nano, adapter, gated, dub_params, tmp_path):
    params = dub_params.model_copy(update={"methods": ["adapter", "cascade"]})
    whole = dub(nano, adapter, gated, params, tmp_path / "whole")
    for index in (2, 0, 1):
        assert not dub(nano, adapter, gated, params, tmp_path / "parts", shard_slice=ShardSlice(index, 3)).is_sealed
    assert dub(nano, adapter, gated, params, tmp_path / "parts").digest == whole.digest


def test_all_methods_share_one_backbone_and_dub_as_if_each_had_its_own(
    nano, adapter, gated, dub_params, tmp_path, monkeypatch
):
    loads = []
    monkeypatch.setattr(dub_module, "load", lambda backbone: (loads.append(1), load(backbone))[1])
    alone = {
        method: dub(nano, adapter, gated, dub_params.model_copy(update={"methods": [method]}), tmp_path / method)
        for method in ("adapter", "base")
    }
    assert len(loads) == 2
    for methods in (["adapter", "base"], ["base", "adapter"]):
        params = dub_params.model_copy(update={"methods": methods})
        both = dub(nano, adapter, gated, params, tmp_path / "-".join(methods))
        for row in both.rows:
            assert both.data(row.id, "dub.clip") == alone[row.method].data(row.id, "dub.clip")
    assert len(loads) == 4


def test_a_line_that_does_not_fit_its_clip_is_left_out_by_name_and_the_others_are_dubbed(
    nano, adapter, gated, dub_params, values, tmp_path, monkeypatch
):
    heldout = gated.split("heldout")
    unfit = heldout[1]
    check = fit_line

    def too_long(world, line, room_seconds):
        return check(world, line, 0.1 if line == unfit.counterpart else room_seconds)

    same = {row.id for row in heldout if row.counterpart == unfit.counterpart}
    monkeypatch.setattr(dub_module, "fit_line", too_long)
    dubs = dub(nano, adapter, gated, dub_params, tmp_path / "dubs")
    assert set(dubs.info["left_out_clips"]) == same
    assert {row.pair_id for row in dubs.rows} == {row.id for row in heldout} - same
    assert dubs.info["num_clips"] == len(heldout) - len(same)
    params = values.evaluate.model_copy(update={"num_bootstrap": 100, "num_showcase": 1})
    report = evaluate(nano, dubs, gated, adapter, values.scorers, params, tmp_path / "report")
    assert set(report.info["left_out_clips"]) == same


def test_held_out_clips_of_which_none_fits_end_the_step(nano, adapter, gated, dub_params, tmp_path, monkeypatch):
    check = fit_line
    monkeypatch.setattr(dub_module, "fit_line", lambda world, line, room_seconds: check(world, line, 0.1))
    with pytest.raises(UnsupportedTextError) as failed:
        dub(nano, adapter, gated, dub_params, tmp_path / "dubs")
    assert failed.value.where == str(gated.path)


@pytest.mark.parametrize(
    ("description", "speaker"),
    [
        ("A woman in her forties with red hair tied back", "The woman"),
        ("An elderly man with a bald head", "The man"),
        ("a girl of ten", "The girl"),
        ("somebody", "A person"),
        ("", "A person"),
    ],
)
def test_captions_of_real_clips_name_the_speaker_as_the_release_was_trained(description, speaker, mini_backbone, nano):
    assert world_of(mini_backbone).caption_speaker(description) == speaker
    assert world_of(nano).caption_speaker(description) == "A person"

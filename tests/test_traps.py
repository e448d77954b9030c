"""The traps of the method, each with a test that fails when it is sprung.

They are what goes wrong in public code and practice around LTX-2 dubbing: nothing crashes, the result is only bad.
"""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTX2VideoTransformer3DModel
from doubles import miniature, noise_pairs
from doubles.scorers import BOXES, PlainScorers, talking

from dubmill import adapters, media, metrics
from dubmill.adapters.lora import file_metadata
from dubmill.artifacts.rows import DubRow, Line
from dubmill.artifacts.store import Adapter, LatentSet
from dubmill.config import params as parameters
from dubmill.config.overlays import read_yaml
from dubmill.config.params import Params, PromoteParams, validate
from dubmill.config.training import TrainParams
from dubmill.dubbing.dubber import Dubber
from dubmill.errors import BackboneMismatchError, InvalidArtifactError, InvalidParamsError
from dubmill.generation.codec import round_trip, shape_of
from dubmill.generation.masks import keep_of, ltx2_keep_video, pixel_mask, token_mask
from dubmill.media.clips import Clip
from dubmill.model.attention import isolation_mask
from dubmill.model.conditioning import patched_attention, sequence_layout
from dubmill.model.load import load
from dubmill.model.shapes import LatentShape
from dubmill.steps.dub import _round_trips
from dubmill.steps.encode import check_finite, check_size, reconcile
from dubmill.steps.train import train
from dubmill.tracking import rules
from dubmill.training import trainer as training
from dubmill.training.loss_log import LossLog
from dubmill.training.sigmas import sample_sigmas

ROOT = Path(__file__).parents[1]
LTX2 = parameters.load(ROOT / "params.yaml", ROOT / "k8s/overlays/ltx2/params.yaml")
SMALL = {"rank": 4, "alpha": 4.0, "num_steps": 6, "batch_size": 2, "learning_rate": 1e-2, "mixed_precision": "none"}
SMALL |= {"gradient_checkpointing": False, "checkpoint_every": 1, "keep_checkpoints": 2}
SMALL |= {"validation": noise_pairs.PARAMS.validation}
PAPER: TrainParams = LTX2.train.model_copy(update=SMALL)  # the released recipe, on a model that fits a test
ALONE = training.build_accelerator(PAPER)


@pytest.fixture(scope="module")
def latents(mini_backbone, mini, tmp_path_factory):
    return noise_pairs.latents(mini_backbone, mini, tmp_path_factory.mktemp("latents") / "latents")


@pytest.fixture(scope="module")
def adapter(mini_backbone, latents, tmp_path_factory):
    return train(mini_backbone, latents, PAPER, tmp_path_factory.mktemp("trained") / "adapter")


def _first_losses(mini_backbone, latents, folder, **changes):
    folder.mkdir()
    trainer = training.Trainer(load(mini_backbone), latents, PAPER.model_copy(update=changes), folder, ALONE)
    with patched_attention(trainer.modules.transformer, trainer.layout):
        row = trainer.step(0)
    return row["video"], row["audio"]


@pytest.mark.parametrize(
    "switch",
    [
        {"isolate_modalities": False},
        {"background_weight": 1.0},
        {"shared_sigma": False},
        {"reference_positions": "negative"},
    ],
    ids=lambda switch: next(iter(switch)),
)
def test_1_each_part_of_the_papers_recipe_takes_part_in_the_loss(switch, mini_backbone, latents, tmp_path):
    """Trap 1: the stock `flexible` trainer has no isolation mask, no face weights, no rate groups, and draws a sigma per
    modality. A recipe that names them but does not apply them trains something else.
    """
    paper = _first_losses(mini_backbone, latents, tmp_path / "paper")
    assert paper == _first_losses(mini_backbone, latents, tmp_path / "again")
    assert paper != _first_losses(mini_backbone, latents, tmp_path / "flexible", **switch)


@pytest.mark.parametrize("said", ["shared", None, "somewhere"])
def test_2_an_adapter_is_not_used_at_positions_it_was_not_trained_at(said, mini_backbone, latents, tmp_path):
    """Trap 2: one release trains and infers with shared reference positions, the next infers with negative ones; the
    weights look the same, and the dub only gets worse.
    """
    params = PAPER.model_copy(update={"reference_positions": "negative", "num_steps": 1})
    made = train(mini_backbone, latents, params, tmp_path / "adapter")
    sampling = miniature.sampling(num_steps=1)
    assert Dubber.load(mini_backbone, made, sampling=sampling).mode.positions == "negative"
    liar = Adapter(made.path, made.manifest.model_copy(update={"info": {**made.info, "reference_positions": said}}))
    with pytest.raises(InvalidArtifactError, match="reference_positions"):
        Dubber.load(mini_backbone, liar, sampling=sampling)


SHAPE, TEMPORAL = LatentShape(3, 2, 2, 17), 8


def _trainers_keep(video_FHW):
    """What LTX-2's trainer makes of a mask video: mean over squares, padded at the end, maximum over frames 8i..8i+7."""
    cells = (video_FHW / 255).reshape(len(video_FHW), 2, 32, 2, 32).mean(axis=(2, 4))
    cells = np.concatenate([cells, np.zeros((-len(cells) % 8, 2, 2))])
    return cells.reshape(-1, 8, 2, 2).max(axis=1) > 0.5


def test_3_a_mask_that_crosses_to_ltx2_keeps_no_token_that_the_mouth_touches():
    """Trap 3: our mask is 1 at the mouth and grows, LTX-2's is 1 where the picture is kept and grows; turned round pixel
    by pixel, the part to make new shrinks and the old lip motion leaks through what is kept.
    """
    boxes = np.tile([10.0, 10.0, 20.0, 20.0], (17, 1))  # a ninth of a token's square
    mouth = pixel_mask(boxes, 64, 64)
    ours = token_mask(mouth, SHAPE, TEMPORAL).reshape(3, 2, 2)
    assert ours[:, 0, 0].all()
    assert np.array_equal(_trainers_keep(ltx2_keep_video(mouth, SHAPE, TEMPORAL)), keep_of(ours))
    turned_round = keep_of(mouth).astype(np.uint8) * 255
    assert _trainers_keep(turned_round).all()  # the trap: everything is kept, nothing is made new


def test_4_a_mask_belongs_to_the_causal_latents_own_frames_here_and_after_the_crossing():
    """Trap 4: frames grouped 0..7, 8..15 put a mask up to seven frames (0.28 s) off; latent 0 is frame 0 alone and latent
    i is frames 8i-7 ... 8i.
    """
    mouth = np.zeros((17, 64, 64), dtype=bool)
    mouth[1:9, :32, 32:] = True  # exactly latent 1
    ours = token_mask(mouth, SHAPE, TEMPORAL).reshape(3, 2, 2)
    assert np.argwhere(ours).tolist() == [[1, 0, 1]]
    assert np.array_equal(_trainers_keep(ltx2_keep_video(mouth, SHAPE, TEMPORAL)), keep_of(ours))
    assert not np.array_equal(_trainers_keep(keep_of(mouth).astype(np.uint8) * 255), keep_of(ours))


def test_5_rate_groups_catch_what_they_name_and_the_table_shows_it():
    """Trap 5: the released pattern `audio_attn`, searched, also catches `video_to_audio_attn`: 36.7 % of the parameters
    train at 1e-6 where the names say 26.5 %.
    """
    with torch.device("meta"):
        transformer = LTX2VideoTransformer3DModel(num_layers=1)
        adapters.add_lora(transformer, rank=1, alpha=1, dropout=0.0, targets=PAPER.targets)
    lora = adapters.lora_parameters(transformer)
    total = sum(value.numel() for value in lora.values())

    def slow_share(groups):
        rates = adapters.learning_rates(list(lora), PAPER.model_copy(update={"learning_rate_groups": groups}))
        return sum(lora[name].numel() for name, rate in rates.items() if rate == 1e-6) / total, rates

    named, _ = slow_share({r".*\.audio_(attn1|attn2|ff)\..*": 1e-6})
    released, rates = slow_share(PAPER.learning_rate_groups)
    assert total == 200_704
    assert named == pytest.approx(53_248 / total)
    assert released == pytest.approx(73_728 / total)
    table = adapters.learning_rate_table(lora, rates).splitlines()
    assert [line.split()[:2] for line in table if "video_to_audio" in line] == [["video_to_audio_attn", "1e-06"]]
    assert len(table) == 8
    with pytest.raises(InvalidParamsError, match="'audio_attn'"):
        slow_share({"audio_attn": 1e-6})


def test_6_every_accepted_pair_is_encoded_or_the_step_fails_and_names_it():
    """Trap 6: preprocessing that skips short clips, swallows audio errors and puts other samples in their place."""
    counts = {"video": 2, "audio": 2, "face": 2, "text_video": 5, "text_audio": 5, "text_mask": 5}
    reconcile(counts, 2)
    with pytest.raises(InvalidArtifactError, match="audio 1 of 2"):
        reconcile(counts | {"audio": 1}, 2)
    column = torch.zeros(2, 3)
    check_finite({"video": column, "audio": column}, ["a", "b"])
    with pytest.raises(InvalidArtifactError, match="pair b"):
        check_finite({"video": torch.tensor([[0.0], [float("nan")]]), "audio": column}, ["a", "b"])
    first = miniature.clip()
    short = miniature.clip(num_frames=9)
    mute = Clip(first.frames_FHWC, first.frame_rate, first.audio_CN[:, :100], first.sample_rate_hz)
    assert check_size(first, miniature.clip(seed=4), "x") is not None
    with pytest.raises(InvalidArtifactError, match="p-3, original"):
        check_size(first, short, "p-3, original")
    with pytest.raises(InvalidArtifactError, match=r"0\.01 s"):
        check_size(first, mute, "p-3, original")


def test_7_text_features_of_another_encoder_are_never_used(mini_backbone, latents, tmp_path):
    """Trap 7: features of Gemma 3 (LTX-2.3) and Gemma 4 (LTX-2.5) have the same shape and mean nothing to each other."""
    lineage = latents.lineage.model_copy(update={"text_encoder": "4" * 64})
    stranger = LatentSet(latents.path, latents.manifest.model_copy(update={"lineage": lineage}))
    with pytest.raises(BackboneMismatchError, match="444444444444"):
        train(mini_backbone, stranger, PAPER, tmp_path / "adapter")
    begun = LatentSet.draft(tmp_path / "latents", lineage)
    begun.write("cache", b"features of the other encoder")
    LatentSet.draft(tmp_path / "latents", latents.lineage)
    assert not (tmp_path / "latents/cache").exists()


@pytest.mark.parametrize("side", ["audio_to_video_attn", "video_to_audio_attn"])
def test_8_a_reference_row_gives_nothing_rather_than_the_mean_of_what_it_must_not_see(side, mini):
    """Trap 8: a row masked throughout is NaN in some kernels; under a mask of -10000 it attends to everything alike."""
    shape = shape_of(miniature.clip(), mini)
    layout = sequence_layout(shape, 25.0, mini.transformer, reference="shared", isolate=True)
    counts = (shape.video_tokens, shape.audio) if side == "audio_to_video_attn" else (shape.audio, shape.video_tokens)
    mask = isolation_mask(*counts, 2 * counts[0], 2 * counts[1])
    assert (mask == 0).any(dim=-1).all()  # no row is masked throughout
    assert torch.isinf(mask[mask != 0]).all()  # and what is masked is masked for good
    attention = getattr(mini.transformer.transformer_blocks[0], side)
    widths = (attention.to_q.in_features, attention.to_k.in_features)
    states = [torch.randn(1, 2 * count, width) for count, width in zip(counts, widths, strict=True)]
    with patched_attention(mini.transformer, layout), torch.no_grad():
        output = attention(states[0], encoder_hidden_states=states[1], attention_mask=None)
    assert torch.isfinite(output).all()
    assert torch.count_nonzero(output[:, counts[0] :]) == 0
    assert torch.count_nonzero(output[:, : counts[0]]) > 0


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001)])
def test_9_a_broadcast_rate_stays_a_rational_through_files_and_cuts(rate):
    """Trap 9: `int(fps)` makes 29 of 29.97 and 23 of 23.976: a minute too much in half an hour."""
    frames = np.zeros((25, 64, 64, 3), np.uint8)
    frames[..., 0] = np.arange(25, dtype=np.uint8)[:, None, None] * 10
    clip = Clip(frames, rate, np.zeros((1, round(25 / rate * 16000)), np.float32), 16000)
    assert Clip.from_bytes(clip.to_bytes()).frame_rate == rate
    back = media.read(media.mp4_bytes(clip), frame_rate=None, sample_rate_hz=16000, needs_sound=False)
    assert (back.frame_rate, back.num_frames) == (rate, 25)
    pieces = [clip.cut(start, start + 1) for start in range(25)]
    assert abs(sum(piece.audio_CN.shape[1] for piece in pieces) - clip.audio_CN.shape[1]) <= 1


def test_10_the_background_is_measured_against_what_the_vae_can_give_back(mini):
    """Trap 10: every dubbed frame has been through the VAE; held against the raw source, a faultless dub looks as bad as
    the VAE, and a cascade that leaves the picture alone looks best.
    """
    source = talking([0.1, 0.9, 0.3, 0.7, 0.2])
    trip = np.clip(source.frames_FHWC.astype(int) + 12, 0, 255).astype(np.uint8)  # the VAE's own mark on the picture
    faultless = Clip(trip, source.frame_rate, source.audio_CN, source.sample_rate_hz)
    spoilt = Clip(np.roll(trip, 5, axis=2), source.frame_rate, source.audio_CN, source.sample_rate_hz)
    figures = [
        metrics.measure(
            dub,
            source=source,
            truth=None,
            trip_FHWC=trip,
            line=Line(language="es", text="uno"),
            mouth_boxes_F4=BOXES,
            scorers=PlainScorers(),
        )
        for dub in (faultless, spoilt, source)
    ]
    raw, held = ([one[name] for one in figures] for name in ("outside_psnr_db", "outside_trip_psnr_db"))
    assert raw[0] < 30 < raw[2] == metrics.picture.CEILING_DB
    assert held[0] == metrics.picture.CEILING_DB > held[1]
    assert held[2] == pytest.approx(raw[0])  # the untouched picture differs by just the VAE's mark
    clip = miniature.clip()
    row = DubRow(id="a-adapter", pair_id="a", method="adapter", line=Line(language="es", text="uno"), seed=1)
    (kept,) = _round_trips([row], [clip], mini).values()
    expected = round_trip(clip.frames_FHWC[None], shape_of(clip, mini), mini)[0]
    assert np.array_equal(Clip.from_bytes(kept).frames_FHWC, expected)
    assert not np.array_equal(expected, clip.frames_FHWC)


def test_11_a_collapse_of_the_noise_levels_is_seen_in_the_adapter(adapter, tmp_path):
    """Trap 11: at 8,160 tokens (960x544, 121 frames) the released sampler draws nine sigmas of ten above 0.9: the model
    learns next to nothing of what comes after the first denoising steps.
    """
    assert sum(adapter.info["sigma_histogram"]) == PAPER.num_steps * PAPER.batch_size
    assert "training samples by noise level" in (adapter.path / "README.md").read_text()
    last = {}
    for sampler in ("shifted-logit-normal", "stretched-logit-normal"):
        log = LossLog(tmp_path, 0)
        params = PAPER.sigma_sampler.model_copy(update={"kind": sampler})
        drawn = sample_sigmas(params, 2000, 8160, torch.Generator().manual_seed(0)).tolist()
        log.add({"step": 1, "video": 0, "audio": 0, "total": 0, "lr": 0, "sigmas": drawn})
        last[sampler] = log.sigma_histogram()[-1] / 2000
    assert last["shifted-logit-normal"] > 0.85
    assert last["stretched-logit-normal"] < 0.55


def test_12_only_the_last_checkpoints_are_kept_and_none_is_sealed(mini_backbone, latents, adapter, tmp_path):
    """Trap 12: rank 128 is 2.3 GiB, a checkpoint with its optimizer three times that in float32; eight of them, kept and
    uploaded, fill a store.
    """
    trainer = training.Trainer(load(mini_backbone), latents, PAPER, tmp_path, ALONE)
    counts = []
    trainer.run(lambda row: counts.append(len(trainer.checkpoints())))
    assert max(counts) == PAPER.keep_checkpoints < PAPER.num_steps - 1
    weights = sum(value.numel() * 4 for value in trainer.lora.values())
    for path in trainer.checkpoints():
        data = path.read_bytes()
        assert len(data) - 8 - int.from_bytes(data[:8], "little") == 3 * weights + 4 * len(
            trainer.lora
        )  # and its steps
    assert not [name for name in adapter.manifest.files if "checkpoint" in name]


def test_13_the_optimizer_holds_two_numbers_for_each_lora_parameter_and_none_for_the_frozen_model(
    mini_backbone, latents, tmp_path
):
    """Trap 13: AdamW's moments alone are 9.9 GB for the 1.233 B parameters of rank 128; of a model that is frozen but
    handed to the optimizer they would be 151 GB.
    """
    trainer = training.Trainer(load(mini_backbone), latents, PAPER, tmp_path, ALONE)
    trainer.step(0)
    moments = [
        tensor
        for state in trainer.optimizer.state.values()
        for name, tensor in state.items()
        if name in ("exp_avg", "exp_avg_sq")
    ]
    trained = sum(value.numel() for value in trainer.lora.values())
    assert sum(moment.numel() for moment in moments) == 2 * trained
    assert {moment.dtype for moment in moments} == {torch.float32}
    assert trained < sum(value.numel() for value in trainer.modules.transformer.parameters())


@pytest.mark.parametrize("name", ["identity_cosine", "voice_cosine", "words_right"])
def test_14_a_better_sync_does_not_buy_a_worse_face_voice_or_text(name):
    """Trap 14: by raw sync or identity alone LatentSync beats JUST-DUB-IT, and a system that copies its input beats both:
    one figure never decides.
    """
    params: PromoteParams = validate(Params, read_yaml(ROOT / "params.yaml"), "params.yaml").promote
    better = rules.directions(rules.names_in(params))
    theirs = {"clip": dict.fromkeys(better, 0.8)}
    assert not list(rules.against({"clip": {**theirs["clip"], "sync_correlation": 0.9}}, theirs, params, better))
    ours = {"clip": {**theirs["clip"], "sync_correlation": 0.9, name: 0.5}}
    assert [reason for reason in rules.against(ours, theirs, params, better) if reason.startswith(f"{name} is worse")]
    assert len(params.max_regression) >= 3
    assert params.min_shares


def test_the_facts_that_keep_an_adapter_from_its_traps_travel_in_its_file(adapter):
    """Traps 2 and 7 come back the moment the weights leave their folder; so what they need goes with them."""
    known = adapters.facts_in_file(adapter.path / adapters.WEIGHTS)
    assert known["reference_positions"] == PAPER.reference_positions
    assert known["text_encoder"] == adapter.lineage.text_encoder
    assert known["backbone"] == adapter.lineage.backbone
    assert json.loads(file_metadata(known)["dubmill"]) == known

"""The LoRA and its loop, on the miniature: what trains, at which rate, and that a killed run ends as one that was not."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from doubles import miniature, noise_pairs
from doubles.noise_pairs import PARAMS
from safetensors import safe_open

from dubmill import adapters
from dubmill.artifacts.files import LOSSES_FILE
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, LatentSet
from dubmill.dubbing.dubber import Dubber
from dubmill.errors import (
    BackboneMismatchError,
    InvalidArtifactError,
    InvalidParamsError,
    UnsealedArtifactError,
    UsageError,
)
from dubmill.model.conditioning import patched_attention, sequence_layout
from dubmill.model.latents import Latents
from dubmill.model.load import load
from dubmill.steps.train import train
from dubmill.training import trainer as training
from dubmill.training.optimizer import build_optimizer, shard_like

SAMPLING = miniature.sampling(video_guidance=2.0)


@pytest.fixture(scope="module")
def latents(mini_backbone, mini, tmp_path_factory):
    return noise_pairs.latents(mini_backbone, mini, tmp_path_factory.mktemp("latents") / "latents")


@pytest.fixture(scope="module")
def adapter(mini_backbone, latents, tmp_path_factory):
    return train(mini_backbone, latents, PARAMS, tmp_path_factory.mktemp("trained") / "adapter")


def _batch(mini_backbone, latents, **changes):
    params = PARAMS.model_copy(update=changes)
    pairs, shape = training.Pairs.open(latents), training.LatentShape(**latents.info["latent_shape"])
    return training.sample_batch(pairs, shape, params, torch.Generator().manual_seed(1)), pairs, shape


def _trainer(mini_backbone, latents, params, folder):
    return training.Trainer(load(mini_backbone), latents, params, folder, training.build_accelerator(params))


def test_all_28_linear_layers_of_a_block_get_a_lora_and_nothing_else_trains(mini_backbone):
    transformer = load(mini_backbone).transformer
    adapters.add_lora(transformer, rank=2, alpha=2, dropout=0, targets=PARAMS.targets)
    names = adapters.lora_parameters(transformer)
    assert len(names) == 2 * 28 * 2  # blocks x layers x (A, B)
    assert all("lora_" in name for name in names)


def test_an_anchored_pattern_does_not_catch_the_video_to_audio_layers():
    """Trap: `audio_attn` found by re.search also slows `video_to_audio_attn`."""
    names = [
        f"transformer_blocks.0.{layer}.to_q.lora_A.dub.weight"
        for layer in ("audio_attn1", "video_to_audio_attn", "attn1")
    ]
    params = PARAMS.model_copy(update={"learning_rate_groups": {r".*\.audio_attn\d\..*": 1e-6}})
    assert list(adapters.learning_rates(names, params).values()) == [1e-6, 1e-2, 1e-2]


def test_targets_that_match_nothing_are_refused(mini_backbone):
    with pytest.raises(InvalidParamsError, match="no layer matches"):
        adapters.add_lora(load(mini_backbone).transformer, rank=2, alpha=2, dropout=0, targets=["to_nowhere"])


def test_the_rate_warms_up_then_decays_to_zero():
    params = PARAMS.model_copy(update={"num_steps": 10, "num_warmup_steps": 2})
    rates = [training.learning_rate_factor(step, params) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    assert training.learning_rate_factor(5, params.model_copy(update={"schedule": "constant"})) == 1.0


def test_the_face_weighs_fully_the_background_less_and_given_frames_nothing(mini_backbone, latents):
    batch, pairs, shape = _batch(mini_backbone, latents, first_frame_probability=1.0, batch_size=8)
    first = shape.height * shape.width
    assert torch.count_nonzero(batch.weight_video_BS[:, :first]) == 0
    assert torch.count_nonzero(batch.sigma_video_BS[:, :first]) == 0
    assert batch.weight_video_BS[:, first:].unique().tolist() == pytest.approx([0.1, 1.0])


def test_a_tenth_of_the_samples_is_given_its_first_frame_clean(mini_backbone, latents):
    batch, _, shape = _batch(mini_backbone, latents, first_frame_probability=0.1, batch_size=1000)
    first = slice(0, shape.height * shape.width)
    is_given = (batch.sigma_video_BS[:, first] == 0).all(dim=1)
    assert 70 < is_given.sum() < 130
    noisy = training.add_noise(batch.target.video_BSD, batch.noise.video_BSD, batch.sigma_video_BS)[:, first]
    is_clean = (noisy == batch.target.video_BSD[:, first]).all(dim=2).all(dim=1)
    assert torch.equal(is_clean, is_given)
    assert (batch.sigma_audio_BL > 0).all()


def test_one_sigma_is_shared_by_video_and_audio_unless_params_say_otherwise(mini_backbone, latents):
    shared, _, _ = _batch(mini_backbone, latents, first_frame_probability=0.0)
    assert torch.equal(shared.sigma_video_BS[:, 0], shared.sigma_audio_BL[:, 0])
    own, _, _ = _batch(mini_backbone, latents, first_frame_probability=0.0, shared_sigma=False)
    assert not torch.equal(own.sigma_video_BS[:, 0], own.sigma_audio_BL[:, 0])


def test_a_dropped_caption_is_the_empty_one_and_a_direction_turns_the_pair(mini_backbone, latents):
    dropped, pairs, _ = _batch(mini_backbone, latents, drop_caption_probability=1.0)
    assert torch.equal(dropped.text.video_BTD[0], pairs.text.video_BTD[-1])
    forth, _, _ = _batch(mini_backbone, latents, reverse_probability=0.0)
    back, _, _ = _batch(mini_backbone, latents, reverse_probability=1.0)
    assert torch.equal(forth.target.video_BSD, back.reference.video_BSD)
    assert torch.equal(forth.reference.audio_BLD, back.target.audio_BLD)


def test_gradient_checkpointing_gives_the_same_losses(mini_backbone, latents, tmp_path):
    def first_loss(checkpointing, name):
        params = PARAMS.model_copy(update={"gradient_checkpointing": checkpointing, "dropout": 0.0})
        (tmp_path / name).mkdir()
        return _trainer(mini_backbone, latents, params, tmp_path / name).step(0)["total"]

    assert first_loss(True, "a") == pytest.approx(first_loss(False, "b"), rel=1e-6)


def test_training_lowers_the_loss_of_a_batch_it_sees_again_and_again(mini_backbone, latents, tmp_path):
    params = PARAMS.model_copy(update={"num_steps": 40, "dropout": 0.0, "schedule": "constant"})
    trainer = _trainer(mini_backbone, latents, params, tmp_path)
    first = trainer.step(0)["total"]
    for _ in range(25):
        last = trainer.step(0)["total"]
    assert last < 0.97 * first


def test_a_run_stopped_and_resumed_gives_the_adapter_of_one_that_was_not(
    mini_backbone, latents, adapter, tmp_path, monkeypatch
):
    step = training.Trainer.step

    def stop_at_three(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return step(self, index)

    monkeypatch.setattr(training.Trainer, "step", stop_at_three)
    with pytest.raises(KeyboardInterrupt):
        train(mini_backbone, latents, PARAMS, tmp_path / "adapter")
    with pytest.raises(UnsealedArtifactError):
        Adapter.open(tmp_path / "adapter")
    monkeypatch.setattr(training.Trainer, "step", step)
    resumed = train(mini_backbone, latents, PARAMS, tmp_path / "adapter")
    assert resumed.digest == adapter.digest


def test_a_process_killed_while_training_leaves_nothing_that_opens_and_resumes_to_the_same_adapter(
    mini_backbone, latents, tmp_path
):
    params = PARAMS.model_copy(update={"num_steps": 60, "checkpoint_every": 5})
    program = (
        "import sys; from pathlib import Path; from dubmill.artifacts.store import Backbone, LatentSet;"
        "from dubmill.config.params import TrainParams; from dubmill.steps.train import train;"
        "train(Backbone.open(sys.argv[1]), LatentSet.open(sys.argv[2]),"
        " TrainParams.model_validate_json(sys.argv[3]), Path(sys.argv[4]))"
    )
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-c",
        program,
        str(mini_backbone.path),
        str(latents.path),
        params.model_dump_json(),
        str(out),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(UnsealedArtifactError):
        Adapter.open(out)
    resumed = train(mini_backbone, latents, params, out)
    assert resumed.digest == train(mini_backbone, latents, params, tmp_path / "whole").digest


def test_the_log_has_video_and_audio_apart_and_a_line_a_step(adapter):
    rows = [json.loads(line) for line in (adapter.path / LOSSES_FILE).read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["total"] == pytest.approx(row["video"] + row["audio"]) for row in rows)
    assert not list(adapter.path.glob("checkpoint-*"))


def test_the_file_opens_in_diffusers_own_loader_with_the_same_effect(mini_backbone, adapter):
    from diffusers import LTX2Pipeline

    pipeline = LTX2Pipeline.from_pretrained(mini_backbone.path / "pipeline")
    pipeline.load_lora_weights(adapter.path, weight_name=adapters.WEIGHTS)
    theirs = {name: value for name, value in pipeline.transformer.named_parameters() if "lora_" in name}
    ours = load(mini_backbone)
    adapters.attach_adapter(ours, mini_backbone, adapter, 1.0)
    mine = {name: value for name, value in ours.transformer.named_parameters() if "lora_" in name}
    assert len(theirs) == len(mine) == 112
    renamed = {name.replace(".default_0.", f".{adapters.ADAPTER_NAME}."): value for name, value in theirs.items()}
    assert all(torch.equal(mine[name], value) for name, value in renamed.items())


def test_latents_of_another_backbone_are_refused(mini_backbone, latents, tmp_path):
    lineage = latents.lineage.model_copy(update={"backbone": "0" * 64})
    stranger = LatentSet(latents.path, latents.manifest.model_copy(update={"lineage": lineage}))
    with pytest.raises(BackboneMismatchError, match="run encode again"):
        train(mini_backbone, stranger, PARAMS, tmp_path / "adapter")


def test_an_adapter_of_another_backbone_is_refused(mini_backbone, adapter):
    lineage = adapter.lineage.model_copy(update={"backbone": "0" * 64})
    stranger = Adapter(adapter.path, adapter.manifest.model_copy(update={"lineage": lineage}))
    with pytest.raises(BackboneMismatchError, match="000000000000"):
        Dubber.load(mini_backbone, stranger, sampling=SAMPLING)


def test_an_adapter_with_missing_tensors_is_refused(mini_backbone, adapter):
    info = {**adapter.info, "targets": [*PARAMS.targets, "proj_in"]}
    partial = Adapter(adapter.path, adapter.manifest.model_copy(update={"info": info}))
    with pytest.raises(InvalidArtifactError, match="LoRA tensors are missing"):
        Dubber.load(mini_backbone, partial, sampling=SAMPLING)


def test_a_dub_keeps_length_and_size_and_the_adapter_changes_it(mini_backbone, adapter):
    clip, line = miniature.clip(), Line(language="es", text="uno dos")
    ours = Dubber.load(mini_backbone, adapter, sampling=SAMPLING)
    assert (ours.mode.positions, ours.mode.isolate_modalities) == ("negative", True)
    dubbed = ours.dub(clip, line=line, seed=1)
    assert dubbed.frames_FHWC.shape == clip.frames_FHWC.shape
    assert dubbed.audio_CN.shape == (2, round(clip.seconds * 24000))
    again = ours.dub(clip, line=line, seed=1)
    assert (dubbed.audio_CN == again.audio_CN).all()
    silent = Dubber.load(mini_backbone, adapter, strength=1e-6, sampling=SAMPLING).dub(clip, line=line, seed=1)
    assert (dubbed.frames_FHWC != silent.frames_FHWC).any()


def test_clips_of_several_sizes_are_refused_in_one_batch(mini_backbone):
    dubber = Dubber.load(mini_backbone, None, sampling=SAMPLING)
    clips, line = [miniature.clip(), miniature.clip(num_frames=9)], Line(language="es", text="uno")
    with pytest.raises(UsageError, match="several sizes"):
        dubber.dub_batch(clips, [line, line], [1, 2])


def test_negative_and_shared_positions_give_other_predictions(mini, latents):
    """Trap: an adapter used at positions it was not trained at."""
    pairs, shape = training.Pairs.open(latents), training.LatentShape(**latents.info["latent_shape"])
    batch = training.sample_batch(pairs, shape, PARAMS, torch.Generator().manual_seed(1))
    results = [
        training.dubbing_losses(
            mini.transformer, batch, sequence_layout(shape, 25.0, mini.transformer, reference=scheme)
        )[1].item()
        for scheme in ("shared", "negative")
    ]
    assert results[0] != results[1]
    assert isinstance(batch.target, Latents)


def _gradients(mini_backbone, latents, **changes):
    """Losses and LoRA gradients of the first batch."""
    params = PARAMS.model_copy(update={"dropout": 0.0, **changes})
    trainer = training.Trainer(load(mini_backbone), latents, params, latents.path, training.build_accelerator(params))
    for value in trainer.lora.values():
        torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(value.numel()))
    batch = training.sample_batch(trainer.pairs, trainer.shape, params, torch.Generator().manual_seed(1))
    with patched_attention(trainer.modules.transformer, trainer.layout):
        video, audio = training.dubbing_losses(trainer.modules.transformer, batch, trainer.layout)
        (video + audio).backward()
    return (video.item(), audio.item()), {name: value.grad for name, value in trainer.lora.items()}


def test_a_reference_that_attends_to_itself_trains_through_what_it_left_in_the_layers(mini_backbone, latents):
    full, _ = _gradients(mini_backbone, latents)
    own, gradients = _gradients(mini_backbone, latents, reference_attention="self")
    assert own != full
    assert all(torch.isfinite(one).all() for one in gradients.values())
    assert all(one.abs().sum() > 0 for one in gradients.values())


def test_gradient_checkpointing_changes_no_gradient_of_either_kind_of_reference(mini_backbone, latents):
    """A block of the reference's pass runs again in the backward pass, when the layers read instead of recording."""
    for attention in ("full", "self"):
        _, plain = _gradients(mini_backbone, latents, reference_attention=attention)
        _, again = _gradients(mini_backbone, latents, reference_attention=attention, gradient_checkpointing=True)
        assert all(torch.allclose(plain[name], again[name], atol=1e-6, rtol=1e-4) for name in plain)


def test_adapter_and_weights_record_how_a_reference_is_read(mini_backbone, latents, tmp_path):
    params = PARAMS.model_copy(update={"reference_attention": "self", "num_steps": 2})
    trained = train(mini_backbone, latents, params, tmp_path / "adapter")
    dubber = Dubber.load(mini_backbone, trained, sampling=SAMPLING)
    assert (dubber.mode.attention, dubber.mode.positions) == ("self", "negative")
    with safe_open(trained.path / adapters.WEIGHTS, framework="pt") as file:
        assert json.loads(file.metadata()["dubmill"])["reference_attention"] == "self"


def test_adamw_is_fused_on_a_gpu_where_foreach_makes_temporaries_as_large_as_the_gradients():
    weights = {"a": torch.nn.Parameter(torch.ones(2))}
    kinds = {name: build_optimizer(weights, {"a": 1.0}, PARAMS, torch.device(name)) for name in ("cuda", "cpu")}
    assert [(one.defaults["fused"], one.defaults["foreach"]) for one in kinds.values()] == [
        (True, False),
        (False, True),
    ]


def test_the_step_count_of_a_checkpoint_goes_to_the_weights_device():
    """Trap: fused AdamW refuses a step count on the CPU beside weights on a GPU; meta stands for the GPU here."""
    weight = torch.nn.Parameter(torch.ones(2, device="meta"))
    assert shard_like(torch.tensor(3.0), weight).device.type == "meta"
    assert shard_like(torch.tensor(3), weight) == 3

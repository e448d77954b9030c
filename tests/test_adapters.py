"""Adapters in other tools' hands: their key names, their metadata, their files, and what is refused."""

import json
import sys

import pytest
import torch
import yaml
from diffusers import LTX2Pipeline, LTX2VideoTransformer3DModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_ltx2_lora_to_diffusers
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dubmill import adapters
from dubmill.adapters import exchange, naming
from dubmill.adapters.lora import file_bytes, file_metadata, lora_facts
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Backbone, Report
from dubmill.cli import main as cli
from dubmill.errors import BackboneMismatchError, DubmillError, InvalidArtifactError, UsageError
from dubmill.model.load import load

TARGETS = ["to_k", "to_q", "to_v", "to_out.0", "net.0.proj", "net.2"]
ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
LAYERS = [f"{one}.{end}" for one in ATTENTIONS for end in ("to_q", "to_k", "to_v", "to_out.0")]
LAYERS += [f"{one}.{end}" for one in ("ff", "audio_ff") for end in ("net.0.proj", "net.2")]
HINTS = exchange.AdapterHints("negative", False, ["en", "es"])


@pytest.fixture(scope="module")
def adapter(mini_backbone, tmp_path_factory):
    """An adapter of random weights whose alpha is half its rank."""
    transformer = load(mini_backbone).transformer
    adapters.add_lora(transformer, rank=4, alpha=2, dropout=0.0, targets=TARGETS)
    torch.manual_seed(1)
    for value in adapters.lora_parameters(transformer).values():
        value.data.normal_(std=0.5)
    lineage = Lineage(
        step="train",
        params={"alpha": 2},
        inputs={"Backbone": mini_backbone.digest},
        backbone=mini_backbone.digest,
        text_encoder=mini_backbone.text_encoder_digest,
        licence="Apache-2.0",
        pair_source="self-made",
    )
    info = {
        "base_model": "miniature",
        "rank": 4,
        "targets": TARGETS,
        "reference_positions": "negative",
        "isolate_modalities": True,
        "num_pairs": 3,
        "languages": ["en", "es"],
    }
    draft = Adapter.draft(tmp_path_factory.mktemp("adapter") / "adapter", lineage)
    draft.write(adapters.WEIGHTS, adapters.lora_bytes(transformer, lora_facts(lineage, info)))
    adapter = draft.seal(info)
    adapter.delta = _delta(transformer)
    return adapter


def _delta(transformer):
    """What the LoRA adds to one layer, as PEFT itself computes it."""
    (name,) = transformer.peft_config
    return transformer.transformer_blocks[1].audio_ff.net[2].get_delta_weight(name).detach()


def _dubs(mini_backbone, adapter):
    modules = load(mini_backbone)
    adapters.attach_adapter(modules, mini_backbone, adapter, 1.0)
    return modules.transformer


@pytest.fixture(scope="module")
def theirs(adapter, tmp_path_factory):
    """The adapter as ComfyUI's file, in full precision."""
    out = tmp_path_factory.mktemp("exported") / "ours"
    return exchange.export_adapter(adapter, out, tool="comfyui", precision="fp32", report=None)


def _foreign(theirs, path, change=lambda tensors: None, metadata=None):
    """Somebody else's file: the same tensors, none of our facts."""
    tensors = load_file(theirs)
    change(tensors)
    save_file(tensors, path, metadata=metadata or {})
    return path


def test_the_full_19b_key_set_is_the_published_one():
    """A published Dub-It file has 1,344 pairs of rank 128, 2,352 MiB in bf16, all behind `diffusion_model.`"""
    with torch.device("meta"):
        transformer = LTX2VideoTransformer3DModel()  # its defaults are LTX-2 19B: 48 blocks of 4,096 and 2,048 numbers
        adapters.add_lora(transformer, rank=128, alpha=128, dropout=0.0, targets=TARGETS)
    state = get_peft_model_state_dict(transformer, adapter_name=adapters.ADAPTER_NAME)
    ours = {naming.LIGHTRICKS_PREFIX + naming.to_lightricks(name) for name in state}
    stems = [f"diffusion_model.transformer_blocks.{block}.{layer}" for block in range(48) for layer in LAYERS]
    assert len(stems) == 1344
    assert ours == {f"{stem}.lora_{half}.weight" for stem in stems for half in "AB"}
    count = sum(value.numel() for value in state.values())
    assert count == 1_233_125_376
    assert count * 2 == 2352 * 2**20


def test_every_layer_of_every_version_goes_to_lightricks_names_and_back_by_diffusers_own_conversion():
    with torch.device("meta"):
        models = [
            LTX2VideoTransformer3DModel(num_layers=1),
            LTX2VideoTransformer3DModel(num_layers=1, cross_attn_mod=True, audio_cross_attn_mod=True, gated_attn=True),
        ]
    names = {name for model in models for name, _ in model.named_parameters()}
    renamed = {naming.LIGHTRICKS_PREFIX + naming.to_lightricks(name): name for name in names}
    assert {naming.to_diffusers(naming.to_lightricks(name)) for name in names} == names
    back = _convert_non_diffusers_ltx2_lora_to_diffusers(renamed)
    assert back == {naming.DIFFUSERS_PREFIX + name: name for name in names}
    told_apart = {name.split(".")[1] for name in renamed} | {name.split(".")[-2] for name in renamed}
    assert {"patchify_proj", "audio_patchify_proj", "adaln_single", "audio_adaln_single"} < told_apart
    assert {"av_ca_a2v_gate_adaln_single", "prompt_adaln_single", "q_norm", "k_norm"} < told_apart


@pytest.mark.parametrize("tool", ["diffusers", "comfyui"])
def test_diffusers_opens_the_export_with_no_missing_and_no_unexpected_key(
    tool, mini_backbone, adapter, tmp_path, monkeypatch
):
    import peft

    weights = exchange.export_adapter(adapter, tmp_path / "out", tool=tool, precision="fp32", report=None)
    pipeline, results = LTX2Pipeline.from_pretrained(mini_backbone.path / "pipeline"), []
    put = peft.set_peft_model_state_dict
    monkeypatch.setattr(
        peft, "set_peft_model_state_dict", lambda *args, **more: results.append(put(*args, **more)) or results[-1]
    )
    pipeline.load_lora_weights(weights.parent, weight_name=weights.name)
    (result,) = results
    assert not [name for name in result.missing_keys if "lora_" in name]
    assert not result.unexpected_keys
    assert sum("lora_" in name for name, _ in pipeline.transformer.named_parameters()) == 2 * 28 * 2
    assert torch.allclose(_delta(pipeline.transformer), adapter.delta, atol=1e-6)


def test_alpha_is_in_the_weights_so_every_tool_scales_alike(adapter, mini_backbone, theirs):
    """Lightricks' pipelines compute B times A and know no alpha; an alpha of half the rank would be lost there."""
    assert torch.allclose(_delta(_dubs(mini_backbone, adapter)), adapter.delta, atol=1e-6)
    tensors = load_file(theirs)
    stem = "diffusion_model.transformer_blocks.1.audio_ff.net.2"
    assert torch.allclose(tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"], adapter.delta, atol=1e-6)
    assert not [name for name in tensors if "alpha" in name]


def test_the_export_tells_what_their_loaders_and_ours_ask_for(adapter, theirs):
    with safe_open(theirs, framework="pt") as file:
        metadata = file.metadata()
    assert {int(metadata[name]) for name in exchange.REFERENCE_SCALES} == {1}
    known = json.loads(metadata["dubmill"])
    assert known["reference_positions"] == "negative"
    assert known["adapter"] == adapter.digest


def test_equal_adapters_give_equal_bytes(adapter, tmp_path):
    """safetensors' own writer keeps metadata in no order."""
    weights = [
        exchange.export_adapter(adapter, tmp_path / name / "out", tool="comfyui", precision="bf16", report=None)
        for name in "abcd"
    ]
    assert len({path.read_bytes() for path in weights}) == 1
    loaded = load_file(weights[0])
    assert {value.dtype for value in loaded.values()} == {torch.bfloat16}
    assert len(loaded) == 112


def test_a_header_written_in_order_reads_back_the_same_tensors(tmp_path):
    tensors = {
        "b": torch.randn(3, 2),
        "a": torch.arange(5, dtype=torch.int64),
        "c": torch.zeros(1, dtype=torch.bfloat16),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes(tensors, {"z": "1", "a": "2"}))
    back = load_file(path)
    assert all(torch.equal(back[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("tool", ["diffusers", "comfyui"])
def test_our_own_export_comes_back_as_the_same_adapter(tool, mini_backbone, adapter, tmp_path):
    file = exchange.export_adapter(adapter, tmp_path / "out", tool=tool, precision="fp32", report=None)
    back = exchange.import_lora(file, mini_backbone, exchange.AdapterHints(None, None, None), tmp_path / "back")
    same = ("base_model", "rank", "reference_positions", "isolate_modalities", "languages", "num_pairs")
    assert {name: back.info[name] for name in same} == {name: adapter.info[name] for name in same}
    assert (back.lineage.pair_source, back.lineage.licence) == ("self-made", "Apache-2.0")
    assert torch.equal(_delta(_dubs(mini_backbone, back)), _delta(_dubs(mini_backbone, adapter)))


def test_a_file_of_somebody_else_becomes_an_adapter_once_its_facts_are_given(mini_backbone, adapter, theirs, tmp_path):
    path = _foreign(theirs, tmp_path / "dubit.safetensors")
    made = exchange.import_lora(path, mini_backbone, HINTS, tmp_path / "made")
    assert Adapter.open(made.path).info["reference_positions"] == "negative"
    assert made.info["isolate_modalities"] is False
    assert torch.equal(_delta(_dubs(mini_backbone, made)), _delta(_dubs(mini_backbone, adapter)))
    assert sorted(made.info["targets"]) == sorted(LAYERS)


def test_an_alpha_in_their_file_scales_as_comfyui_scales_it(mini_backbone, adapter, theirs, tmp_path):
    stem = "diffusion_model.transformer_blocks.1.audio_ff.net.2"
    path = _foreign(theirs, tmp_path / "a.safetensors", lambda all_: all_.update({f"{stem}.alpha": torch.tensor(1.0)}))
    made = exchange.import_lora(path, mini_backbone, HINTS, tmp_path / "made")
    assert torch.allclose(_delta(_dubs(mini_backbone, made)), adapter.delta / 4, atol=1e-6)  # alpha 1 of rank 4


def test_an_alpha_in_diffusers_metadata_scales_as_diffusers_scales_it(mini_backbone, adapter, tmp_path):
    """diffusers' training scripts save alpha there, not in a tensor."""
    source = exchange.export_adapter(adapter, tmp_path / "out", tool="diffusers", precision="fp32", report=None)

    def file(name, **config):
        told = {f"transformer.{key}": value for key, value in config.items()}
        return _foreign(source, tmp_path / name, metadata={"lora_adapter_metadata": json.dumps(told)})

    made = exchange.import_lora(file("a.safetensors", r=4, lora_alpha=8), mini_backbone, HINTS, tmp_path / "made")
    ours = _delta(_dubs(mini_backbone, made))
    pipeline = LTX2Pipeline.from_pretrained(mini_backbone.path / "pipeline")
    target = list({name.split(".lora_")[0].removeprefix("transformer.") for name in load_file(source)})
    config = file("b.safetensors", r=4, lora_alpha=8, target_modules=target)
    pipeline.load_lora_weights(config.parent, weight_name=config.name)
    assert torch.allclose(ours, _delta(pipeline.transformer), atol=1e-6)
    assert torch.allclose(ours, 2 * adapter.delta, atol=1e-6)
    odd = file("c.safetensors", r=4, lora_alpha=8, use_rslora=True)
    with pytest.raises(InvalidArtifactError, match="use_rslora"):
        exchange.import_lora(odd, mini_backbone, HINTS, tmp_path / "odd")


def test_a_lora_on_some_layers_of_some_blocks_gets_exactly_those(mini_backbone, theirs, tmp_path):
    def only_first_attention(tensors):
        for name in list(tensors):
            if ".0.attn1." not in name:
                del tensors[name]

    path = _foreign(theirs, tmp_path / "a.safetensors", only_first_attention)
    made = exchange.import_lora(path, mini_backbone, HINTS, tmp_path / "made")
    assert made.info["targets"] == sorted(
        f"transformer_blocks.0.attn1.{end}" for end in ("to_k", "to_out.0", "to_q", "to_v")
    )
    transformer = _dubs(mini_backbone, made)
    assert sum("lora_A" in name for name, _ in transformer.named_parameters()) == 4


def _drop_one_half(tensors):
    del tensors[next(name for name in tensors if "lora_B" in name)]


def _add_a_bias(tensors):
    tensors["diffusion_model.transformer_blocks.0.attn1.to_q.diff_b"] = torch.zeros(3)


def _add_a_connector(tensors):
    for half in "AB":
        tensors[f"text_embedding_projection.aggregate_embed.lora_{half}.weight"] = torch.zeros(4, 4)


def _halve_one_rank(tensors):
    for half in "AB":
        name = f"diffusion_model.transformer_blocks.0.attn1.to_q.lora_{half}.weight"
        tensors[name] = (tensors[name][:2] if half == "A" else tensors[name][:, :2]).contiguous()


def _widen(tensors):
    for name in list(tensors):
        if "lora_A" in name:
            tensors[name] = torch.zeros(4, 4096)


def _deepen(tensors):
    for name in list(tensors):
        tensors[name.replace("blocks.1.", "blocks.47.")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "error", "told_as"),
    [
        (_drop_one_half, InvalidArtifactError, "only one of lora_A and lora_B"),
        (_add_a_bias, InvalidArtifactError, "do not belong to a LoRA, such as"),
        (_add_a_connector, BackboneMismatchError, "not in this backbone, such as text_embedding_projection"),
        (_halve_one_rank, InvalidArtifactError, r"different ranks \(2, 4\)"),
        (_widen, BackboneMismatchError, r"\(4096, \d+\) in the file"),
        (_deepen, BackboneMismatchError, "28 of its 56 layers are not in this backbone"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(change, error, told_as, mini_backbone, theirs, tmp_path):
    path = _foreign(theirs, tmp_path / "bad.safetensors", change)
    with pytest.raises(error, match=told_as) as raised:
        exchange.import_lora(path, mini_backbone, HINTS, tmp_path / "made")
    assert "\n" not in raised.value.sentence
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("missing", ["reference_positions", "isolate_modalities", "languages"])
def test_what_a_file_cannot_tell_must_be_given(missing, mini_backbone, theirs, tmp_path):
    path = _foreign(theirs, tmp_path / "a.safetensors")
    said = exchange.AdapterHints(**{**HINTS.__dict__, missing: None})
    with pytest.raises(UsageError, match=f"--{missing.replace('_', '-')}"):
        exchange.import_lora(path, mini_backbone, said, tmp_path / "made")


def test_a_file_that_contradicts_what_is_given_or_another_backbone_is_refused(mini_backbone, theirs, tmp_path):
    with pytest.raises(UsageError, match="negative.*shared"):
        exchange.import_lora(theirs, mini_backbone, exchange.AdapterHints("shared", True, None), tmp_path / "made")
    info = {**mini_backbone.info, "text_encoder_digest": "9" * 64}
    other = Backbone(mini_backbone.path, mini_backbone.manifest.model_copy(update={"info": info}))
    with pytest.raises(BackboneMismatchError, match="text encoder"):
        exchange.import_lora(theirs, other, HINTS, tmp_path / "made")


def test_a_reference_of_another_size_and_what_is_no_safetensors_are_refused(mini_backbone, theirs, tmp_path):
    path = _foreign(theirs, tmp_path / "a.safetensors", metadata={"reference_downscale_factor": "2"})
    with pytest.raises(InvalidArtifactError, match="reference_downscale_factor 2"):
        exchange.import_lora(path, mini_backbone, HINTS, tmp_path / "made")
    for name in ("nothing.safetensors", "text.safetensors"):
        (tmp_path / "text.safetensors").write_text("no tensors here")
        with pytest.raises(InvalidArtifactError, match="not a safetensors file"):
            exchange.import_lora(tmp_path / name, mini_backbone, HINTS, tmp_path / "made")


def test_an_export_goes_into_a_new_folder_with_its_card_and_notice(adapter, theirs, tmp_path):
    card = (theirs.parent / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "diffusers"
    assert front["language"] == ["en", "es"]
    assert "base_model" not in front  # `miniature` is no repository of a hub
    for fact in (
        "negative",
        adapter.digest,
        adapter.lineage.text_encoder,
        "machine-generated",
        "Pairs: 3, generated by",
    ):
        assert fact in card
    assert "Apache-2.0" in (theirs.parent / "NOTICE").read_text()
    with pytest.raises(UsageError, match="name a new folder"):
        exchange.export_adapter(adapter, theirs.parent, tool="comfyui", precision="bf16", report=None)


def test_the_card_of_an_ltx2_adapter_has_the_hubs_front_matter_and_its_reports_figures(adapter, tmp_path):
    lineage = adapter.lineage.model_copy(update={"licence": "LTX-2-Community-License-Agreement"})
    ltx2 = Adapter(
        adapter.path,
        adapter.manifest.model_copy(
            update={"lineage": lineage, "info": {**adapter.info, "base_model": "Lightricks/LTX-2"}}
        ),
    )
    draft = Report.draft(tmp_path / "report", Lineage(step="evaluate", params={}, inputs={"Adapter": adapter.digest}))
    draft.write("metrics.json", json.dumps({"adapter": {"words_right": {"mean": 0.5}}}).encode())
    report = draft.seal({"is_toy": False})
    weights = exchange.export_adapter(ltx2, tmp_path / "out", tool="diffusers", precision="bf16", report=report)
    card = (weights.parent / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "ltx-2-community-license-agreement")
    assert (front["base_model"], front["base_model_relation"]) == ("Lightricks/LTX-2", "adapter")
    assert "| words_right | 0.5 |" in card
    stranger = Report(report.path, report.manifest.model_copy(update={"lineage": Lineage(step="evaluate", params={})}))
    with pytest.raises(UsageError, match="another adapter"):
        exchange.export_adapter(ltx2, tmp_path / "more", tool="diffusers", precision="bf16", report=stranger)


def test_the_command_exports_and_imports(mini_backbone, adapter, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dubmill", "adapter", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0

    out = tmp_path / "mine"
    assert call("export", adapter.path, "--to", "comfyui", "--out", out) == 0
    assert "MiB, bf16" in capsys.readouterr().out
    file = out / "mine.safetensors"
    assert call("import", file, "--backbone", mini_backbone.path, "--out", tmp_path / "back") == 0
    assert Adapter.open(tmp_path / "back").info["rank"] == 4
    foreign = _foreign(file, tmp_path / "foreign.safetensors")
    given = ("import", foreign, "--backbone", mini_backbone.path, "--out", tmp_path / "f")
    assert call(*given, "--reference-positions", "negative") == 2
    assert "--isolate-modalities" in capsys.readouterr().err
    assert call(*given, "--reference-positions", "negative", "--no-isolate-modalities", "--languages", "es") == 0
    assert Adapter.open(tmp_path / "f").info["isolate_modalities"] is False


def test_metadata_that_is_not_ours_is_not_read_as_ours(mini_backbone, theirs, tmp_path):
    path = _foreign(theirs, tmp_path / "a.safetensors", metadata={"dubmill": "[1"})
    with pytest.raises(DubmillError, match="cannot be read"):
        exchange.import_lora(path, mini_backbone, HINTS, tmp_path / "made")
    assert file_metadata({"b": 1, "a": 2}) == {"dubmill": '{"a": 2, "b": 1}'}

"""The shipped weights: whole, refused when they are not, and a folder that the pipeline opens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dubmill.errors import ChangedArtifactError
from dubmill.model.mel import MelSettings
from dubmill.model.mel import log_mel as library_log_mel
from dubmill.nano import mel, tokenizer, weights
from dubmill.nano.captions import caption
from dubmill.nano.world import Phrase


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nano") / "folder"
    weights.unpack_weights(out)
    return out


def test_the_folder_has_every_module_of_the_pipeline(folder: Path):
    index = json.loads((folder / "model_index.json").read_text())
    named = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    assert named == {
        "scheduler", "vae", "audio_vae", "text_encoder", "tokenizer", "connectors", "transformer", "vocoder",
    }  # fmt: skip
    assert all((folder / name).is_dir() for name in named)
    assert (folder / "scorers" / "scorers.safetensors").exists()


def test_the_weights_stay_under_their_size():
    assert sum(path.stat().st_size for path in weights.WEIGHTS.rglob("*") if path.is_file()) < 36e6


def test_no_shipped_config_tells_where_its_part_was_trained():
    configs = list(weights.WEIGHTS.rglob("*.json"))
    assert configs
    assert not [path for path in configs if "_name_or_path" in path.read_text()]


@pytest.mark.parametrize("fault", ["changed", "missing", "no digests"])
def test_a_spoiled_weight_file_is_refused_and_leaves_nothing(tmp_path: Path, fault: str):
    spoiled, out = tmp_path / "weights", tmp_path / "folder"
    shutil.copytree(weights.WEIGHTS, spoiled)
    victim = spoiled / ("digests.json" if fault == "no digests" else "vocoder/diffusion_pytorch_model.safetensors")
    if fault == "changed":
        content = bytearray(victim.read_bytes())
        content[-1] ^= 1
        victim.write_bytes(content)
    else:
        victim.unlink()
    with pytest.raises(ChangedArtifactError, match=r"vocoder|digests"):
        weights.unpack_weights(out, weights=spoiled)
    assert not out.exists()


def test_words_are_fused_with_their_place():
    tokens = tokenizer.build()
    told = caption("A person", [Phrase("es", ("seis", "siete", "uno")), Phrase("fr", ("six", "six", "un"))])
    spoken = [token for token in tokens.convert_ids_to_tokens(tokens(told).input_ids) if token[0] in "①②③④⑤⑥"]
    assert spoken == ["①seis", "②siete", "③uno", "④six", "⑤six", "⑥un"]


def test_one_language_counts_on_over_both_halves():
    tokens = tokenizer.build()
    told = caption("A person", [Phrase("en", ("one", "two", "six"))] * 2)
    assert tokens.convert_ids_to_tokens(tokens(told).input_ids)[-6:] == ["①one", "②two", "③six", "④one", "⑤two", "⑥six"]


def test_no_caption_is_cut_or_unknown():
    from dubmill.nano.world import LANGUAGES, puppet

    tokens = tokenizer.build()
    for seed in range(100):
        first, second = list(LANGUAGES)[seed % 4], list(LANGUAGES)[(seed + 1) % 4]
        phrases = [Phrase(tag, LANGUAGES[tag][seed % 8 : seed % 8 + 3]) for tag in (first, second)]
        ids = tokens(caption(puppet(seed).describe(), phrases)).input_ids
        assert len(ids) <= tokens.model_max_length
        assert tokens.unk_token_id not in ids


def test_nanos_log_mel_equals_the_librarys():
    audio_BN = torch.randn(2, 16640, generator=torch.Generator().manual_seed(0)) * 0.1
    settings = MelSettings(mel.SAMPLE_RATE_HZ, 1024, mel.HOP_SAMPLES, mel.NUM_BANDS, "slaney", 1e-5)
    assert torch.allclose(mel.nano_log_mel(audio_BN), library_log_mel(audio_BN[:, None], settings)[:, 0], atol=1e-4)

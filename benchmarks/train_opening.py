"""Train the network that estimates the mouth opening from sound, on neural speech with exact phoneme times.

    python -m benchmarks.train_opening FOLDER [--clips 160] [--steps 1500]

FOLDER gets Kokoro (see `neural_speech.py`) and the spoken clips, each once: a second run goes on. Writes
src/dubmill/scorers/weights/opening.safetensors and prints its correlation with the openings by phoneme on sentences and
voices that it was not trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.neural_speech import ITALIAN, SAMPLE_RATE_HZ, Kokoro, Speech, fetch
from dubmill.metrics.lipsync import correlation
from dubmill.prompting.phrases import PHRASES
from dubmill.scorers.opening import DILATIONS, FRAME_RATE_HZ, NUM_BANDS, OpeningScorer, bands

OUT = Path("src/dubmill/scorers/weights/opening.safetensors")
VOICES = {
    "en": ("af_heart", "am_adam", "af_bella", "am_michael", "bf_emma", "bm_george"),
    "es": ("ef_dora", "em_alex", "em_santa"),
    "fr": ("ff_siwis", "if_sara"),
    "pt": ("pf_dora", "pm_alex", "pm_santa"),
    "de": ("im_nicola", "ff_siwis", "am_michael"),
    "it": ("if_sara", "im_nicola"),
}
HELD_OUT_VOICES, HELD_OUT_EVERY = ("bf_emma", "em_alex", "pm_alex", "if_sara"), 7  # and every seventh sentence
CHANNELS, WIDTHS, PIECE = 48, (5, 5, 5, 1), 200

# How far the mouth is open in each sound, 0 shut to 1 wide: vowels by their height in the IPA chart and lip rounding,
# consonants by how they are made. No measurement: what was trained on this is a proxy.
OPENINGS = {
    **dict.fromkeys("pbm", 0.0), **dict.fromkeys("fvβɱ", 0.1), **dict.fromkeys("wʍ", 0.15),
    **dict.fromkeys("sztdnθðʦʣʃʒʧʤɕʑlɫɾ", 0.22), **dict.fromkeys("ɹrʁɻjɲʎç", 0.28), **dict.fromkeys("kɡŋxɣχhɦʔ", 0.35),
    **dict.fromkeys("uy", 0.22), **dict.fromkeys("iɪʊɨɯᵻ", 0.32), **dict.fromkeys("eøoɘɤ", 0.48),
    **dict.fromkeys("əɚɵᵊ", 0.42), **dict.fromkeys("ɛœɔɜɝʌ", 0.65), **dict.fromkeys("æɐ", 0.85),
    **dict.fromkeys("aɑɒ", 1.0), "A": 0.5, "I": 0.8, "W": 0.75, "Y": 0.5, "O": 0.45, "Q": 0.42,
}  # fmt: skip
SHUT, SMOOTH_SECONDS = 0.05, 0.035  # a mouth at rest; how fast it follows
PAUSE_SECONDS = 0.12  # a gap between sounds for as long shuts it


def opening_of(speech: Speech) -> np.ndarray:
    """(T,) opening every 10 ms: each sound's own in its middle, straight lines between, smoothed."""
    places, values = [0.0], [SHUT]
    for letter, start, stop in speech.phonemes:
        if letter in OPENINGS:
            if start / SAMPLE_RATE_HZ - places[-1] > PAUSE_SECONDS:
                places += [places[-1] + PAUSE_SECONDS / 2, start / SAMPLE_RATE_HZ - PAUSE_SECONDS / 3]
                values += [SHUT, SHUT]
            places.append((start + stop) / 2 / SAMPLE_RATE_HZ)
            values.append(OPENINGS[letter])
    times_T = np.arange(int(len(speech.audio_N) / SAMPLE_RATE_HZ * FRAME_RATE_HZ)) / FRAME_RATE_HZ
    trace_T = np.interp(times_T, [*places, places[-1] + PAUSE_SECONDS], [*values, SHUT])
    reach = int(3 * SMOOTH_SECONDS * FRAME_RATE_HZ)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / FRAME_RATE_HZ / SMOOTH_SECONDS) ** 2)
    return np.convolve(np.pad(trace_T, reach, mode="edge"), kernel / kernel.sum(), mode="valid").astype(np.float32)


def plan(num_clips: int) -> Iterator[tuple[str, str, str, str, float]]:
    """(name, text, language, voice, speed) of clips in a fixed order that mixes languages and voices from the first on."""
    random = np.random.default_rng(0)
    all_clips = [
        (f"{at:02d}-{tag}-{voice}", text, tag, voice, float(random.uniform(0.85, 1.3)))
        for at, texts in enumerate(PHRASES)
        for tag, voices in VOICES.items()
        for text in ([texts[tag]] if tag in texts else ITALIAN[at : at + 1])
        for voice in voices
    ]
    return (all_clips[at] for at in random.permutation(len(all_clips))[:num_clips])


def spoken(folder: Path, num_clips: int) -> list[tuple[str, bool, Speech]]:
    """(name, whether it is held out, speech) of the first clips of `plan`."""
    kokoro: Kokoro | None = None
    clips = []
    for name, text, language, voice, speed in plan(num_clips):
        kept = folder / "speech" / f"{name}.npz"
        if not kept.is_file():
            kokoro = kokoro or Kokoro(fetch(folder))
            speech = kokoro.say(text, language=language, voice=voice, speed=speed)
            kept.parent.mkdir(parents=True, exist_ok=True)
            letters, starts, stops = zip(*speech.phonemes, strict=True)
            np.savez(kept, audio_N=speech.audio_N, letters=letters, starts=starts, stops=stops)
        with np.load(kept) as arrays:
            timed = zip(arrays["letters"].tolist(), arrays["starts"].tolist(), arrays["stops"].tolist(), strict=True)
            speech = Speech(arrays["audio_N"], tuple(timed))
        clips.append((name, voice in HELD_OUT_VOICES or int(name[:2]) % HELD_OUT_EVERY == 0, speech))
    return clips


def heard(speech: Speech, random: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """(T, M) bands and (T,) opening; with noise, a tilt of the spectrum and a change of level where there is chance."""
    from scipy.signal import lfilter, resample_poly

    audio_N = resample_poly(speech.audio_N, 2, 3).astype(np.float32)
    if random is not None:
        noise_N = random.normal(size=len(audio_N))
        noise_N = lfilter([1.0], [1.0, -random.uniform(0, 0.95)], noise_N)
        level = np.sqrt(np.mean(audio_N**2) / np.mean(noise_N**2)) * 10 ** (-random.uniform(8, 45) / 20)
        tilt = random.uniform(-0.6, 0.6)
        audio_N = lfilter([1.0, tilt], [1.0], audio_N + level * noise_N) * random.uniform(0.1, 1.0)
    bands_TM, opening_T = bands(audio_N), opening_of(speech)
    length = min(len(bands_TM), len(opening_T) - 1)  # a band's window reaches 16 ms to either side of where it stands
    return bands_TM[:length], opening_T[1 : length + 1]


def network() -> torch.nn.Sequential:
    """The network of `dubmill.scorers.opening`, to be trained."""
    sizes = (NUM_BANDS, *[CHANNELS] * (len(DILATIONS) - 1), 1)
    layers: list[torch.nn.Module] = []
    for at, (dilation, width) in enumerate(zip(DILATIONS, WIDTHS, strict=True)):
        reach = dilation * (width - 1) // 2
        layers += [torch.nn.Conv1d(sizes[at], sizes[at + 1], width, dilation=dilation, padding=reach), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1], torch.nn.Sigmoid())


def trained(clips: list[Speech], *, num_steps: int, seed: int = 0) -> bytes:
    """The weights after `num_steps` of 16 pieces of 2 s each."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_steps)
    pool: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(num_steps):
        if step % 150 == 0:
            pool = [heard(speech, random) for speech in clips]
        batch = [_piece(*pool[at], random) for at in random.integers(0, len(pool), 16)]
        bands_BMT, opening_BT = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*batch, strict=True))
        loss = torch.nn.functional.mse_loss(net(bands_BMT.transpose(1, 2))[:, 0], opening_BT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            sys.stdout.write(f"step {step}: {loss.item():.4f}\n")
    convolutions = [module for module in net if isinstance(module, torch.nn.Conv1d)]
    return save({f"{at}.{name}": value.detach().contiguous() for at, layer in enumerate(convolutions)
                 for name, value in layer.named_parameters()})  # fmt: skip


def _piece(bands_TM: np.ndarray, opening_T: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    start = int(random.integers(0, max(1, len(opening_T) - PIECE)))
    piece = bands_TM[start : start + PIECE], opening_T[start : start + PIECE]
    short = PIECE - len(piece[1])
    return np.pad(piece[0], ((0, short), (0, 0)), mode="edge"), np.pad(piece[1], (0, short), mode="edge")


def main() -> None:
    """Speak, train, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    clips = spoken(given.folder, given.clips)
    weights = trained([speech for _, is_held_out, speech in clips if not is_held_out], num_steps=given.steps)
    scorer = OpeningScorer(weights)
    for language in VOICES:
        held = [heard(speech, None) for name, is_held_out, speech in clips if is_held_out and f"-{language}-" in name]
        figures = [correlation(scorer.trace(bands_TM), opening_T) for bands_TM, opening_T in held]
        sys.stdout.write(f"{language}: correlation {np.mean(figures):.3f} over {len(figures)} held-out clips\n")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(weights)
    sys.stdout.write(f"{OUT}: {len(weights) / 1000:.0f} kB, sha256 {hashlib.sha256(weights).hexdigest()}\n")


if __name__ == "__main__":
    main()

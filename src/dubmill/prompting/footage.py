"""A team's own recordings as prompts: one manifest line per video, checked one by one.

The manifest is a CSV file, or a folder with a `manifest.csv`, with the columns

    video, language, text, speaker, consent                          required
    content, split, dub_language, dub_text                           optional

`video` is relative to the manifest. `speaker` tells people apart; a word such as woman or man in it goes into captions.
`consent` says in a sentence that the speaker agreed to be dubbed. Recordings of one speaker with the same `content`, in two
languages, are a true pair. `split` is train (default) or heldout. Any other recording is one half-way cut clip: its `text`
is divided over the two halves of the clip, at ` | ` where it has that mark, else by speaking time. `dub_text` is what the
clip says when it is dubbed, divided likewise; without it sentences of the phrase bank are taken.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.artifacts.files import digest_of, sha256_of
from dubmill.artifacts.rows import FOOTAGE, FOOTAGE_PAIR, Line, Prompt
from dubmill.config.params import PromptsParams
from dubmill.errors import DubmillError, InvalidParamsError, UnreadableMediaError, UnsupportedTextError, UsageError
from dubmill.prompting.captions import dub_caption, switch_caption
from dubmill.prompting.phrases import PHRASES
from dubmill.prompting.slots import Slot, fill_slot, unique_seeds
from dubmill.text import timing
from dubmill.text.languages import is_in_script, language
from dubmill.text.speakers import speaker_of

MANIFEST_FILE = "manifest.csv"
REQUIRED = ("video", "language", "text", "speaker", "consent")
SPLITS = ("train", "heldout")
HALVES_MARK = "|"
CLIP, ORIGINAL, COUNTERPART = "clip.video", "original.video", "counterpart.video"  # names of the files in the set
MAX_CONSENTS = 20  # statements that a lineage quotes; of more it gives the number and a digest


@dataclass(frozen=True)
class Recording:
    """One line of the manifest, once it is known to be usable."""

    video: Path
    line: Line
    speaker: str
    consent: str
    content: str
    split: str
    dub: Line  # empty text: from the phrase bank; empty language: any of the others


@dataclass(frozen=True)
class Footage:
    """Prompts from recordings, their video files by prompt id and name, and the recordings that were dropped."""

    prompts: list[Prompt]
    files: dict[str, dict[str, Path]]
    dropped: list[dict[str, str]]
    digest: str  # of all that was read

    @property
    def consent(self) -> str:
        """The distinct consent statements, as lineage carries them."""
        statements = sorted({prompt.consent for prompt in self.prompts})
        if len(statements) > MAX_CONSENTS:
            return f"{len(statements)} statements, sha256 {digest_of(statements)}"
        return "; ".join(statements)


def read_footage(params: PromptsParams) -> Footage:
    """Returns the prompts of the recordings in `params.footage`; a recording that cannot be used is dropped by name.

    Raises:
        UsageError: there is no manifest, or it lacks a column.
        InvalidParamsError: no recording can be used; the sentence gives the reason of the first.
    """
    path = Path(params.footage)
    manifest = path / MANIFEST_FILE if path.is_dir() else path
    recordings, dropped = _recordings(manifest, params)
    groups, unpaired = _groups(recordings)
    dropped += unpaired
    seeds = unique_seeds(params.seed, len(groups))
    prompts, files = [], {}
    for index, (group, seed) in enumerate(zip(groups, seeds, strict=True)):
        try:
            prompt = _prompt(f"p{index:05d}", group, seed, params)
        except UnsupportedTextError as error:
            dropped.append({"id": str(group[0].video), "reason": error.what})
            continue
        prompts.append(prompt)
        names = (ORIGINAL, COUNTERPART) if len(group) == 2 else (CLIP,)
        files[prompt.id] = {name: one.video for name, one in zip(names, group, strict=True)}
    if not prompts:
        reason = f"{dropped[0]['id']}: {dropped[0]['reason']}" if dropped else "the manifest has no lines"
        raise InvalidParamsError(f"no recording can be used; {reason}", where=str(manifest), cure="see docs/footage.md")
    digests = [manifest, *(video for named in files.values() for video in named.values())]
    return Footage(prompts, files, dropped, digest_of([sha256_of(one) for one in digests]))


def _recordings(manifest: Path, params: PromptsParams) -> tuple[list[Recording], list[dict[str, str]]]:
    usable, dropped = [], []
    for row in _rows(manifest):
        video = manifest.parent / row["video"]
        try:
            usable.append(_checked(video, row, params))
        except DubmillError as error:
            dropped.append({"id": str(video), "reason": error.what})
    return usable, dropped


def _rows(manifest: Path) -> Iterator[dict[str, str]]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"there is no manifest that can be read ({error})",
            where=str(manifest),
            cure="name a CSV file in prompts.footage",
        ) from error
    if missing := [name for name in REQUIRED if name not in (reader.fieldnames or ())]:
        raise UsageError(f"the manifest has no column {missing[0]}", where=str(manifest), cure="see docs/footage.md")
    for row in rows:
        yield {name: (value or "").strip() for name, value in row.items() if name is not None}


def _checked(video: Path, row: Mapping[str, str], params: PromptsParams) -> Recording:
    """Returns the recording of one line.

    Raises:
        DubmillError: it cannot be used.
    """
    if not row["consent"]:
        raise UsageError("no consent: nobody says that the speaker agreed to be dubbed")
    if not row["speaker"]:
        raise UsageError("no speaker is named")
    if row["language"] not in params.languages:
        raise UnsupportedTextError(f"its language {row['language']!r} is not among {', '.join(params.languages)}")
    split = row.get("split") or SPLITS[0]
    if split not in SPLITS:
        raise UsageError(f"its split {split!r} is neither train nor heldout")
    dub = Line(language=row.get("dub_language", ""), text=row.get("dub_text", ""))
    line = Line(language=row["language"], text=row["text"])
    _check_line(line)
    if dub.text:
        _check_line(dub)
        if dub.language == line.language:
            raise UnsupportedTextError("it is to be dubbed into its own language")
    if not media.probe(video).has_audio:
        raise UnreadableMediaError("there is no sound in it")
    consent = row["consent"].replace(";", ",")  # the mark between the statements of a lineage
    return Recording(video, line, row["speaker"], consent, row.get("content", ""), split, dub)


def _check_line(line: Line) -> None:
    language(line.language)
    if not any(character.isalpha() for character in line.text):
        raise UnsupportedTextError("it has no text")
    if '"' in line.text:
        raise UnsupportedTextError("its text contains a double quote, which captions quote the words with")
    if not is_in_script(line.text, line.language):
        raise UnsupportedTextError(f"its text is not in the script of {language(line.language).name}")


def _groups(recordings: Sequence[Recording]) -> tuple[list[tuple[Recording, ...]], list[dict[str, str]]]:
    """Returns true pairs and single recordings, in the manifest's order, and the recordings that are in neither."""
    groups: dict[tuple[str, str], list[Recording]] = {}
    for index, one in enumerate(recordings):
        key = (one.speaker, one.content) if one.content else ("", str(index))
        groups.setdefault(key, []).append(one)
    chosen, dropped = [], []
    for group in groups.values():
        first, others = group[0], group[1:]
        partner = next((one for one in others if _are_pair(first, one)), None)
        chosen.append((first, partner) if partner else (first,))
        reason = f"it is no second language to {first.video.name}, the first of this speaker and content"
        dropped += [{"id": str(one.video), "reason": reason} for one in others if one is not partner]
    return chosen, dropped


def _are_pair(first: Recording, other: Recording) -> bool:
    return first.line.language != other.line.language and first.split == other.split


def _prompt(prompt_id: str, group: tuple[Recording, ...], seed: int, params: PromptsParams) -> Prompt:
    first = group[0]
    caption_speaker = speaker_of(first.speaker)
    if len(group) == 2:
        one, other = (recording.line for recording in group)
        consents = dict.fromkeys(recording.consent for recording in group)
        return Prompt(
            id=prompt_id,
            split=first.split,
            source=FOOTAGE_PAIR,
            seed=seed,
            speaker=first.speaker,
            first=one,
            second=one,
            first_dubbed=other,
            second_dubbed=other,
            caption=dub_caption(caption_speaker, one),
            caption_first_dubbed=dub_caption(caption_speaker, other),
            caption_second_dubbed=dub_caption(caption_speaker, other),
            consent="; ".join(consents),
        )
    former, latter = halves_of(first.line, params.line_seconds)
    former_dubbed, latter_dubbed = _dubbed(first, seed, params)
    prompt = fill_slot(
        Slot(prompt_id, first.split, former.language, former_dubbed.language, seed),
        source=FOOTAGE,
        speaker=first.speaker,
        lines=(former, latter, former_dubbed, latter_dubbed),
        caption=partial(switch_caption, caption_speaker),
    )
    return prompt.model_copy(update={"consent": first.consent})


def halves_of(line: Line, half_seconds: float) -> tuple[Line, Line]:
    """Returns what is said in either half of a clip: parted at ` | `, or by speaking time where there is no mark.

    Raises:
        UnsupportedTextError: a half has no words.
    """
    if HALVES_MARK in line.text:
        texts = line.text.split(HALVES_MARK, 1)
    else:
        texts = timing.share_out(line, [(0.0, half_seconds), (half_seconds, 2 * half_seconds)])
    former, latter = (Line(language=line.language, text=text.strip()) for text in texts)
    if not former.text or not latter.text:
        raise UnsupportedTextError("its text has too few words for two halves")
    return former, latter


def _dubbed(recording: Recording, seed: int, params: PromptsParams) -> tuple[Line, Line]:
    """Returns the lines of both halves in another language: the manifest's, or two sentences of the phrase bank that fit."""
    if recording.dub.text:
        return halves_of(recording.dub, params.line_seconds)
    rng = np.random.default_rng(seed)
    others = [tag for tag in params.languages if tag != recording.line.language]
    tag = recording.dub.language or others[int(rng.integers(len(others)))]
    if tag not in PHRASES[0] or tag == recording.line.language:
        raise UnsupportedTextError(f"the phrase bank cannot dub it into {tag!r}: give its dub_text")
    lines = [Line(language=tag, text=phrase[tag]) for phrase in PHRASES]
    fitting = [line for line in lines if timing.fit(line, params.line_seconds).verdict == "fits"]
    if len(fitting) < 2:
        raise UnsupportedTextError(
            f"no sentence of the phrase bank fits into {params.line_seconds:g} s: give its dub_text"
        )
    former, latter = rng.choice(len(fitting), size=2, replace=False)
    return fitting[former], fitting[latter]

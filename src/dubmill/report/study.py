"""Blind study: people compare two dubs of a clip without knowing which method made which; their answers as figures.

The page is one offline file without the names of the methods. Which dub is shown as A is drawn by a seed and stands only in
the key, which stays with whoever runs the study. Some trials show one dub twice: what a rater prefers there is noise.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from dubmill.artifacts.files import digest_of, write_atomically
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import DubSet, PairSet
from dubmill.errors import InvalidArtifactError, UsageError
from dubmill.metrics.stats import bootstrap_interval, holm, paired_test
from dubmill.report.figures import SUBJECT
from dubmill.report.measuring import cluster_of
from dubmill.report.page import rendered

ASPECTS = {
    "words": "Which one says the written words more clearly?",
    "lips": "In which one do the lips fit the sound better?",
    "voice": "Which voice is more like the original's?",
    "picture": "Which picture looks more like the original's?",
    "overall": "Which dub would you rather publish?",
}
CHOICES = {"a": -1, "same": 0, "b": 1}
PAGE, KEY = "study.html", "key.json"
NUM_CHECKS = 2  # trials that show one dub twice
POWER, DIFFERENCE = 0.8, 0.2  # of the number of people that a later study needs


class Trial(BaseModel):
    """One comparison: the methods shown as A and B; equal ones for a check."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    pair_id: str
    cluster: str
    a: str
    b: str


class Key(BaseModel):
    """What the page does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: str
    trials: list[Trial]


class Answers(BaseModel):
    """What the page saves: the choices of one rater, by trial and aspect."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: str
    rater: str
    answers: dict[str, dict[str, str]]


def make_study(dubs: DubSet, pairs: PairSet, methods: Sequence[str], num_clips: int, seed: int, out: Path) -> int:
    """Write page and key into the folder `out`: `SUBJECT` against each of `methods` on `num_clips` clips; returns the number of trials.

    Clips of different people come first.

    Raises:
        UsageError: a method has no dubs, there are fewer clips, or `out` holds another study.
    """
    rows = _dubbed(dubs, pairs, methods, num_clips)
    rng = np.random.default_rng(seed)
    trials = list(_trials(_spread(rows, rng)[:num_clips], methods, rng))
    study = digest_of([dubs.digest, pairs.digest, [trial.model_dump() for trial in trials]])[:12]
    if (out / KEY).is_file() and _read(Key, out / KEY).study != study:
        what = "the folder holds another study, whose answers need its key"
        raise UsageError(what, where=str(out), cure="give an empty one")
    views = [_view(trial, next(row for row in rows if row.id == trial.pair_id), pairs, dubs) for trial in trials]
    page = rendered("study.html.j2", study=study, trials=views, aspects=ASPECTS)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / KEY, Key(study=study, trials=trials).model_dump_json(indent=1).encode())
    write_atomically(out / PAGE, page.encode())
    return len(trials)


def _dubbed(dubs: DubSet, pairs: PairSet, methods: Sequence[str], num_clips: int) -> list[PairRow]:
    """Returns the held-out pairs that all methods dubbed."""
    dubbed = {(row.pair_id, row.method) for row in dubs.rows}
    rows = [row for row in pairs.split("heldout") if all((row.id, method) in dubbed for method in (SUBJECT, *methods))]
    if methods and SUBJECT not in methods and len(rows) >= num_clips:
        return rows
    known = sorted({row.method for row in dubs.rows} - {SUBJECT})
    raise UsageError(
        f"{len(rows)} clips are dubbed by {SUBJECT} and {', '.join(methods) or 'no other method'}; {num_clips} are needed",
        where=str(dubs.path),
        cure=f"choose from {', '.join(known)}, and fewer clips",
    )


def _spread(rows: Sequence[PairRow], rng: np.random.Generator) -> list[PairRow]:
    """Returns the rows in random order, one of each person before a second one."""
    order = [rows[place] for place in rng.permutation(len(rows))]
    turn: dict[str, int] = {}
    turns = {}
    for row in order:
        turns[row.id] = turn[cluster_of(row)] = turn.get(cluster_of(row), 0) + 1
    return sorted(order, key=lambda row: turns[row.id])


def _trials(rows: Sequence[PairRow], methods: Sequence[str], rng: np.random.Generator) -> Iterator[Trial]:
    sides = [(row, SUBJECT, method) for row in rows for method in methods]
    sides += [(row, SUBJECT, SUBJECT) for row in rows[:NUM_CHECKS]]
    for number, place in enumerate(rng.permutation(len(sides)), 1):
        row, *both = sides[place]
        first = int(rng.integers(2))
        yield Trial(id=f"t{number}", pair_id=row.id, cluster=cluster_of(row), a=both[first], b=both[1 - first])


def _view(trial: Trial, row: PairRow, pairs: PairSet, dubs: DubSet) -> dict[str, str]:
    """Returns what the page shows of a trial: words and three videos."""
    dub_ids = {dub.method: dub.id for dub in dubs.rows if dub.pair_id == row.id}
    first, second = (dubs.mp4(dub_ids[method], "dub") for method in (trial.a, trial.b))
    videos = {"original": _uri(pairs.mp4(row.id, "original")), "a": _uri(first), "b": _uri(second)}
    return {"id": trial.id, "text": row.counterpart.text, "language": row.counterpart.language, **videos}


def _uri(mp4: bytes) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"


@dataclass(frozen=True)
class Preference:
    """How often `SUBJECT` was preferred to a method in one aspect; `mean` from -1 (never) to 1 (always), by person shown."""

    method: str
    aspect: str
    wins: int
    same: int
    losses: int
    mean: float
    low: float
    high: float
    p_holm: float
    needed: int  # persons shown that one test alone, without Holm's correction, needs to see DIFFERENCE with POWER


@dataclass(frozen=True)
class StudyResult:
    """All preferences, the number of raters, and how often they called equal clips the same."""

    preferences: tuple[Preference, ...]
    num_raters: int
    num_checks: int
    num_same: int


def read_study(key_file: Path, answer_files: Sequence[Path], *, confidence: float = 0.95, seed: int = 0) -> StudyResult:
    """Returns the figures of a study; unanswered questions are left out.

    Raises:
        InvalidArtifactError: a file is not a key or not answers.
        UsageError: answers belong to another study, or a rater is there twice.
    """
    key = _read(Key, key_file)
    trials = {trial.id: trial for trial in key.trials}
    votes: dict[tuple[str, str], list[tuple[str, int]]] = {}
    checks: list[int] = []
    for trial_id, aspect, choice in chain.from_iterable(map(_choices, _answers(key, answer_files))):
        trial = trials[trial_id]
        if trial.a == trial.b:
            checks.append(CHOICES[choice])
        else:
            other, sign = (trial.b, -1) if trial.a == SUBJECT else (trial.a, 1)
            votes.setdefault((other, aspect), []).append((trial.cluster, sign * CHOICES[choice]))
    preferences = [_preference(*question, votes[question], confidence, seed) for question in sorted(votes)]
    corrected = zip(preferences, holm([preference.p_holm for preference in preferences]), strict=True)
    preferences = [replace(preference, p_holm=p) for preference, p in corrected]
    return StudyResult(tuple(preferences), len(answer_files), len(checks), checks.count(0))


def _choices(answers: Answers) -> list[tuple[str, str, str]]:
    """Returns trial, aspect and choice of every answer."""
    return [(trial, *pair) for trial, by_aspect in answers.answers.items() for pair in by_aspect.items()]


def _answers(key: Key, files: Sequence[Path]) -> Iterator[Answers]:
    """Yields the answers of each file, checked."""
    trials, raters = {trial.id for trial in key.trials}, set[str]()
    for path in files:
        answers = _read(Answers, path)
        if answers.study != key.study or not set(answers.answers) <= trials:
            what = f"these answers are of study {answers.study}"
            raise UsageError(what, where=str(path), cure=f"give those of {key.study}")
        rater = answers.rater.strip().casefold()
        if rater in raters:
            raise UsageError(f"{answers.rater!r} is in another file too", where=str(path), cure="give each rater once")
        for _, aspect, choice in _choices(answers):
            if aspect not in ASPECTS or choice not in CHOICES:
                what = f"{aspect!r}: {choice!r} is no answer"
                raise InvalidArtifactError(what, where=str(path), cure="give the file as the page saved it")
        raters.add(rater)
        yield answers


def _preference(method: str, aspect: str, votes: Sequence[tuple[str, int]], confidence: float, seed: int) -> Preference:
    clusters, values = [cluster for cluster, _ in votes], [vote for _, vote in votes]
    interval = bootstrap_interval(values, clusters=clusters, num_bootstrap=2000, confidence=confidence, seed=seed)
    test = paired_test(values, clusters=clusters, seed=seed)
    means = [np.mean([vote for cluster, vote in votes if cluster == person]) for person in dict.fromkeys(clusters)]
    quantiles = NormalDist().inv_cdf(1 - (1 - confidence) / 2) + NormalDist().inv_cdf(POWER)
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    needed = int(np.ceil((quantiles * spread / DIFFERENCE) ** 2)) if spread > 0 else 0
    return Preference(
        method, aspect, values.count(1), values.count(0), values.count(-1),
        interval.mean, interval.low, interval.high, test.p, needed,
    )  # fmt: skip


def study_page(result: StudyResult) -> str:
    """Returns the figures as Markdown."""
    lines = [
        f"{result.num_raters} raters. Of {result.num_checks} questions about two equal clips {result.num_same} were answered with `same`.",
        "",
        f"| against | aspect | {SUBJECT} preferred | same | other preferred | mean (-1 to 1) | p, Holm | persons needed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result.preferences:
        mean = f"{row.mean:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
        counts = f"{row.wins} | {row.same} | {row.losses}"
        lines.append(
            f"| {row.method} | {row.aspect} | {counts} | {mean} | {row.p_holm:.3g} | {row.needed or 'unknown'} |"
        )
    lines += [
        "",
        f"Intervals and tests are by the person shown. Persons needed: so many different ones show a mean of {DIFFERENCE} in "
        f"{POWER:.0%} of studies with this spread, by one test alone; with Holm's correction of several tests more are needed.",
    ]
    return "\n".join(lines) + "\n"


def _read(model: type[Any], path: Path) -> Any:
    try:
        return model.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArtifactError(
            f"it is not a file of a study ({type(error).__name__})",
            where=str(path),
            cure=f"give {KEY} and files that the page saved",
        ) from error

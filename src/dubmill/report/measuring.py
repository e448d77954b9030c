"""Measures every dub of the held-out pairs, with the references that show what each metric can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dubmill.artifacts.rows import TRUE_PAIRS, DubRow, Line, PairRow
from dubmill.artifacts.store import DubSet, PairSet
from dubmill.errors import InvalidArtifactError
from dubmill.metrics import Observation, compare, observe
from dubmill.metrics.scorers import Scorers
from dubmill.metrics.shares import FLOOR
from dubmill.report.figures import DECISIVE, ORACLE, REFERENCES, SUBJECT, Measured
from dubmill.report.showcase import ShowcaseClip, ShowcasePair, ranked, spread_ranks

ROUND_TRIP = "round-trip"  # name of the source after the video VAE, stored with the adapter's dubs


class HeldOutMeasurer:
    """Runs the scorers once per clip and compares every dub of a pair with its source and its true dub.

    Raises:
        InvalidArtifactError: there is no dub of a held-out pair, or a dub of another pair.
    """

    def __init__(self, dubs: DubSet, pairs: PairSet, scorers: Scorers) -> None:
        self.dubs, self.pairs, self.scorers = dubs, pairs, scorers
        heldout = {row.id: row for row in pairs.split("heldout")}
        self.dubs_of: dict[str, list[DubRow]] = {pair_id: [] for pair_id in heldout}
        for dub in dubs.rows:
            if dub.pair_id not in heldout:
                raise InvalidArtifactError(
                    f"dub {dub.id} is of pair {dub.pair_id}, which is not held out here",
                    where=str(dubs.path),
                    cure="evaluate with the pairs that were dubbed",
                )
            self.dubs_of[dub.pair_id].append(dub)
        self.rows = [row for pair_id, row in heldout.items() if self.dubs_of[pair_id]]
        if not self.rows:
            raise InvalidArtifactError("no dub of a held-out pair", where=str(dubs.path), cure="run dub again")

    def measured(self) -> Iterator[Measured]:
        """Yields one row per pair and method, and rows of the oracle and the floor where they can be had."""
        for row in self.rows:
            source = observe(self.pairs.clip(row.id, "original"), self.scorers)
            truth = observe(self.pairs.clip(row.id, "counterpart"), self.scorers) if row.source in TRUE_PAIRS else None
            observations = [
                (dub.method, observe(self.dubs.clip(dub.id, "dub"), self.scorers)) for dub in self.dubs_of[row.id]
            ]
            observations += [(ORACLE, truth)] if truth is not None else []
            observations += [(FLOOR, floor)] if (floor := self._floor(row)) is not None else []
            for method, observation in observations:
                values = compare(
                    observation,
                    source=source,
                    truth=truth,
                    trip_FHWC=self.trip(row),
                    line=row.counterpart,
                    mouth_boxes_F4=_boxes_F4(row),
                )
                yield Measured(row.id, cluster_of(row), method, row.counterpart, values)

    def _floor(self, row: PairRow) -> Observation | None:
        """Observes the picture of one other puppet with the sound of a second one, as if it were the dub of `row`.

        None with fewer than three puppets.
        """
        place = next(at for at, other in enumerate(self.rows) if other.id == row.id)
        following = [*self.rows[place + 1 :], *self.rows[:place]]
        others = {cluster_of(other): other for other in reversed(following) if cluster_of(other) != cluster_of(row)}
        if len(others) < 2:
            return None
        picture, sound = [*others.values()][-1], [*others.values()][-2]
        clip = self.pairs.clip(picture.id, "counterpart")
        return observe(clip.with_audio(self.pairs.clip(sound.id, "counterpart").audio_CN), self.scorers)

    def trip(self, row: PairRow) -> np.ndarray | None:
        """Returns the source's frames (F, H, W, 3) after the video VAE, which the step dub stores with the adapter's dubs."""
        keeper = next((dub for dub in self.dubs_of[row.id] if dub.method == SUBJECT), None)
        if keeper is None or not self.dubs.info.get("has_round_trips"):
            return None
        return self.dubs.clip(keeper.id, ROUND_TRIP).frames_FHWC

    def showcase(self, rows: Sequence[Measured], num_shown: int) -> Iterator[ShowcasePair]:
        """Yields pairs from the adapter's best to its worst dub, evenly spaced in rank."""
        method = SUBJECT if any(row.method == SUBJECT for row in rows) else rows[0].method
        values = [(row.pair_id, [row.values[name] for name in DECISIVE]) for row in rows if row.method == method]
        pair_ids, by_id = ranked(values), {row.id: row for row in self.rows}
        for rank in spread_ranks(len(pair_ids), num_shown):
            pair_id = pair_ids[rank - 1]
            yield ShowcasePair(pair_id, rank, len(pair_ids), self._clips(by_id[pair_id]))

    def _clips(self, row: PairRow) -> list[ShowcaseClip]:
        """Returns source, dubs in the DubSet's order, and the true dub where there is one."""
        clips = [self._clip("source", row.original, self.pairs, row.id, "original", row)]
        clips += [
            self._clip(dub.method, dub.line, self.dubs, dub.id, "dub", row)
            for dub in self.dubs_of[row.id]
            if dub.method not in REFERENCES
        ]
        if row.source in TRUE_PAIRS:
            clips.append(self._clip("truth", row.counterpart, self.pairs, row.id, "counterpart", row))
        return clips

    def _clip(
        self, key: str, line: Line, stored: DubSet | PairSet, row_id: str, name: str, pair: PairRow
    ) -> ShowcaseClip:
        observation = observe(stored.clip(row_id, name), self.scorers)
        return ShowcaseClip(key, line, stored.mp4(row_id, name), observation, _boxes_F4(pair))


def cluster_of(row: PairRow) -> str:
    """Returns the id of the puppet or person in a pair: pairs of one prompt's seed show the same one."""
    return f"seed-{row.seed}"


def _boxes_F4(row: PairRow) -> np.ndarray:
    return np.asarray(row.mouth_boxes, dtype=np.float64).reshape(-1, 4)

"""The table of metrics: name, unit, direction and meaning of every figure of a dub or a pair."""

from __future__ import annotations

from dataclasses import dataclass

from dubmill.metrics.stats import Better


@dataclass(frozen=True)
class Metric:
    """One metric; `is_proxy` marks a stand-in for a quantity that has no published formula.

    `scorers` are the questions of `Scorers` that it depends on.
    """

    name: str
    unit: str
    better: Better
    description: str
    is_proxy: bool
    scorers: tuple[str, ...] = ()


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("words_right", "share", "higher", "1 - word error rate, at least 0; silence has 0", False, ("words",)),
        Metric("characters_right", "share", "higher", "1 - character error rate, at least 0", False, ("words",)),
        Metric(
            "language_right",
            "share",
            "higher",
            "share of recognised words in the requested language",
            False,
            ("words",),
        ),
        Metric(
            "sync_correlation",
            "correlation",
            "higher",
            "mouth opening in the picture against the opening that the clip's sound implies (Pearson r)",
            True,
            (
                "mouth",
                "opening",
            ),
        ),
        Metric(
            "lse_c", "distance", "higher", "LSE-C: median minus least distance over offsets (SyncNet)", False, ("sync",)
        ),
        Metric("lse_d", "distance", "lower", "LSE-D: least mean distance over offsets (SyncNet)", False, ("sync",)),
        Metric(
            "sync_offset_frames",
            "frames",
            "lower",
            "size of the offset at which picture and sound fit best",
            False,
            ("sync",),
        ),
        Metric(
            "opening_offset_frames",
            "frames",
            "lower",
            "size of the shift at which the openings of `sync_correlation` correlate best",
            True,
            ("mouth", "opening"),
        ),
        Metric(
            "identity_cosine",
            "cosine",
            "higher",
            "face of the dub against the face of the source",
            False,
            ("identity",),
        ),
        Metric(
            "voice_cosine", "cosine", "higher", "voice of the dub against the voice of the source", False, ("voice",)
        ),
        Metric("outside_psnr_db", "dB", "higher", "PSNR against the source outside the widened mouth box", False),
        Metric(
            "outside_trip_psnr_db",
            "dB",
            "higher",
            "the same against the source after a round trip through the video VAE, whose losses no dub can avoid",
            False,
        ),
        Metric("duration_gap_ms", "ms", "lower", "largest gap of picture to sound and of dub to source", False),
        Metric(
            "lip_diversity",
            "opening",
            "truth",
            "standard deviation of the mouth opening; stands in for the paper's LMD, which has no formula",
            True,
            ("mouth",),
        ),
        Metric("mouth_change", "share", "truth", "mean difference inside the mouth box; 0 is a copied mouth", True),
        Metric(
            "mouth_sharpness", "ratio", "truth", "gradient inside the mouth box, dub to source; a blur is below 1", True
        ),
        Metric(
            "old_motion_correlation",
            "correlation",
            "lower",
            "mouth opening of the dub against the source's: lip motion left over (Pearson r)",
            True,
            ("mouth",),
        ),
        Metric(
            "truth_mouth_correlation",
            "correlation",
            "higher",
            "mouth opening of the dub against the true dub's (Pearson r)",
            True,
            ("mouth",),
        ),
        Metric("loudness_dbfs", "dBFS", "truth", "root mean square of the sound; -120 is silence", False),
        Metric("clipped_share", "share", "lower", "share of samples at full scale", False),
    )
}

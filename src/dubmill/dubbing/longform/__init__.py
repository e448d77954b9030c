"""Dubs videos of any length in clips of the model's size, and joins them at the video's own rate and size.

A first pass measures loudness and shot changes; the script's cues are grouped into chunks of at most a clip's length; words
and faces are checked in all chunks before anything is dubbed; every chunk's dub is stored on disk as soon as it is made; a
last pass reads film and dubs once from start to end. Memory does not grow with the length. Frames outside the chunks keep
their pixels, but are encoded again.
"""

from __future__ import annotations

from dubmill.dubbing.longform.chunk_dubs import FilmJob, dub_chunks
from dubmill.dubbing.longform.chunks import Chunk, plan_chunks
from dubmill.dubbing.longform.film import Film, FilmAnalysis, loud_spans
from dubmill.dubbing.longform.film_dub import FilmDub, FilmPlan, chunks_folder, dub_film, plan_film
from dubmill.dubbing.longform.recording import check_recording, check_segment_recording
from dubmill.dubbing.longform.segments import Segment
from dubmill.dubbing.longform.separation import separated_background
from dubmill.dubbing.longform.store import FilmStore

__all__ = [
    "Chunk",
    "Film",
    "FilmAnalysis",
    "FilmDub",
    "FilmJob",
    "FilmPlan",
    "FilmStore",
    "Segment",
    "check_recording",
    "check_segment_recording",
    "chunks_folder",
    "dub_chunks",
    "dub_film",
    "loud_spans",
    "plan_chunks",
    "plan_film",
    "separated_background",
]

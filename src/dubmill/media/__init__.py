"""Media files in and out: the only user of FFmpeg, by way of ffmpeg-python.

The executable is the one in the imageio-ffmpeg wheel, or the one that DUBMILL_FFMPEG names; never the one on PATH.
What FFmpeg must seek in lives in anonymous memory, so a killed process leaves nothing behind; only `write_film` and
`write_sound` write to disk.
"""

from dubmill.media.installation import executable
from dubmill.media.loudness import SILENCE_LUFS, loudness
from dubmill.media.probing import Limits, MediaInfo, SoundTrack, probe
from dubmill.media.process import CONTAINERS, Source, name_of
from dubmill.media.reading import SILENCE, frames, metadata, read, sound
from dubmill.media.writing import METADATA_KEYS, lossless_bytes, mp4_bytes, wav_bytes, write_film, write_sound

__all__ = [
    "CONTAINERS", "METADATA_KEYS", "SILENCE", "SILENCE_LUFS", "Limits", "MediaInfo", "SoundTrack", "Source",
    "executable", "frames", "loudness", "lossless_bytes", "metadata", "mp4_bytes", "name_of", "probe", "read", "sound",
    "wav_bytes", "write_film", "write_sound",
]  # fmt: skip

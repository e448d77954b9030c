"""Media files in and out: the only user of FFmpeg, by way of ffmpeg-python.

The executable is the one in the imageio-ffmpeg wheel, or the one that DUBMILL_FFMPEG names; never the one on PATH.
What FFmpeg must seek in lives in anonymous memory, so a killed process leaves nothing behind; only `write_piece`,
`write_film` and `write_sound` write to disk.
"""

from dubmill.media.carrying import CarriedStreams, carried_streams
from dubmill.media.coding import OUTPUT_CONTAINERS, Coding, check_quality, coding_like
from dubmill.media.filming import EncodedPiece, write_film, write_piece
from dubmill.media.header import PictureFormat, SoundTrack
from dubmill.media.installation import executable, version
from dubmill.media.layout import BT709, Colour, Layout
from dubmill.media.loudness import SILENCE_LUFS, loudness
from dubmill.media.probing import Limits, MediaInfo, probe
from dubmill.media.process import CONTAINERS, Source, media_type_of, name_of
from dubmill.media.reading import (
    SILENCE,
    SOUND_BLOCK_SAMPLES,
    converted_frames,
    film_frames,
    frames,
    metadata,
    read,
    read_lossless,
    sound,
    stored_frames,
)  # fmt: skip
from dubmill.media.writing import METADATA_KEYS, lossless_bytes, mp4_bytes, wav_bytes, write_sound

__all__ = [
    "BT709", "CONTAINERS", "METADATA_KEYS", "OUTPUT_CONTAINERS", "SILENCE", "SILENCE_LUFS", "SOUND_BLOCK_SAMPLES", "CarriedStreams", "Coding", "Colour",
    "EncodedPiece", "Layout", "Limits", "MediaInfo", "PictureFormat", "SoundTrack", "Source", "carried_streams", "check_quality", "coding_like", "converted_frames",
    "executable", "film_frames", "frames", "loudness", "lossless_bytes", "media_type_of", "metadata", "mp4_bytes", "name_of", "probe",
    "read", "read_lossless", "sound", "stored_frames", "version", "wav_bytes", "write_film", "write_piece", "write_sound",
]  # fmt: skip

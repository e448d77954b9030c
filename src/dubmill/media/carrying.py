"""What of a film goes into its dub unchanged: other sound tracks, subtitles, chapters and timecode; the rest is named."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dubmill.media.coding import OutputContainer, is_text_subtitle
from dubmill.media.header import OtherStream
from dubmill.media.probing import MediaInfo

_TIMECODE_RATES = tuple(Fraction(rate) for rate in (24, 25, 30, 48, 50, 60)) + tuple(
    Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60)
)


@dataclass(frozen=True)
class CarriedStreams:
    """The streams of a film that its dub holds beside the dubbed picture and sound.

    Attributes:
        sound, subtitles: index in the source, codec to write or "copy", and ISO 639-2 tag or nothing.
        timecode: of the first frame; empty: none.
        notes: a sentence for what is converted, and one for what is left out.
    """

    sound: tuple[tuple[int, str, str], ...]
    subtitles: tuple[tuple[int, str, str], ...]
    timecode: str
    notes: tuple[str, ...]

    def streams(self, source: Any) -> list[Any]:
        """The streams of FFmpeg's input `source`."""
        kinds = (("a", self.sound), ("s", self.subtitles))
        return [source[f"{kind}:{index}"] for kind, several in kinds for index, *_ in several]

    def options(self, muxer: str) -> dict[str, str]:
        """FFmpeg's options for these streams, which follow one dubbed sound track."""
        options = {f"c:a:{place}": codec for place, (_, codec, _) in enumerate(self.sound, start=1)}
        options |= {f"disposition:a:{place}": "0" for place, _ in enumerate(self.sound, start=1)}
        options |= {f"c:s:{place}": codec for place, (_, codec, _) in enumerate(self.subtitles)}
        for kind, first, several in (("a", 1, self.sound), ("s", 0, self.subtitles)):
            languages = ((place, tag) for place, (*_, tag) in enumerate(several, start=first))
            options |= {f"metadata:s:{kind}:{place}": f"language={tag}" for place, tag in languages if tag}
        if self.sound:
            options["disposition:a:0"] = "default"
        if self.timecode:
            key = "metadata:g:90" if muxer == "matroska" else "timecode"
            options[key] = f"timecode={self.timecode}" if muxer == "matroska" else self.timecode
        return options


def carried_streams(info: MediaInfo, container: OutputContainer) -> CarriedStreams:
    """What of a film like `info` a dub in `container` can hold."""
    sound = tuple(
        (
            index,
            "copy" if track.codec in container.copied_sound else container.encoder(container.sound[0]),
            track.language,
        )
        for index, track in enumerate(info.tracks)
        if index != info.track
    )
    notes = [_sound_note(info, index, codec) for index, codec, _ in sound]
    subtitles, left_out = [], []
    streams = [stream for stream in info.others if stream.kind == "Subtitle"]
    for index, stream in enumerate(streams):
        codec = _subtitle_codec(stream, container)
        if codec:
            subtitles.append((index, codec, stream.language))
        else:
            left_out.append(f"subtitle track {index + 1} ({stream.codec})")
    has_timecode = container.muxer in ("mp4", "mov", "matroska") and info.frame_rate in _TIMECODE_RATES
    timecode = info.timecode if has_timecode else ""
    left_out += _other_names(info, timecode)
    if left_out:
        notes.append(f"not carried over: {', '.join(left_out)}")
    return CarriedStreams(sound, tuple(subtitles), timecode, tuple(notes))


def _sound_note(info: MediaInfo, index: int, codec: str) -> str:
    track = info.tracks[index]
    how = "unchanged" if codec == "copy" else f"coded as {codec}"
    return f"sound track {index + 1} ({track.language or 'no language'}) follows the dub's, {how}"


def _subtitle_codec(stream: OtherStream, container: OutputContainer) -> str:
    """The codec to write; empty where the container cannot hold the subtitles."""
    if container.subtitles == "copy":
        return "srt" if stream.codec == "mov_text" else "copy"
    return container.subtitles if is_text_subtitle(stream.codec) else ""


def _other_names(info: MediaInfo, timecode: str) -> list[str]:
    kinds = [stream.kind for stream in info.others]
    num_data = kinds.count("Data") - bool(timecode and "Data" in kinds)
    counts = {"data track": num_data, "attachment": kinds.count("Attachment")}
    names = [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
    return names + ([f"timecode {info.timecode}"] if info.timecode and not timecode else [])

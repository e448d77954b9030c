"""Films made by FFmpeg, and opening them at a small clip size."""

import subprocess
from fractions import Fraction

from dubmill import media
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform import Film

FILM_SIZE = ClipSize(num_frames=61, height=64, width=64, frame_rate=Fraction(25, 2), sample_rate_hz=16000)
NTSC = Fraction(30000, 1001)
BEAT_FRAMES = 30


def ffmpeg(*arguments):
    """Run the FFmpeg that dubmill uses; an error fails the test."""
    subprocess.run([media.executable(), "-v", "error", "-y", *map(str, arguments)], check=True)


def beat_film(path, *, seconds, rate=NTSC, size="64x64", sample_rate_hz=16000, codec="libx264", options=()):
    """A dim, moving test picture that flashes for three frames, over a hum that clicks, every thirtieth frame."""
    beat = Fraction(BEAT_FRAMES) / rate
    flash = f"lt(mod(n\\,{BEAT_FRAMES})\\,3)"
    picture = f"testsrc=s={size}:r={rate}:d={seconds},eq=brightness=-0.4,drawbox=c=white:t=fill:h=ih/2:enable={flash}"
    click = f"lt(mod(t+1e-9\\,{beat.numerator}/{beat.denominator})\\,0.02)"
    sound = f"aevalsrc=0.02*sin(2*PI*200*t)+0.7*sin(2*PI*1000*t)*{click}:d={seconds}:s={sample_rate_hz}"
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound]
    codecs = ["-c:v", codec, "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "pcm_s16le"]
    ffmpeg(*inputs, *codecs, *options, path)
    return path


def open_film(path, size=FILM_SIZE, background=None):
    """The film at `path`, read at `size`."""
    return Film.open(path, size, limits=media.Limits(max_seconds=3600.0), tone_map=False, background=background)

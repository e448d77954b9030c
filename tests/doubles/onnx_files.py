"""Tiny ONNX files, written field by field: separation models that take all sound below a frequency for speech.

The metadata is what sherpa-onnx reads of a UVR MDX-Net or a Spleeter model, and the tensors have the same axes.
"""

import numpy as np

from dubmill.providers import SEPARATION_RATE_HZ

_FLOAT, _OPSET = 1, 13


def uvr_model(cutoff_hz):
    """A UVR model: (n, 4, frequency, time), real and imaginary parts of two channels."""
    n_fft, dim_t = 2048, 64
    gain_F = np.arange(n_fft // 2 + 1) * SEPARATION_RATE_HZ / n_fft < cutoff_hz
    meta = {"model_type": "UVR", "stems": 2, "sample_rate": SEPARATION_RATE_HZ, "n_fft": n_fft, "center": 1}
    meta |= {"win_length": n_fft, "hop_length": n_fft // 4, "dim_t": dim_t, "dim_f": len(gain_F), "dim_c": 4}
    return _model(gain_F.reshape(1, 1, -1, 1), ["n", 4, len(gain_F), dim_t], meta | {"window_type": "hann"})


def spleeter_models(cutoff_hz):
    """Spleeter's two models, of the speech and of the rest: (2, n, time, frequency), magnitudes of two channels."""
    is_low_F = np.arange(1024) * SEPARATION_RATE_HZ / 4096 < cutoff_hz
    dims, meta = [2, "n", 512, 1024], {"model_type": "spleeter", "stems": 2}
    return tuple(_model(gain_F.reshape(1, 1, 1, -1), dims, meta) for gain_F in (is_low_F, ~is_low_F))


def _model(gain, dims, metadata):
    """A model that multiplies its input by `gain`."""
    values = np.asarray(gain, "<f4")
    shape = b"".join(_field(1, size) for size in values.shape)
    weights = shape + _field(2, _FLOAT) + _field(8, "gain") + _field(9, values.tobytes())
    product = _field(1, "x") + _field(1, "gain") + _field(2, "y") + _field(4, "Mul")
    graph = _field(1, product) + _field(2, "graph") + _field(5, weights)
    graph += _field(11, _tensor("x", dims)) + _field(12, _tensor("y", dims))
    pairs = b"".join(_field(14, _field(1, key) + _field(2, str(value))) for key, value in metadata.items())
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, _OPSET)) + pairs


def _tensor(name, dims):
    sizes = b"".join(_field(1, _field(2 if isinstance(size, str) else 1, size)) for size in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, sizes)))


def _field(number, value):
    """A field of a protobuf message: a whole number, or bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number):
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])

"""A mill for dubbing models: makes its own bilingual pairs, gates them, trains, measures, registers and serves."""

__version__ = "0.2.0"

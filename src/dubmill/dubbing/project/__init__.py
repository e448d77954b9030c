"""A film's dub as a project: a folder with an editable table of segments, and the dubs made from it so far."""

from __future__ import annotations

from dubmill.dubbing.project.project import FilmProject, ProjectSettings
from dubmill.dubbing.project.table import Row, Target, read_table, write_table

__all__ = ["FilmProject", "ProjectSettings", "Row", "Target", "read_table", "write_table"]

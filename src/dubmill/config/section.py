"""The base class of all sections of the parameters, and number types with bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Decibels = Annotated[float, Field(le=0)]


class Section(BaseModel):
    """Base class of a section: frozen, and unknown names are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

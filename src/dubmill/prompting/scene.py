"""Scene descriptions as LTX-2 expects them: one paragraph in the present tense that contains the spoken words."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from dubmill.artifacts.rows import Line
from dubmill.prompting.captions import switch_caption


class Scene(BaseModel):
    """The parts of a scene description in order; `speaker` is a noun phrase, the rest are clauses in the present tense."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    speaker: str = Field(min_length=3, description="noun phrase with article: A woman in her thirties with ...")
    action: str = Field(min_length=3, description="what the speaker does meanwhile: faces the camera and ...")
    clothing: str = Field(min_length=3, description="what the speaker wears: a green linen shirt")
    setting: str = Field(min_length=3, description="where, after 'in' or 'on': in a small bakery with ...")
    light: str = Field(min_length=3, description="subject and verb: soft morning light falls from the left")
    sound: str = Field(min_length=3, description="subject and verb: a refrigerator hums quietly")
    voice: str = Field(min_length=3, description="adjectives and noun: a low, warm voice")

    def paragraph(self, first: Line, second: Line) -> str:
        """Returns the paragraph in which the speaker says `first` and then `second`."""
        described = (
            f"{self.speaker} {self.action} {self.setting}, wearing {self.clothing}. "
            f"The camera stays static at eye level in a single medium close-up, and the whole face and the mouth are "
            f"clearly visible. {_capital(self.light)}, while {self.sound}. "
        )
        spoken = switch_caption("The speaker", first, second)
        return f"{described}In {self.voice}, {spoken[0].lower()}{spoken[1:]} The voice and the pose stay the same throughout."


def _capital(clause: str) -> str:
    return clause[:1].upper() + clause[1:]

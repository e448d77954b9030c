"""The fields of a dub request, the same in every protocol, and as a job keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dubmill.config.params import Seed
from dubmill.dubbing.consent import Consent
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.requests import FileDubRequest
from dubmill.errors import UsageError
from dubmill.faces import check_face_choice
from dubmill.serving.adapters import choose
from dubmill.text.languages import base_tag
from dubmill.text.languages import language as language_of
from dubmill.text.subtitles import parse

# `Consent.check` for the OpenAPI document: two words with a letter, no control characters. Generators cannot use \p{L}, so the
# letters are those of the larger scripts; the server accepts all.
_LETTER = r"[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u0391-\u03a1\u03a3-\u03f5\u0400-\u0481\u05d0-\u05ea\u0620-\u064a\u0904-\u0939"
_LETTER += r"\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]"
_PLAIN = r"[^\u0000-\u001f\u007f-\u009f]*"
STATEMENT = f"^{_PLAIN}{_LETTER}{_PLAIN} {_PLAIN}{_LETTER}{_PLAIN}$"
EXAMPLE = 'send {"instances": [{"video": <base64 MP4>, "language": "es", "text": "uno tres seis", "consent": "…", "seed": 1}]}'


def _parsed_json(value: Any) -> Any:
    """A form's field is text: an object in it is JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError("this is not JSON") from error
    return value


def _nothing(value: Any) -> Any:
    """A form cannot leave a number out: an empty field, or `null`, is none."""
    return None if value in ("", "null") else value


class ConsentFields(BaseModel):
    """Who agreed, to what, until when, and the sha256 of the evidence; see `dubbing.consent.Consent`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    statement: str = Field(
        max_length=1000, description="who agrees, in one sentence", json_schema_extra={"pattern": STATEMENT}
    )
    scope: str = Field(
        "",
        max_length=1000,
        description="what it covers; empty: this dub",
        json_schema_extra={"pattern": f"^{_PLAIN}$"},
    )
    until: date | None = Field(None, description="last day on which dubs may be made")
    evidence_sha256: str = Field("", pattern="^([0-9a-fA-F]{64})?$", description="hash of a signed form or recording")

    def record(self) -> Consent:
        """The consent as the ledger keeps it."""
        return Consent(self.statement, self.scope, self.until, self.evidence_sha256)


class DubFields(BaseModel):
    """What a caller sends with a video."""

    # without consent the error is of a class of its own, and not pydantic's
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"required": ["language", "consent"]})
    language: str = Field(  # RFC 5646, section 4.4.1
        max_length=35, description="BCP-47 tag to dub into", json_schema_extra={"minLength": 2}
    )
    text: str = Field("", max_length=20_000, description="the words to say; in a film they are spread over its speech")
    script: str = Field("", max_length=1_000_000, description="SRT or WebVTT of the words to say, for a film")
    consent: Annotated[str, Field(max_length=1000, json_schema_extra={"pattern": STATEMENT})] | ConsentFields = ""
    seed: Seed = 0
    face: str = Field("", max_length=20, description="left, right, a number counted from the left, or all")
    speaker: str = Field("", max_length=200, description="who speaks, such as a woman")
    adapter: str = Field("", max_length=200, description="one of /v1/adapters; else the one for the language")
    tone_map: bool = Field(False, description="convert HDR to standard range")
    label: bool = Field(False, description="burn the visible label AI DUB into the picture")
    track: int | None = Field(None, ge=1, le=1000, description="sound track to dub, from 1; else the default one")
    reference: str = Field("", max_length=200, description="the caller's own name of the job, sent back as it is")
    webhook_url: str = Field("", max_length=2000, description="receives a signed POST when the job is over")
    video_url: str = Field("", max_length=2000, description="where the video is fetched, in place of an upload")

    def consent_record(self) -> Consent:
        """Who agreed, and to what."""
        return self.consent.record() if isinstance(self.consent, ConsentFields) else Consent.of(self.consent)

    def check(self, sources: Mapping[str, ModelSource]) -> None:
        """Refuse what can be refused without decoding the video; `sources` are the adapters that are served, by name.

        Raises:
            MissingConsentError, UnsupportedTextError, UsageError: consent, language, adapter, face or script are not in order.
        """
        self.consent_record().check()
        tag = base_tag(self.language)
        language_of(tag)
        sources[choose(sources, self.adapter, tag)].check_language(tag)
        check_face_choice(self.face)
        if self.script:
            if self.text:
                raise UsageError("text beside a script", where="script", cure="give the words in the script")
            parse(self.script, "script")

    def file_request(self, path: Path) -> FileDubRequest:
        """The request for the video at `path`."""
        return FileDubRequest(
            path=path,
            words=parse(self.script, "script") if self.script else self.text,
            language=base_tag(self.language),
            consent=self.consent_record(),
            seed=self.seed,
            tone_map=self.tone_map,
            has_label=self.label,
            face=self.face,
            track=self.track,
            speaker=self.speaker,
        )


class FormFields(DubFields):
    """The fields as a form sends them, where consent may be JSON in text, and a number empty."""

    consent: Annotated[str | ConsentFields, BeforeValidator(_parsed_json)] = ""
    track: Annotated[int | None, BeforeValidator(_nothing)] = Field(None, ge=1, le=1000)


def parse_fields(
    fields: Mapping[str, Any], where: str, *, kind: type[DubFields] = DubFields, cure: str = EXAMPLE
) -> DubFields:
    """The fields of a request.

    Raises:
        UsageError: one is missing, unknown or of another type.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])[:80]
        raise UsageError(f"{name}: {fault['msg'][:300]}", where=where, cure=cure) from error

"""Every error that a user can meet, as one tree of exceptions.

DubmillError                     what happened, where, and what to do about it; the CLI prints it and exits 2
├── UsageError                   a command, file or argument that makes no sense
├── InvalidParamsError           params.yaml or an overlay breaks a type, a bound or a name
├── InvalidArtifactError         a directory that is not the artifact a step needs
│   ├── UnsealedArtifactError    it was never finished: no manifest
│   └── ChangedArtifactError     its bytes are not the ones that were sealed
├── BackboneMismatchError        an adapter or latents of another backbone or text encoder
├── UnreadableMediaError         a file that FFmpeg cannot read, or that lacks what a dub needs
│   ├── MediaTooLargeError       it is longer, larger or heavier than a limit
│   │   └── MediaTooLongError    it is longer than a limit
│   └── NoFaceError              nobody can be seen in it
├── UnsupportedTextError         words, or a number of words, or a language that cannot be spoken
├── GateFailedError              too few pairs passed the quality gates
├── PromotionRefusedError        the challenger is not better than the champion, with the reasons
├── MissingConsentError          a dub without a consent statement
├── GpuMemoryError               a GPU has too little memory for a step, whatever is done about it
├── DiskFullError                the disk filled up; nothing sealed was lost
├── InterruptedStepError         a step was stopped and kept its progress; exit code 75, "run it again"
└── ServiceUnavailableError      a server (MLflow, KFP, an LLM endpoint) could not be reached
"""

from __future__ import annotations

import re
from typing import Any

# Each pattern passes a character a bounded number of times, whatever the text: atomic groups, and one start in a word
_UP_TO_AT = re.compile(r"(?<!\S)\S*@")
# user:password@, where the password may hold an unencoded / ? # (a port is none); or the user alone, which SSH needs (ssh://git@host)
_LOGIN = re.compile(r"(?<=://)(?:[^\s/?#:]*:(?!\d{0,5}[/?#])[^\s@]*@(?:[^\s?#]*@)?|(?<!ssh://)[^\s/?#]*@)")
# Of names that hold secrets: these anywhere, words at the end of a part (dbpass, api-key), and whole parts (code, not codec or timecode);
# a capital begins a part (keyPem, mfaCode), not one after a capital unless a small letter follows (AUTHOR is one part, KEYPem two)
# Tokens of text are no secrets: the plural with a number (max_tokens=256), and tokenizer, tokenization
_COUNT = r"s(?-i:(?![a-z]))[^=&?#;\s]{0,40}=\d{1,9}(?![^&\s)'\",.;:\]]|[,.;:]\S)"
_ANYWHERE = rf"passw|passphrase|pwd|token(?!i[sz]|{_COUNT})|secret"
_END = "(?-i:(?![a-z])(?!(?<=[A-Z])[A-Z](?![a-z])))"
_START = "(?-i:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
_NAMES = (
    rf"{_ANYWHERE}|credential|signature|hmacsign|accesskey|authori[sz]|authent|authdata|(?:access|auth|pass)code"
    rf"|(?:pass|keys?|sig|auth){_END}|{_START}(?:code|sign){_END}"
)
# A value ends at & or a space; marks at its end belong to the sentence around it
_QUERY = re.compile(rf"([?&#;](?>[^=&?#;\s]*?(?:{_NAMES}))[^=&?#;\s]*+=)[^&\s]*(?<![;:)'\",.\]])", re.IGNORECASE)
# libpq's form: password=SECRET host=db
_WORD = re.compile(
    rf"((?<!\S)(?>[^=&?#;\s]*?(?:{_ANYWHERE}|pass{_END}))[^=&?#;\s]*+=)(?:'(?:[^'\\]|\\.)*'|[^\s]*(?<![;:)'\",.\]]))",
    re.IGNORECASE | re.DOTALL,
)


def without_secrets(text: str) -> str:
    """Returns `text` without the logins of URLs in it; passwords, tokens, keys, codes and signatures in their queries, and in `password=...`, become `***`.

    Whoever calls joins nothing with an `@` to a URL before: with a login in it, what stands before the `@` is taken for the password.
    """
    text = _UP_TO_AT.sub(lambda match: _LOGIN.sub("", match[0]), text)
    return _WORD.sub(r"\1***", _QUERY.sub(r"\1***", text))


class DubmillError(Exception):
    """An error that a person can act on: what is wrong, where, and the cure, in one sentence without secrets of URLs."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        self.what, self.where, self.cure = (without_secrets(text) for text in (what, where, cure))
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """`where: what; cure` in one line, without the parts that are empty."""
        located = f"{self.where}: {self.what}" if self.where else self.what
        return f"{located}; {self.cure}" if self.cure else located

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.cure)


def _rebuild(kind: type[DubmillError], what: str, where: str, cure: str) -> DubmillError:
    return kind(what, where=where, cure=cure)


class UsageError(DubmillError):
    """A command, file or argument makes no sense."""


class InvalidParamsError(DubmillError):
    """A parameter breaks its type, its bound or its name."""


class InvalidArtifactError(DubmillError):
    """A directory is not the artifact that a step needs."""


class UnsealedArtifactError(InvalidArtifactError):
    """The step that writes this artifact did not finish."""


class ChangedArtifactError(InvalidArtifactError):
    """A file of a sealed artifact has changed, or is gone."""


class BackboneMismatchError(DubmillError):
    """Two artifacts that must share a backbone do not."""


class UnreadableMediaError(DubmillError):
    """A media file cannot be read, or lacks a stream, or breaks a limit."""


class MediaTooLargeError(UnreadableMediaError):
    """A media file is longer, larger or heavier than the caller's limits allow."""


class MediaTooLongError(MediaTooLargeError):
    """A media file is longer than the caller's limit allows."""


class NoFaceError(UnreadableMediaError):
    """Nobody can be seen in a clip."""


class UnsupportedTextError(DubmillError):
    """The words cannot be spoken by this backbone in this time."""


class GateFailedError(DubmillError):
    """The accepted share of pairs is below its floor."""


class PromotionRefusedError(DubmillError):
    """The challenger is not better than the champion."""


class MissingConsentError(DubmillError):
    """There is no statement that the person in the clip agrees to be dubbed."""


class GpuMemoryError(DubmillError):
    """A step needs more memory than the GPU has."""


class DiskFullError(DubmillError):
    """The disk is full."""


class InterruptedStepError(DubmillError):
    """A step was stopped before it was done, and continues when it is run again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class ServiceUnavailableError(DubmillError):
    """A server that the step depends on did not answer."""

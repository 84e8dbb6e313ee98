"""What requests and responses of `serve` contain, as /openapi.json describes it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Share(BaseModel):
    """A class and its calibrated probability."""

    class_name: str = Field(serialization_alias="class")
    confidence: float = Field(ge=0, le=1)


class ImageAnswer(BaseModel):
    """The answer for one image."""

    name: str = Field(description="the name of the file, if it was sent as a part of a form")
    answered: bool = Field(description="false: the answer is withheld, or the image cannot be read")
    predicted: str | None = Field(description="the most probable class, also if the answer is withheld")
    confidence: float | None = Field(description="its calibrated probability")
    top: list[Share] = Field(description="the most probable classes, most probable first")
    remark: str = Field(description="why the answer is withheld, or a remark on the file")
    error: str | None = Field(description="why the image cannot be read")
    heatmap: str | None = Field(description="?heatmap=1: the regions that support the class, as a data URL (JPEG)")
    id: str | None = Field(description="with --collect: names the image in /correct")


class Predictions(BaseModel):
    """The answers of one request, in the order of its images."""

    model: str = Field(description="the run whose model has answered")
    milliseconds: float = Field(description="from the complete request to the answer")
    answers: list[ImageAnswer]


class Correction(BaseModel):
    """The right class of an image that was sent before."""

    id: str = Field(max_length=100)
    label: str = Field(max_length=1000)


class ModelInfo(BaseModel):
    """The model that answers."""

    run: str
    model: str = Field(description="the network")
    classes: list[str]
    image_size: int = Field(description="side of the square that images are resized to, in pixels")
    device: str
    test_accuracy: float | None = Field(description="on the test images of the run")
    test_accuracy_ci95: list[float] | None
    min_confidence: float | None = Field(description="answers below are withheld; null: no answer is")
    collects: bool = Field(description="whether images are kept (--collect)")


class Health(BaseModel):
    """The server answers."""

    status: str = "ok"

"""The settings of `train` and `evaluate`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from worker.settings.base import Settings, Sources


class TrainSettings(Settings):
    """Train a model for own classes; --weights takes what comes out."""

    data: Sources = Field(
        default=[],
        description="labelled images: COCO JSON, folder in Pascal VOC's form, or the .json of a "
        "replay beside its recording; several are one data set",
    )
    images: Path | None = Field(
        None, description="folder of the images or recordings; default: beside the data"
    )
    val: Path | None = Field(
        None,
        description="labelled images to measure AP on before and after each epoch; the weights "
        "with the highest AP are kept, else those of the epoch with the lowest loss",
    )
    val_images: Path | None = Field(
        None, description="folder of the images of --val; default: that of --images"
    )
    output: Path | None = Field(None, description="weights file to write: .safetensors")
    model: str | None = Field(
        None,
        description="name from `ssd-worker models`; default: what the weights file says, else "
        "ssd_mobilenet_v2_oid",
    )
    weights: str | None = Field(
        None,
        description="weights to start from: file, 'coco', or 'imagenet' for the backbone of a "
        "VGG16 alone; default: those in the package",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="times that each image is seen; default: as many as make 2,000 steps, but "
        "12 to 200",
    )
    batch: int = Field(16, ge=1, le=4096, description="images at once")
    accumulate: int = Field(
        1,
        ge=1,
        le=4096,
        description="batches per step, for large steps in little memory",
    )
    lr: float | None = Field(
        None,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="highest learning rate; default: 0.001, with VGG16 0.0001; with sgd 0.02 and "
        "0.001; lower for steps of fewer than 16 images",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw, or sgd with the paper's momentum and weight decay"
    )
    schedule: Literal["cosine", "step"] = Field(
        "cosine",
        description="how the learning rate falls: along a cosine, or step: to a tenth after 2/3 "
        "and again after 11/12 of the steps",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="decay of a moving average of the weights, which is then measured and kept in "
        "their place, such as 0.999; 0: no average",
    )
    freeze: int = Field(
        0, ge=0, le=100, description="keep the first N of the backbone's 5 stages as they are"
    )
    augment: Literal["paper", "light", "none"] = Field(
        "paper",
        description="how images are varied: paper: as in the paper; light: zoomed out to 1/2 and "
        "cropped to 0.6 of a side at most; none: not at all",
    )
    flip: bool = Field(
        True,
        description="mirror half of the images; --no-flip for classes that have a left and a "
        "right: digits, letters, signs",
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="what the order of images and their augmentation depend on",
    )
    resume: bool = Field(
        False, description="go on after the last whole epoch; from the start if there is none"
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=256,
        description="processes that read images; 0: none besides the training; default: one per "
        "core but one, at most 8",
    )
    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of the network's multiplications; auto: bf16 on a GPU that has it, else fp32",
    )
    half: bool = Field(False, description="store the weights as fp16, in half the space")
    preview: Path | None = Field(
        None,
        description="PNG to draw augmented images with their boxes into; without --output, that "
        "is all",
    )
    tensorboard: Path | None = Field(
        None, description="directory to write curves for TensorBoard into"
    )
    skip_invalid: bool = Field(
        False, description="leave out what is wrong in the data, instead of refusing it"
    )
    overwrite: bool = Field(
        False, description="replace an output that exists, and start again unless --resume"
    )

    @model_validator(mode="after")
    def _says_what_to_write(self) -> "TrainSettings":
        if not self.data:
            raise ValueError("no labelled images to learn from: give DATA, such as labels.json")
        if self.output is None and self.preview is None:
            raise ValueError("give --output FILE.safetensors, or --preview FILE.png")
        if self.output is not None and self.output.suffix != ".safetensors":
            raise ValueError(f"--output {self.output}: expected .safetensors")
        if self.preview is not None and self.preview.suffix != ".png":
            raise ValueError(f"--preview {self.preview}: expected .png")
        return self


def _only_one(value: Any) -> Any:
    """A list of one is that one: a file for several commands may list the data of others."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    if isinstance(value, list):
        raise ValueError("evaluate takes one data set: name it as the first argument")
    return value


class EvaluateSettings(Settings):
    """Measure a model on labelled images, or compare two."""

    model_config = SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    data: Annotated[CliPositionalArg[str], BeforeValidator(_only_one)] = Field(
        "",
        description="labelled images: COCO JSON, folder in Pascal VOC's form, or the .json of a "
        "replay beside its recording",
    )
    checkpoints: CliPositionalArg[list[str]] = Field(
        default=[],
        description="weights file, 'coco', or the name of a model for its weights in the package; "
        "two are compared; default: the weights in the package",
    )
    images: Path | None = Field(
        None, description="folder of the images or recordings; default: beside the data"
    )
    model: str | None = Field(
        None,
        description="name from `ssd-worker models`; default: what the weights file says, else "
        "ssd_mobilenet_v2_oid",
    )
    weights: str | None = Field(
        None, description="weights file, or 'coco': another way to name one"
    )
    metric: Literal["coco", "voc07"] = Field(
        "coco",
        description="coco: AP over IoU 0.5 to 0.95; voc07: Pascal VOC 2007's, 11 points at IoU 0.5",
    )
    as_json: bool = Field(False, description="print one JSON object instead of tables")
    plots: Path | None = Field(
        None,
        description="directory for pictures: precision over recall, the worst misses and false "
        "alarms",
    )
    score_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="give precision and recall of detections scoring above this; default: the "
        "model's",
    )
    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="numeric precision of the network; auto: bf16 if the hardware has it, else "
        "fp16 on a GPU and fp32 on a CPU",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="maximum images per batch; default: 4 per core on a CPU, 16 on a GPU",
    )
    skip_invalid: bool = Field(
        False, description="leave out what is wrong in the data, instead of refusing it"
    )

    @model_validator(mode="after")
    def _says_what_to_measure(self) -> "EvaluateSettings":
        if not self.data:
            raise ValueError("no labelled images to measure on: give DATA, such as labels.json")
        if self.checkpoints and self.weights is not None:
            raise ValueError("weights are named twice: by --weights and after DATA: name them once")
        if len(self.checkpoints) > 2:
            raise ValueError("at most two weights files can be compared: give two of them")
        if len(self.checkpoints) == 2 and self.metric == "voc07":
            raise ValueError("two weights files are compared in COCO's AP: leave out --metric")
        return self

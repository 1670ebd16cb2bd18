"""The settings of an experiment: frozen, typed sections whose field docstrings are also the help texts."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from metasr.scale import Scale


class Section(BaseModel):
    """A group of settings. Unknown keys are errors; values never change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )


MIN_LR_PATCH_PX = 32  # less shows the network less than its reach; and the discriminator needs 32 HR pixels
SAME_RUN: Final = "same run"
"""Marks a setting, or a section of them, of which any value makes the same run: it decides neither the weights of a
step nor which step's are registered. All other settings are part of a run's name (`cluster.training.naming`)."""


@dataclass(frozen=True)
class FirstDefault:
    """Marks a setting whose default has changed: runs that have its first default keep their names.

    Attributes:
        value: That default, as JSON has it.
    """

    value: Any


class ModelConfig(Section):
    """The networks."""

    architecture: Literal["meta_srgan", "srgan", "edsr"] = "meta_srgan"
    """Generator. srgan and edsr are what the paper compares with: each is for one scale, fixed_scale."""
    fixed_scale: Literal[2, 3, 4] = 2
    """The scale of srgan and edsr; meta_srgan has none of its own."""
    channels: Literal[1, 3] = 1
    """Channels of the image: 1 for MRI and luminance, 3 for RGB."""
    num_features: int = Field(64, ge=1)
    """Feature maps of the generator's trunk (paper: 64)."""
    num_blocks: int = Field(5, ge=0)
    """Residual blocks of the generator (paper: 5)."""
    norm: Literal["batch", "none"] = "none"
    """Normalisation in meta_srgan and srgan. The paper has batch, whose statistics fit patches but not slices."""
    skip: Literal["none", "bicubic"] = "bicubic"
    """What is added to the output of meta_srgan. The paper has none; bicubic makes bicubic the starting point."""
    residual_scale: float = Field(0.2, gt=0)
    """Factor on the residual branches where norm is none (EDSR: 0.1 for 32 blocks)."""


class DataConfig(Section):
    """The training data."""

    url: Annotated[str, SAME_RUN] = ""  # what lies there enters the name, by the SHA-256 of its index
    """Store that `metasr prepare` wrote: a folder or s3://bucket/prefix."""
    shuffle_shards: int = Field(8, ge=1)
    """Shards whose samples are mixed with each other, over all virtual shards of the batch, at least one for each;
    all workers together hold about two times as many in memory, or a few more."""
    on_corrupt: Annotated[Literal["stop", "skip"], SAME_RUN] = "stop"
    """A shard that is missing or damaged where it is stored ends the run, or samples of another stand in for its own.
    A store that is away is neither: the run waits for it."""
    patch_px: int = Field(96, ge=16)
    """Largest side of a training patch in HR pixels (paper: 96); it is cut to a multiple of p for scale p/q."""
    lr_patch_px: int = Field(0, ge=0)
    """Largest side of a training patch in LR pixels, within patch_px; 0 sets none (as the paper). With one, patches
    of all scales show the network about as much (LIIF: 48)."""
    degradation: Literal["bicubic", "kspace", "thick_slices", "bilinear8"] = "bicubic"
    """How LR is made from HR: antialiased bicubic; its low spatial frequencies alone, as in a coarser scan; averaged
    over a slice profile; or, only to compare with the authors' code, bilinear in 8 bits."""
    noise: float = Field(0.0, ge=0, le=1)
    """Rician noise on LR: standard deviation in each of the two channels, as a part of the intensity range."""
    flips: bool = True
    """Flip patches at random along both axes and transpose them."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Multiply patches by a random factor from 1 - contrast to 1 + contrast."""
    min_brain: float = Field(0.0, ge=0, le=1)
    """Least part of a patch that is not background: of a few random places the first that has it is taken."""


class LossConfig(Section):
    """The terms of the generator's loss (paper, Eq. 6)."""

    pixel: float = Field(1.0, ge=0)
    """Weight of the L1 loss (paper: 1)."""
    adversarial: float = Field(0.001, ge=0)
    """Weight of the adversarial loss (paper: 0.001); 0 trains no discriminator."""
    perceptual: float = Field(0.006, ge=0)
    """Weight of the perceptual loss (paper: 0.006); 0 needs no VGG weights."""
    adversarial_form: Literal["saturating", "non_saturating", "linear"] = "non_saturating"
    """Generator's side of the game: saturating is Eq. 4, non_saturating (SRGAN) learns even while losing."""
    vgg_network: Literal["vgg16", "vgg19"] = "vgg19"
    """Network of the perceptual loss (paper: vgg19)."""
    vgg_layer: str = "relu5_4"
    """Layer whose output is compared (paper: the last, relu5_4; the last of vgg16 is relu5_3)."""
    vgg_weights: Annotated[Path | None, SAME_RUN] = None  # its bytes enter the name, not its path
    """Weights of that network: safetensors with torchvision's key names, or torchvision's own file. Without one,
    torchvision's is downloaded and its checksum verified."""


class OptimConfig(Section):
    """Adam and its schedule, the same for both networks, and the average of the generator's weights."""

    generator_lr: float = Field(1e-4, gt=0)
    """Learning rate of the generator (paper: 1e-4)."""
    discriminator_lr: float = Field(1e-4, gt=0)
    """Learning rate of the discriminator (paper: 1e-4)."""
    schedule: Literal["step", "cosine"] = "step"
    """How the learning rates fall: in steps (paper), or along half a cosine to 0 at train.steps (Loshchilov 2017)."""
    decay_every_steps: int = Field(60_000, ge=1)
    """With step: both learning rates are multiplied by decay_factor after this many steps (paper: 60k)."""
    decay_factor: float = Field(0.8, gt=0, le=1)
    """See decay_every_steps (paper: 0.8)."""
    clip_norm: float = Field(0.0, ge=0)
    """Longest gradient of each network, longer ones are shortened to it; 0 leaves all as they are (as the paper)."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Keep a moving average of the generator's weights with this decay a step, and validate and register that; 0
    keeps none (as the paper; Real-ESRGAN: 0.999)."""


class TrainConfig(Section):
    """The training run."""

    steps: int = Field(360_000, ge=1)
    """Updates of the generator (paper: 360k)."""
    batch_size: int = Field(8, ge=1)
    """Patches in a step, over all workers (paper: 8)."""
    scale_min: float = Field(1.1, ge=1.1)
    """Smallest scale trained on, in steps of 0.1 (paper: 1.1)."""
    scale_max: float = Field(4.0, le=16)
    """Largest scale trained on, in steps of 0.1 (paper: 4.0)."""
    pixel_only_steps: int = Field(0, ge=0)
    """First steps with the L1 loss alone (SRGAN starts from such a network; the paper does not say)."""
    checkpoint_every_steps: int = Field(1000, ge=1)
    """Steps between checkpoints, each with a validation; work lost to a fault is at most this much."""
    keep_checkpoints: Annotated[int, SAME_RUN] = Field(3, ge=1)
    """Checkpoints kept: the best by validation, and the newest in any case."""
    keep_best_by: Literal["psnr", "perceptual", "newest"] = "psnr"
    """What makes a checkpoint the best, the one registered at the end: its mean gain over bicubic in PSNR (which
    adversarial training gives away) or in perceptual distance, or the number of its steps."""
    reduction: Literal["exact", "fast"] = "exact"
    """How workers add up: exact gives the same bits for any number of workers and any history of faults; fast leaves
    it to DistributedDataParallel, and to as many patches at once as a worker has."""
    virtual_shards: int = Field(0, ge=0)
    """Equal parts of each batch, a power of two: at most as many workers can share it, and with exact each part has
    its own BatchNorm statistics. 0 takes the largest power of two up to 4 that divides batch_size."""
    on_nan: Annotated[Literal["stop", "skip"], SAME_RUN] = "stop"
    """An update that is NaN or infinite ends the run, or is left out."""
    max_skipped: Annotated[int, SAME_RUN] = Field(10, ge=0)
    """With skip: a run that has left out more updates ends."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of the convolutions; weights, losses, meta-upscale and optimiser stay float32. auto: bfloat16 where
    all processors or GPUs of the workers compute it natively, else float32; a run keeps what it began with."""
    graphs: Annotated[Literal["off", "auto", "on"], SAME_RUN] = "off"
    """Launch a step on a GPU as one CUDA graph for each scale, with the parts of exact side by side, for one worker.
    No GPU has run this yet; until one has shown that it gives the same bits (`python -m tests.gpu`), the default is
    off. auto compares the first launch of each graph with the step itself, and does without graphs where they differ.
    on compares nothing; on a CPU it only reads losses, and finds NaN, every log_every_steps, as on a GPU."""
    log_every_steps: Annotated[int, SAME_RUN] = Field(50, ge=1)
    """Steps between lines of the log and points of the curves."""
    seed: int = Field(0, ge=0)
    """Everything random follows from it: weights, order, scales, patches, flips."""

    @property
    def num_virtual_shards(self) -> int:
        """Parts of each batch."""
        return self.virtual_shards or math.gcd(self.batch_size, 4)

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        number = self.num_virtual_shards
        if number & (number - 1) or self.batch_size % number:
            raise ValueError(
                f"train.virtual_shards {number} is not a power of two that divides train.batch_size {self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _scales_in_order(self) -> Self:
        if self.scale_min > self.scale_max:
            raise ValueError(f"train.scale_min {self.scale_min} is above train.scale_max {self.scale_max}")
        for name, value in (("scale_min", self.scale_min), ("scale_max", self.scale_max)):
            if abs(value * 10 - round(value * 10)) > 1e-9:
                raise ValueError(f"train.{name} {value} is not a multiple of 0.1")
        return self


ScaleSetting = Annotated[
    Scale,
    BeforeValidator(Scale.parse),
    PlainSerializer(Scale.to_json, return_type=float | str, when_used="json"),
]


class EvalConfig(Section):
    """Validation while training, and `metasr evaluate`."""

    scales: tuple[ScaleSetting, ...] = tuple(Scale(r, r) for r in (1.5, 2.0, 3.0, 4.0))
    """Scales above 1 and up to 16 that are evaluated, any real number, or rows x columns such as 1x4."""
    validation_slices: int = Field(4, ge=1)
    """Slices that validation looks at, spread over the validation subjects; their pictures are kept."""
    slices_per_subject: Annotated[int, SAME_RUN] = Field(20, ge=0)
    """Slices that `metasr evaluate` takes of each subject, evenly spread; 0 takes all."""

    @model_validator(mode="after")
    def _has_a_scale(self) -> Self:
        if not self.scales:
            raise ValueError("eval.scales takes scales above 1 and up to 16, at least one")
        return self


class ExperimentConfig(Section):
    """Everything that decides which weights come out."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _patch_holds_every_scale(self) -> Self:
        needed = round(self.train.scale_max * 10)
        if self.data.patch_px < needed:
            raise ValueError(
                f"data.patch_px {self.data.patch_px} cannot hold scale {self.train.scale_max}: needs {needed}"
            )
        if 0 < self.data.lr_patch_px < MIN_LR_PATCH_PX:
            raise ValueError(
                f"data.lr_patch_px {self.data.lr_patch_px} is less than the network sees around a pixel: "
                f"set 0, or at least {MIN_LR_PATCH_PX}"
            )
        return self

    @model_validator(mode="after")
    def _batchnorm_has_something_to_average(self) -> Self:
        patches = self.train.batch_size // self.train.num_virtual_shards
        # The discriminator sees patches 16 times smaller at its end, where BatchNorm needs more than one pixel.
        if self.loss.adversarial and patches == 1 and self.data.patch_px < 32:
            raise ValueError(
                f"with loss.adversarial, virtual shards of one patch need a data.patch_px of 32, not "
                f"{self.data.patch_px}: set train.virtual_shards below train.batch_size {self.train.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _distance_needs_its_network(self) -> Self:
        if self.train.keep_best_by == "perceptual" and not self.loss.perceptual:
            raise ValueError("train.keep_best_by perceptual measures with the network of a loss.perceptual above 0")
        return self

    @model_validator(mode="after")
    def _one_scale_for_who_has_one(self) -> Self:
        scale = self.model.fixed_scale
        asked = {Scale.parse(self.train.scale_min), Scale.parse(self.train.scale_max), *self.eval.scales}
        if self.model.architecture != "meta_srgan" and asked != {Scale.parse(scale)}:
            raise ValueError(
                f"model.architecture {self.model.architecture} is for scale {scale} (model.fixed_scale) alone: "
                f"set train.scale_min, train.scale_max and eval.scales to {scale}"
            )
        return self

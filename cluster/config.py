"""The settings of a job: an experiment, and the machines, storage and tracking it uses."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cluster.redaction import without_password
from metasr.config import SAME_RUN, ExperimentConfig, ScaleSetting, Section
from metasr.errors import ConfigError
from metasr.scale import REPORTED_SCALES

Kind = Literal["volumes", "photos"]


class ResourcesConfig(Section):
    """The machines."""

    num_workers: int = Field(2, ge=1)
    """Training processes; each computes a part of every batch."""
    min_workers: int = Field(0, ge=0)
    """Train with fewer workers, down to this many, while there is no room for all, and add workers as soon as there
    is. 0 waits for room for all."""
    placement: Literal["pack", "spread"] = "pack"
    """Place workers on as few nodes as possible, or spread them over many."""
    cpus_per_worker: float = Field(1, gt=0)
    """CPU cores reserved for each worker; it uses as many threads."""
    gpu: bool = False
    """Give each worker a GPU, or a fraction of one, see gpus_per_worker."""
    gpus_per_worker: float = Field(1, gt=0, le=1)
    """With gpu: GPUs for each worker. Below 1, several runs of one worker, such as trials of a sweep, share a GPU."""
    max_failures: int = Field(8, ge=0)
    """Consecutive restarts of the workers, from the newest checkpoint, after one has died. A newer checkpoint resets
    the count."""

    @property
    def cpus(self) -> float:
        """CPU cores of all workers together."""
        return self.num_workers * self.cpus_per_worker

    @model_validator(mode="after")
    def _some_are_no_more_than_all(self) -> Self:
        if self.min_workers > self.num_workers:
            raise ValueError(f"resources.min_workers {self.min_workers} is above num_workers {self.num_workers}")
        return self

    @model_validator(mode="after")
    def _workers_of_a_run_share_no_card(self) -> Self:
        if self.gpu and self.gpus_per_worker < 1 and self.num_workers > 1:
            raise ValueError(
                f"resources.gpus_per_worker {self.gpus_per_worker:g} is for runs of one worker, not of "
                f"{self.num_workers}: NCCL refuses workers that share a GPU"
            )
        return self


class StorageConfig(Section):
    """Storage of checkpoints and of cached shards."""

    url: str = "~/metasr/runs"
    """Folder or s3://bucket/prefix for checkpoints; all nodes must reach it."""
    spool: str = "~/.cache/metasr/checkpoints"
    """Folder on each node's own disk for checkpoints waiting for upload to url."""
    cache: str = "~/.cache/metasr/shards"
    """Folder on each node's own disk that caches shards from a bucket; empty: no cache."""
    cache_gb: float = Field(20, gt=0)
    """Maximum size of the cache in GB; the least recently used shards are removed."""


class TrackingConfig(Section):
    """MLflow."""

    uri: str = "sqlite:///~/metasr/mlflow.db"
    """Tracking server (http://...) or local database."""
    artifacts: str = "~/metasr/artifacts"
    """Folder for pictures and bundles if uri is a database; a server has its own setting."""
    experiment: str = "meta-srgan"
    """Name of the MLflow experiment."""
    model: str = "meta-srgan"
    """Name of the registered model."""
    spool: str = "~/metasr/spool"
    """Folder on the driver's own disk for records not sent to MLflow yet; `metasr sync` sends them."""
    pictures: bool = True
    """Keep pictures of validation slices in MLflow and in reports; false: numbers alone."""


class JobConfig(ExperimentConfig):
    """An experiment with its machines, storage and tracking."""

    resources: Annotated[ResourcesConfig, SAME_RUN] = ResourcesConfig()
    storage: Annotated[StorageConfig, SAME_RUN] = StorageConfig()
    tracking: Annotated[TrackingConfig, SAME_RUN] = TrackingConfig()


class SearchConfig(Section):
    """The search of a sweep."""

    searcher: Literal["tpe", "random"] = "tpe"
    """How settings are chosen: by Optuna's TPE, which learns from ended trials, or at random."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """How poor trials are stopped early: ASHA (Li 2018) stops those behind others at the same step; population based
    training (Jaderberg 2017) replaces them by forks of better ones; none stops no trial."""
    trials: Annotated[int, SAME_RUN] = Field(16, ge=1)
    """Number of trials, or size of the population. The same command with a higher number continues the sweep."""
    concurrent: Annotated[int, SAME_RUN] = Field(0, ge=0)
    """Maximum number of parallel trials; 0: as many as fit. All trials of a population run in parallel."""
    seed: int = Field(0, ge=0)
    """Seed of the searcher."""
    metric: Literal["ssim", "psnr"] = "ssim"
    """Metric of the objective: its gain over bicubic at each scale of eval.scales."""
    floor: float = 0.0
    """Required gain at the worst scale: the objective is the mean gain over the scales, or the gain at the worst one
    if that is below the floor."""
    asha_grace: float = Field(0.25, gt=0, le=1)
    """Fraction of train.steps before which no trial is stopped."""
    asha_reduction: float = Field(3, gt=1)
    """ASHA's reduction factor: each rung is this many times the step of the previous one, and one of this many trials
    continues."""
    pbt_interval: float = Field(0.25, gt=0, le=1)
    """Fraction of train.steps after which a trial of a population may be replaced, again and again."""
    pbt_quantile: float = Field(0.25, gt=0, le=0.5)
    """Fraction of a population that is replaced, by forks of as many of the best."""


class SweepConfig(JobConfig):
    """A job whose settings are searched, and the search."""

    search: SearchConfig = SearchConfig()


class GateConfig(Section):
    """Rules for a version to become the champion, besides PSNR and SSIM nowhere below bicubic."""

    scales: tuple[ScaleSetting, ...] = Field(REPORTED_SCALES, min_length=1)
    """Scales that must have been evaluated, at least. Give one scale to compare networks that support only that one,
    under their own name (tracking.model)."""
    psnr_margin_db: float = Field(0.05, ge=0)
    """Largest loss of PSNR against the champion at any scale, in dB."""
    ssim_margin: float = Field(0.0005, ge=0)
    """Largest loss of SSIM against the champion at any scale."""
    min_patients: int = Field(6, ge=2)
    """Number of patients from which the mean gain over the champion, over all scales, must be significant: the lower
    end of its paired 95 % interval above zero. With fewer patients only the mean must be above zero."""

    max_mismatch: float = Field(1, gt=0, le=1)
    """Largest share of patches whose detail is not that of HR (Fourier ring correlation), in the mean at any scale;
    1: no rule."""
    min_covered: float = Field(0, ge=0, lt=1)
    """Smallest share of the brain's pixels within the bounds of the model's calibration (upscale --trust), in the
    mean at any calibrated scale; 0: no rule."""

    downstream: Literal["none", "tissue", "command"] = "none"
    """Required downstream evaluation: mean Dice over classes and patients, at no scale below bicubic, or below the
    champion by more than dice_margin."""
    dice_margin: float = Field(0.005, ge=0)
    """Largest loss of Dice against the champion at any scale, with gate.downstream."""


class TasksConfig(Section):
    """The tasks on Ray; each scores some slices of a subject, or super-resolves a volume."""

    cpus: float = Field(1, gt=0)
    """CPU cores reserved for each task; it uses as many threads, with or without Ray, for the same bits."""
    gpus: float = Field(0.25, ge=0, le=1)
    """Fraction of a GPU for each task, if there are GPUs: 0.25 lets four tasks share one; 0 computes on CPUs."""


class DownstreamConfig(Section):
    """Downstream evaluation: segmentation of SR, compared with that of HR."""

    slice_mm: float = Field(0, ge=0)
    """Distance between slices in mm, which data sets do not record. 0: the pixel spacing."""
    timeout_s: float = Field(600, gt=0)
    """Time limit of --downstream-command for a volume, in seconds."""


class EvaluateConfig(JobConfig):
    """The settings of an evaluation."""

    tasks: TasksConfig = TasksConfig()
    downstream: DownstreamConfig = DownstreamConfig()


class UpscaleConfig(Section):
    """The settings of an upscale."""

    tracking: TrackingConfig = TrackingConfig()
    tasks: TasksConfig = TasksConfig()


class PromotionConfig(Section):
    """The settings of a promotion."""

    tracking: TrackingConfig = TrackingConfig()
    gate: GateConfig = GateConfig()


class PrepareConfig(Section):
    """The conversion of volumes or photographs to shards."""

    kind: Kind = "volumes"
    """Content of the folder: NIfTI volumes, or photographs (png, jpg, webp, tif, bmp), converted to luminance."""
    modality: str = ""
    """Contrast to use: t1ce (after contrast agent), t1, t2, flair under any of their names, or the end of the file
    names. Separate several by commas. Empty: every NIfTI file is a subject."""
    patient_regex: str = ""
    """Regular expression for the patient in the path below the folder: its first matching group, else the match."""
    patients: str = ""
    """CSV file that assigns patients: a column `file` or `subject`, and a column `patient`."""
    crop_px: int = Field(128, ge=32)
    """Side of the training crops: the window with the most brain, or the tiles of a photograph (paper: 128)."""
    min_brain: float = Field(0.1, ge=0, le=1)
    """Smallest fraction of brain in a slice; slices with less are left out."""
    slice_step: int = Field(1, ge=1)
    """Use every n-th of the remaining slices."""
    val_fraction: float = Field(0.2, gt=0, lt=1)
    """Fraction of the subjects for validation; at least one subject."""
    val_subjects: tuple[str, ...] = ()
    """Names of the subjects or patients for validation; replaces val_fraction."""
    shard_mb: float = Field(64, gt=0)
    """Size in MB at which a shard ends, after the current subject; small data sets get smaller shards."""
    seed: int = Field(0, ge=0)
    """Seed for the choice of validation subjects."""
    pseudonymise: bool = False
    """Store keyed hashes of subjects' names; the key is METASR_PSEUDONYM_KEY. Voxels can still show a face."""

    @model_validator(mode="after")
    def _photos_have_no_brain(self) -> Self:
        for name in ("modality", "patient_regex", "patients", "min_brain", "slice_step"):
            if self.kind == "photos" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for volumes, not for photos")
        return self


def check_workers(config: JobConfig) -> None:
    """Raise ConfigError if the workers cannot share a batch."""
    train, resources = config.train, config.resources
    if train.reduction == "exact":
        if resources.num_workers > train.num_virtual_shards:
            raise ConfigError(
                f"resources.num_workers {resources.num_workers}",
                f"a batch has {train.num_virtual_shards} virtual shards to share",
                f"Set train.virtual_shards to a power of two from {resources.num_workers} to train.batch_size, or "
                "train.reduction to fast",
            )
        return
    for number in range(resources.min_workers or resources.num_workers, resources.num_workers + 1):
        if train.batch_size % number or train.num_virtual_shards % number:
            raise ConfigError(
                f"train.batch_size {train.batch_size} in {train.num_virtual_shards} virtual shards",
                f"{number} workers cannot share it equally, which train.reduction fast needs",
                "Change their number, train.virtual_shards or train.reduction",
            )


def portable(config: JobConfig) -> JobConfig:
    """Return the config as workers get it, and as it is stored with each checkpoint and bundle.

    Its locations do not depend on the working directory, and MLflow's has no password: the driver alone talks to it.
    """
    values = config.model_dump(mode="json")
    values["tracking"]["uri"] = without_password(values["tracking"]["uri"])
    for section, name in (("data", "url"), ("storage", "url"), ("loss", "vgg_weights")):
        if values[section][name]:
            values[section][name] = expand(values[section][name])
    for name in ("spool", "cache"):
        place = values["storage"][name]
        if place and not place.startswith("~"):  # each node has its own home
            values["storage"][name] = expand(place)
    return JobConfig.model_validate(values)


def expand(location: str) -> str:
    """Return a path or URL with `~` replaced by the home directory and plain paths made absolute."""
    scheme, separator, rest = location.rpartition("://")
    if separator and scheme == "sqlite":
        return f"sqlite:///{_absolute(rest.removeprefix('/'))}" if rest.startswith("/") else location
    return location if separator else _absolute(location.removeprefix("file:"))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())

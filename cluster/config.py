"""The settings of a job: an experiment, and the machines, storage and tracking it uses."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from metasr.config import SAME_RUN, ExperimentConfig, ScaleSetting, Section
from metasr.errors import ConfigError
from metasr.scale import REPORTED_SCALES

Kind = Literal["volumes", "photos"]


class ResourcesConfig(Section):
    """The machines."""

    num_workers: int = Field(2, ge=1)
    """Training processes; each computes its part of every batch."""
    min_workers: int = Field(0, ge=0)
    """Train with fewer workers, down to this many, where there is no room for all, and with more as soon as there is.
    0 waits for room for all."""
    placement: Literal["pack", "spread"] = "pack"
    """Put workers on few nodes, or on many."""
    cpus_per_worker: float = Field(1, gt=0)
    """CPU cores reserved for each worker; it computes with as many threads."""
    gpu: bool = False
    """Give each worker a GPU, or a part of one, see gpus_per_worker."""
    gpus_per_worker: float = Field(1, gt=0, le=1)
    """With gpu: how much of one. Below 1 several runs of one worker each, such as trials of a sweep, share a card."""
    max_failures: int = Field(8, ge=0)
    """Times in a row that the workers are started again, from the newest checkpoint, after one has died. A newer
    checkpoint begins the count anew."""

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
                f"{self.num_workers}: NCCL refuses workers that share a card"
            )
        return self


class StorageConfig(Section):
    """Where runs keep their checkpoints, and nodes their copies of shards."""

    url: str = "~/metasr/runs"
    """Folder or s3://bucket/prefix for checkpoints; all nodes must reach it."""
    spool: str = "~/.cache/metasr/checkpoints"
    """Folder on each node's own disk for checkpoints on their way to url."""
    cache: str = "~/.cache/metasr/shards"
    """Folder on each node's own disk for copies of the shards that come from a bucket; empty keeps none."""
    cache_gb: float = Field(20, gt=0)
    """Size of those copies, in GB, from which on the least recently used are removed."""


class TrackingConfig(Section):
    """MLflow."""

    uri: str = "sqlite:///~/metasr/mlflow.db"
    """Tracking server (http://...) or a database of your own."""
    artifacts: str = "~/metasr/artifacts"
    """Where pictures and bundles go when uri is a database; a server decides for itself."""
    experiment: str = "meta-srgan"
    """Experiment that runs are filed under."""
    model: str = "meta-srgan"
    """Name of the registered model."""
    spool: str = "~/metasr/spool"
    """Folder on the driver's own disk for what MLflow has not got yet; `metasr sync` sends it."""


class JobConfig(ExperimentConfig):
    """An experiment and everything around it."""

    resources: Annotated[ResourcesConfig, SAME_RUN] = ResourcesConfig()
    storage: Annotated[StorageConfig, SAME_RUN] = StorageConfig()
    tracking: Annotated[TrackingConfig, SAME_RUN] = TrackingConfig()


class SearchConfig(Section):
    """How a sweep searches."""

    searcher: Literal["tpe", "random"] = "tpe"
    """Who chooses settings: Optuna's TPE, which learns from trials that ended, or chance."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """Who stops trials early: ASHA (Li 2018), those that are behind others at the same step; population based
    training (Jaderberg 2017), which replaces them by branches of those that are ahead; or nobody."""
    trials: Annotated[int, SAME_RUN] = Field(16, ge=1)
    """Trials in all, or in the population. With more than before, the same command goes on with the same sweep."""
    concurrent: Annotated[int, SAME_RUN] = Field(0, ge=0)
    """Trials at a time, at most; 0 takes as many as fit. A population trains at once."""
    seed: int = Field(0, ge=0)
    """Decides what the searcher chooses."""
    metric: Literal["ssim", "psnr"] = "ssim"
    """What the objective is made of: the gain over bicubic, at every scale of eval.scales."""
    floor: float = 0.0
    """Least gain at the worst scale: the objective is the mean gain over the scales, or the gain at the worst one
    where that is below."""
    asha_grace: float = Field(0.25, gt=0, le=1)
    """No trial is stopped before this part of train.steps."""
    asha_reduction: float = Field(3, gt=1)
    """At each rung, a step this many times that of the one before, one of so many trials goes on."""
    pbt_interval: float = Field(0.25, gt=0, le=1)
    """A trial of a population may be replaced whenever it has trained this part of train.steps."""
    pbt_quantile: float = Field(0.25, gt=0, le=0.5)
    """The part of a population that is replaced, by branches of as many of the best."""


class SweepConfig(JobConfig):
    """A job whose settings are searched, and how."""

    search: SearchConfig = SearchConfig()


class GateConfig(Section):
    """What a version must show to become the champion, besides PSNR and SSIM nowhere below bicubic."""

    scales: tuple[ScaleSetting, ...] = Field(REPORTED_SCALES, min_length=1)
    """Scales at which it must have been evaluated, at least. Give one to compare networks for that scale alone, under
    a name of their own (tracking.model)."""
    psnr_margin_db: float = Field(0.05, ge=0)
    """PSNR in dB that it may lose against the champion at any one scale."""
    ssim_margin: float = Field(0.0005, ge=0)
    """SSIM that it may lose against the champion at any one scale."""
    min_patients: int = Field(6, ge=2)
    """Patients from which on its mean gain over the champion, over all scales, must be sure: the lower end of the
    paired 95 % interval above zero. With fewer, whose interval means nothing, the mean must be above zero."""

    downstream: Literal["none", "tissue", "command"] = "none"
    """Downstream evaluation that it must have: mean Dice over classes and patients, at no scale below bicubic or
    below the champion by more than dice_margin."""
    dice_margin: float = Field(0.005, ge=0)
    """Dice that it may lose against the champion at any one scale, where gate.downstream asks for one."""


class TasksConfig(Section):
    """The tasks of an evaluation on Ray, each some slices of a subject."""

    cpus: float = Field(1, gt=0)
    """CPU cores reserved for each; it computes with as many threads, on Ray or not, for the same bits."""
    gpus: float = Field(0.25, ge=0, le=1)
    """Part of a GPU for each, where there are GPUs: 0.25 lets four share one; 0 computes on CPUs."""


class DownstreamConfig(Section):
    """How SR is segmented and compared with HR, where that is asked for."""

    slice_mm: float = Field(0, ge=0)
    """Distance of neighbouring slices in mm, which data sets do not say. 0: that of the pixels."""
    timeout_s: float = Field(600, gt=0)
    """Seconds that --downstream-command may take for a volume."""


class EvaluateConfig(JobConfig):
    """What an evaluation needs to know."""

    tasks: TasksConfig = TasksConfig()
    downstream: DownstreamConfig = DownstreamConfig()


class PromotionConfig(Section):
    """What a promotion needs to know."""

    tracking: TrackingConfig = TrackingConfig()
    gate: GateConfig = GateConfig()


class PrepareConfig(Section):
    """How volumes or photographs become shards."""

    kind: Kind = "volumes"
    """What the folder holds: NIfTI volumes, or photographs (png, jpg, webp, tif, bmp), taken as luminance."""
    modality: str = ""
    """Contrast to take: t1ce (after contrast agent), t1, t2, flair under any of their names, or the end of the files'
    names. Several with commas. Empty takes every NIfTI file as a subject."""
    patient_regex: str = ""
    """Finds the patient in the path of a file below the folder: its first group that matches, else all it matches."""
    patients: str = ""
    """CSV file that says who is who: a column `file` or `subject`, and a column `patient`."""
    crop_px: int = Field(128, ge=32)
    """Side of the training crops: the window with the most brain, or the tiles of a photograph (paper: 128)."""
    min_brain: float = Field(0.1, ge=0, le=1)
    """Slices with a smaller part of brain are left out."""
    slice_step: int = Field(1, ge=1)
    """Take every n-th of the remaining slices."""
    val_fraction: float = Field(0.2, gt=0, lt=1)
    """Part of the subjects kept for validation, at least one."""
    val_subjects: tuple[str, ...] = ()
    """Subjects or patients to validate on, by name; val_fraction is not used then."""
    shard_mb: float = Field(64, gt=0)
    """Size in MB from which a shard ends, with the subject that reaches it; few subjects make smaller shards."""
    seed: int = Field(0, ge=0)
    """Decides which subjects validate."""
    pseudonymise: bool = False
    """Store keyed hashes of subjects' names; the key is METASR_PSEUDONYM_KEY. Voxels can still show a face."""

    @model_validator(mode="after")
    def _photos_have_no_brain(self) -> Self:
        for name in ("modality", "patient_regex", "patients", "min_brain", "slice_step"):
            if self.kind == "photos" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for volumes, not for photos")
        return self


def check_workers(config: JobConfig) -> None:
    """Raise ConfigError where a batch cannot be shared by the workers."""
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
    """Return the config with locations that mean the same in the working directory of a worker."""
    values = config.model_dump(mode="json")
    for section, name in (("data", "url"), ("storage", "url"), ("loss", "vgg_weights")):
        if values[section][name]:
            values[section][name] = expand(values[section][name])
    for name in ("spool", "cache"):
        place = values["storage"][name]
        if place and not place.startswith("~"):  # each node has a home of its own
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

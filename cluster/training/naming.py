"""The name of a run: it depends on what determines the weights, and on nothing else.

The same command is the same run, on any machine and after an upgrade. So a setting enters the name only if it differs
from its first default: a new setting whose default means "as before" renames no run.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from cluster.checkpoints.run import LEDGER
from cluster.config import JobConfig
from cluster.recipes import flatten, leaves
from cluster.store import Store, open_store
from metasr.config import SAME_RUN, FirstDefault, LossConfig
from metasr.vgg_weights import SHA256, find_weights

Tell = Callable[[str], None]
DIGITS = 10
SETTINGS_0_1: Mapping[str, str] = MappingProxyType(
    {
        "model": "architecture fixed_scale channels num_features num_blocks norm skip residual_scale",
        "data": "shuffle_shards on_corrupt patch_px degradation noise flips contrast min_brain",
        "loss": "pixel adversarial perceptual adversarial_form vgg_network vgg_layer vgg_weights",
        "optim": "generator_lr discriminator_lr schedule decay_every_steps decay_factor clip_norm ema_decay",
        "train": "steps batch_size scale_min scale_max pixel_only_steps checkpoint_every_steps keep_checkpoints "
        "keep_best_by reduction virtual_shards on_nan max_skipped precision log_every_steps seed",
        "eval": "scales validation_slices slices_per_subject",
    }
)
"""The settings in the names of version 0.1.0. Never changed: its runs are found by these names."""


def run_name(config: JobConfig, recipe: str, data_digest: str, start: str = "") -> str:
    """Return a name that is the same on any machine for the same experiment on the same data, and for no other.

    Args:
        config: The settings.
        recipe: First part of the name.
        data_digest: SHA-256 of the data's index.
        start: What training starts from: SHA-256 of a bundle, or RUN@STEP of another run; empty for random weights.

    Raises:
        ConfigError: The weights of the perceptual loss are missing.
    """
    return _named(recipe, [deciding(config), data_digest, start, _vgg_digest(config.loss)])


def former_run_name(config: JobConfig, recipe: str, data_digest: str, start: str = "") -> str:
    """Return the name that version 0.1.0 gave the run; arguments as for `run_name`."""
    values = config.model_dump(mode="json")
    known = ((section, names.split()) for section, names in SETTINGS_0_1.items())
    settings = {section: {name: values[section][name] for name in names} for section, names in known}
    return _named(recipe, [settings, data_digest, start])


def stored_run_name(
    config: JobConfig, recipe: str, data_digest: str, start: str = "", tell: Tell = lambda line: None
) -> str:
    """Return the name of a run; its former name, which is told, if `storage.url` has only that. See `run_name`.

    Raises:
        ConfigError: The weights of the perceptual loss are missing.
        StoreError: The store is away or refuses.
    """
    what = config, recipe, data_digest, start
    storage = open_store(config.storage.url)
    return stored_name(storage, run_name(*what), former_run_name(*what), f"{{}}/{LEDGER}", tell)


def stored_name(storage: Store, name: str, former: str, key: str, tell: Tell = lambda line: None) -> str:
    """Return the name of a run or a sweep; its former name if `storage` has only that.

    Args:
        storage: Store of runs and sweeps.
        name: Its name.
        former: Its name in version 0.1.0.
        key: Key whose existence decides, with `{}` for the name, such as `{}/checkpoints.json`.
        tell: Called with a line if it continues under its former name.
    """
    if storage.exists(key.format(name)) or not storage.exists(key.format(former)):
        return name
    tell(f"{former} was started by version 0.1.0 and keeps that name; a new one would be called {name}")
    return former


def deciding(config: BaseModel) -> dict[str, Any]:
    """Return the settings that determine the weights and differ from their first defaults, by dotted name."""
    values, defaults = flatten(config), first_defaults(type(config))
    return {name: values[name] for name in defaults if values[name] != defaults[name]}


def first_defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Return the first default of each setting that determines the weights, by dotted name, as JSON values."""
    defaults = flatten(model())
    return {
        name: next((mark.value for mark in field.metadata if isinstance(mark, FirstDefault)), defaults[name])
        for name, field in leaves(model, without=SAME_RUN)
    }


def _named(recipe: str, what: list[Any]) -> str:
    text = json.dumps(what, sort_keys=True)
    return f"{Path(recipe).stem}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def _vgg_digest(loss: LossConfig) -> str:
    """Return the SHA-256 of the weights of the perceptual loss; empty for torchvision's own."""
    if not loss.perceptual or loss.vgg_weights is None:
        return ""
    file = find_weights(loss.vgg_network, loss.vgg_weights)
    about = file.stat()
    digest = _digest(file, about.st_size, about.st_mtime_ns)
    return "" if digest == SHA256[loss.vgg_network] else digest


@lru_cache
def _digest(file: Path, num_bytes: int, changed_ns: int) -> str:
    """Return the SHA-256 of a file. It is cached: the file has half a gigabyte, and a sweep has many trials."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

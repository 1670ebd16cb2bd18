"""What a command line names that is not there: found before torch, Ray or MLflow are imported."""

from pathlib import Path

from cluster.config import JobConfig, check_workers
from metasr.errors import ConfigError


def check_training(config: JobConfig) -> None:
    """Look at the settings of a training and at what they name on this machine.

    Raises:
        MetaSRError: The batch cannot be shared, no data is named, or a folder or file is missing.
    """
    check_workers(config)
    check_data(config.data.url)
    if config.loss.perceptual:
        check_weights(config.loss.vgg_weights)


def check_data(url: str) -> None:
    """Look for a data set where it is a folder; a bucket is asked later, and answers when it can.

    Raises:
        MetaSRError: No data is named, or there is no data set.
    """
    from cluster.shards import data_store, require_index

    store = data_store(url)
    if store.is_local:
        require_index(store)


def check_weights(file: Path | None) -> None:
    """Raise ConfigError where weights of a VGG are named and missing."""
    if file and not file.is_file():
        raise ConfigError(f"VGG weights {file}", "there is no such file", "Give safetensors or torchvision's file")

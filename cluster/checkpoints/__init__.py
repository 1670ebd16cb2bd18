"""Where a training run keeps its checkpoints: in a store, verified, and never in training's way."""

from cluster.checkpoints.ledger import SavedCheckpoint, SupersededError
from cluster.checkpoints.run import RunCheckpoints
from cluster.checkpoints.uploader import Uploader

__all__ = ["RunCheckpoints", "SavedCheckpoint", "SupersededError", "Uploader"]

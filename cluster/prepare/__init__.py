"""Prepare a data set: from a folder of volumes or photographs to shards in a store."""

from cluster.prepare.build import Report, prepare
from cluster.prepare.cut import MAX_UNIT
from cluster.prepare.outline import outline
from cluster.prepare.verify import verify

__all__ = ["MAX_UNIT", "Report", "outline", "prepare", "verify"]

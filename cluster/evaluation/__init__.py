"""Evaluation as a job: slices of subjects are scored as Ray tasks, and the results bound to the version."""

from cluster.evaluation.measure import Measured, measure
from cluster.evaluation.run import Request, evaluate_model

__all__ = ["Measured", "Request", "evaluate_model", "measure"]

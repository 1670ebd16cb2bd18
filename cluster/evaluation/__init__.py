"""Evaluation as a job: slices of subjects are scored as Ray tasks, and the results bound to the version."""

from cluster.evaluation.measure import EvaluationResults, measure
from cluster.evaluation.run import EvaluationRequest, evaluate_model

__all__ = ["EvaluationRequest", "EvaluationResults", "evaluate_model", "measure"]

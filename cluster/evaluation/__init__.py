"""Evaluation as a job: Ray tasks score slices of subjects, and the results are recorded with the version."""

from cluster.evaluation.measure import EvaluationResults, measure
from cluster.evaluation.run import EvaluationRequest, evaluate_model

__all__ = ["EvaluationRequest", "EvaluationResults", "evaluate_model", "measure"]

"""Evaluation of models: the protocol, its statistics and tables, and the cost of methods."""

from metasr.evaluation.methods import BICUBIC, LANCZOS, Method
from metasr.evaluation.protocol import Comparison, Conditions, Evaluation, HeldOutSlice, Score, evaluate
from metasr.evaluation.statistics import Mean, differences, mean_by_scale

__all__ = [
    "BICUBIC",
    "LANCZOS",
    "Comparison",
    "Conditions",
    "Evaluation",
    "HeldOutSlice",
    "Mean",
    "Method",
    "Score",
    "differences",
    "evaluate",
    "mean_by_scale",
]

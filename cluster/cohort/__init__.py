"""Many volumes super-resolved by the workers of a Ray cluster, from and to folders and buckets."""

from cluster.cohort.places import Cohort, find_cohort
from cluster.cohort.share import upscale_cohort
from cluster.cohort.work import Outcome, Setup, Weights

__all__ = ["Cohort", "Outcome", "Setup", "Weights", "find_cohort", "upscale_cohort"]

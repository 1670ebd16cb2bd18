"""Sweeps: hyperparameter search over the settings of a recipe. Each trial is a training run."""

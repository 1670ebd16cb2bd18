"""Sweeps: trials that search the settings of a recipe, each a training run like any other."""

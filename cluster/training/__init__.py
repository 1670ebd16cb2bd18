"""A training run: its driver, the group of workers, one worker, and what they tell each other."""

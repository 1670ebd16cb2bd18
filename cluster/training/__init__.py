"""A training run: the driver, the group of workers, one worker, and the messages between them."""

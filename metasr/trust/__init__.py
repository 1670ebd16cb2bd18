"""Where a result is to be believed: a score of doubt, and its calibration by conformal prediction."""

"""What there is: the runs in a storage and in MLflow, and the versions of the registered model."""

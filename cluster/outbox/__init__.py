"""What a run tells MLflow: kept on disk until it is told."""

"""The machines: Ray, object storage, shards and MLflow around the science of `metasr`."""

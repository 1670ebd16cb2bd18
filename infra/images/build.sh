#!/usr/bin/env bash
# Build the image from this checkout: `infra/images/build.sh cpu` or `gpu`, then options of `buildah bud` or `podman
# build`, such as `-v /etc/pip.conf:/etc/pip.conf:ro` for an index of your own.
set -euo pipefail

kind=${1:?cpu or gpu}
shift
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' metasr/__init__.py)
engine=$(command -v buildah || command -v podman || command -v docker) || { echo "needs buildah, podman or docker" >&2; exit 1; }
format=()
if [ "$(basename "$engine")" != docker ]; then format=(--format docker); fi # OCI's own format has no HEALTHCHECK
"$engine" build "${format[@]}" --build-arg KIND="$kind" --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
  --tag "metasr:$version" --file infra/images/Containerfile "$@" .

#!/usr/bin/env bash
# Run the image that build.sh has made: without a network, as a user without rights, on a read-only root; then a Ray of two
# containers, with a token, to which a third submits a training. Needs podman or docker; RUN_OPTIONS are options of its
# `run` that this machine needs. Ends with "the image works".
set -euo pipefail

cd "$(dirname "$0")/../.."
image=metasr:$(sed -n 's/^__version__ = "\(.*\)"/\1/p' metasr/__init__.py)
engine=$(command -v podman || command -v docker) || { echo "needs podman or docker" >&2; exit 1; }
name=metasr-check-$$
read -ra options <<<"${RUN_OPTIONS:-}"
options+=(--read-only --cap-drop=all --security-opt=no-new-privileges --shm-size=1g "--tmpfs=/tmp:rw,mode=1777")

clean_up() {
  "$engine" rm --force --time=1 "$name-node" "$name-head" >/dev/null 2>&1 || true
  "$engine" network rm "$name" >/dev/null 2>&1 || true
  "$engine" volume rm "$name" >/dev/null 2>&1 || true
}
trap clean_up EXIT

echo "1. without a network, as a user without rights, on a read-only root"
# shellcheck disable=SC2016 # what stands in single quotes is for the shell in the container
"$engine" run --rm "${options[@]}" --network=none "$image" sh -euc '
  test "$(id -u)" = 10001
  if touch /opt/metasr/new 2>/dev/null || touch "$HOME/new" 2>/dev/null; then echo "the root can be written to"; exit 1; fi
  test -z "$(find /opt/metasr/lib/python3*/site-packages/metasr -name "*.py" -size +0 | while read -r file; do
    ls "$(dirname "$file")"/__pycache__/"$(basename "$file" .py)".*.pyc >/dev/null 2>&1 || echo "$file"; done)"
  export HOME=/tmp
  metasr --version
  python -c "
import nibabel, numpy
nibabel.Nifti1Image(numpy.random.default_rng(0).random((24, 24, 8), numpy.float32), numpy.eye(4)).to_filename(\"/tmp/scan.nii.gz\")"
  metasr upscale /tmp/scan.nii.gz /tmp/sr.nii.gz --scale 2
  test -s /tmp/sr.nii.gz'

echo "2. a Ray of two containers, and a training by ray job submit"
token=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
"$engine" network create "$name" >/dev/null
"$engine" volume create "$name" >/dev/null
ray=("${options[@]}" --network="$name" --volume="$name:/home/metasr" --env=RAY_AUTH_MODE=token --env=RAY_AUTH_TOKEN="$token"
  --env=RAY_raylet_start_wait_time_s=300)
"$engine" run --detach --name="$name-head" --hostname=head "${ray[@]}" "$image" \
  ray start --head --block --port=6379 --dashboard-host=0.0.0.0 --num-cpus=0 --object-store-memory=500000000 --disable-usage-stats \
  >/dev/null
"$engine" run --detach --name="$name-node" --hostname=node "${ray[@]}" "$image" sh -c \
  "until ray start --address=$name-head:6379 --num-cpus=2 --block --object-store-memory=500000000 \
     --disable-usage-stats; do sleep 1; done" >/dev/null
# shellcheck disable=SC2016
"$engine" run --rm "${ray[@]}" --env=RAY_ADDRESS="http://$name-head:8265" "$image" sh -euc '
  # A Ray that has just started may have no agent that takes jobs yet.
  timeout 900 sh -c "until ray job submit --no-wait -- true >/dev/null 2>&1; do sleep 2; done"
  python -c "
import numpy
from metasr.data.synthetic import write_subjects
i, j, k = numpy.meshgrid(*(numpy.linspace(-1, 1, n) for n in (64, 64, 10)), indexing=\"ij\")
template = (i**2 + j**2 + 0.3 * k**2 < 0.8) * (0.6 + 0.2 * numpy.sin(9 * i) * numpy.cos(7 * j) + 0.1 * k)
write_subjects(__import__(\"pathlib\").Path(\"brats\"), template, numpy.diag([-1.0, -1.0, 2.0, 1.0]), num_subjects=3)"
  env --unset=RAY_ADDRESS metasr prepare --input brats --output t1ce --modality t1ce --workers 1
  ray job submit --submission-id check -- metasr train --recipe smoke --data.url /home/metasr/t1ce \
    --train.steps 6 --train.pixel-only-steps 4 --train.checkpoint-every-steps 3 --resources.num-workers 2
  test -n "$(find metasr/runs -name manifest.json)"'
echo "the image works"

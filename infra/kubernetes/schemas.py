"""Fetch the schemas of KubeRay's resources, for tests/infra/test_kubernetes.py: `schemas.py FOLDER [VERSION]`."""

import json
import sys
import urllib.request
from pathlib import Path

import yaml

SOURCE = "https://raw.githubusercontent.com/ray-project/kuberay/{version}/ray-operator/config/crd/bases/ray.io_{kind}s.yaml"
KINDS = {"RayCluster": "raycluster", "RayJob": "rayjob", "RayService": "rayservice"}


def main(folder: str, version: str = "v1.7.0") -> None:
    """Write `KIND.json` for each kind: the schema of its version v1."""
    for kind, name in KINDS.items():
        with urllib.request.urlopen(SOURCE.format(version=version, kind=name), timeout=60) as answer:
            definition = yaml.safe_load(answer)
        [v1] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
        file = Path(folder) / f"{kind}.json"
        file.write_text(json.dumps(v1["schema"]["openAPIV3Schema"]))
        print(file)


if __name__ == "__main__":
    main(*sys.argv[1:])

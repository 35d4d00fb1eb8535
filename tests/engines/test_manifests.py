"""The manifests of ``deploy/kubernetes`` against Kubernetes's own schemas."""

from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.engines

FILES = sorted((Path(__file__).parents[2] / "deploy" / "kubernetes").glob("*.yaml"))
OF_OTHERS = {"RayJob"}
"""Kinds that a cluster knows by another's definition: KubeRay's. No schema of these is here."""


@pytest.mark.parametrize("version", ["1.31", "latest"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_manifests_are_valid(file, version):
    from kubernetes_validate import latest_version, validate

    number = latest_version() if version == "latest" else version
    kinds = []
    for found in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        kinds.append(found["kind"])
        if found["kind"] not in OF_OTHERS:
            validate(found, number, strict=True)
        elif found["kind"] == "RayJob":  # what it holds is Kubernetes's own
            cluster = found["spec"]["rayClusterSpec"]
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            for group in groups:
                pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
                validate(pod, number, strict=True)
    assert kinds


def test_a_wrong_name_is_seen():
    from kubernetes_validate import ValidationError, validate

    file = next(file for file in FILES if file.name == "service.yaml")
    found = [*yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    deployment = next(each for each in found if each["kind"] == "Deployment")
    deployment["spec"]["replica"] = deployment["spec"].pop("replicas")
    with pytest.raises(ValidationError):
        validate(deployment, "1.31", strict=True)

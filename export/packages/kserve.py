"""`package kserve`: an InferenceService that runs Triton on the packaged model repository."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnetrt.atomic import write_file
from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.export.packages.model_config import ServingOptions, platform_of
from resnetrt.export.packages.triton import PackagedModel, package_triton

REPOSITORY = "model_repository"
SERVICE = "inferenceservice.yaml"
_LONGEST_NAME = 63  # RFC 1123, as Kubernetes wants names

# every value is put in as JSON, which is YAML too
_TEMPLATE = """\
# made by: resnetrt package kserve; upload {repository}/ to the storageUri, then: kubectl apply -f {service}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
  annotations:
    resnetrt/bundle: {bundle}
    resnetrt/engines: {engines}
spec:
  predictor:
    minReplicas: {min_replicas}
    maxReplicas: {max_replicas}
    model:{arguments}
      modelFormat:
        name: triton
        version: "2"
      runtime: kserve-tritonserver
      protocolVersion: v2
      storageUri: {storage_uri}
      resources:
        requests: {resources}
        limits: {resources}
"""


@dataclass(frozen=True)
class ServiceOptions:
    """What the InferenceService asks of the cluster. `name` defaults to the bundle's. Raises `UsageError`."""

    storage_uri: str
    name: str | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    cpu: str = "2"
    memory: str = "4Gi"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", self.storage_uri):
            raise UsageError(
                f"--storage-uri: expected a URI that KServe reads, as s3://bucket/path or pvc://claim/path, "
                f"found {self.storage_uri!r}"
            )
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise UsageError(
                f"replicas: expected 0 <= --min-replicas <= --max-replicas, found {self.min_replicas} and "
                f"{self.max_replicas}"
            )


def package_kserve(
    bundle: Bundle,
    out: Path,
    engines: Sequence[str],
    service: ServiceOptions,
    options: ServingOptions,
    overwrite: bool = False,
) -> tuple[Path, list[PackagedModel]]:
    """Write the InferenceService and the model repository to upload into `out`; returns the YAML file and the models.

    Raises as `package_triton` does, and `UsageError` for a name that Kubernetes would refuse.
    """
    name = service.name or re.sub(r"[^a-z0-9]+", "-", bundle.manifest.name.lower()).strip("-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"--name: expected a Kubernetes name (letters a-z, digits, '-', starting with a letter, at most "
            f"{_LONGEST_NAME}), found {name!r}"
        )
    path = out / SERVICE
    if path.exists() and not overwrite:
        raise UsageError(f"--out {out}: {SERVICE} is there already; add --overwrite to replace it")
    gpus = len(options.gpus) or 1
    if options.gpus and set(options.gpus) != set(range(gpus)):  # Triton sees those of its pod, counted from 0
        raise UsageError(
            f"--gpus: expected the numbers of a pod's own GPUs, as {','.join(map(str, range(gpus)))}, found "
            f"{','.join(map(str, options.gpus))}"
        )
    models = package_triton(bundle, out / REPOSITORY, engines, options, overwrite)
    needs_gpu = any(platform_of(bundle.read_engine(model.engine)).gpu for model in models)
    resources = {"cpu": service.cpu, "memory": service.memory} | ({"nvidia.com/gpu": str(gpus)} if needs_gpu else {})
    values = {
        "name": name,
        "bundle": bundle.manifest.name,
        "engines": ",".join(model.engine for model in models),
        "min_replicas": service.min_replicas,
        "max_replicas": service.max_replicas,
        "storage_uri": service.storage_uri,
        "resources": resources,
    }
    flags = sorted({flag for model in models for flag in model.server_flags})
    text = _TEMPLATE.format(
        repository=REPOSITORY,
        service=SERVICE,
        arguments=f"\n      args: {json.dumps(flags)}" if flags else "",
        **{key: json.dumps(value) for key, value in values.items()},
    )
    write_file(path, text.encode())
    return path, models

"""What every manifest of ours must do: a small lint, as Kubernetes' "restricted" profile."""

import re
from collections.abc import Iterator

from tests.deploy.kubernetes.pods import Manifest

_WORKLOADS = {"StatefulSet", "Deployment"}
_SECRET = re.compile(r"token|secret|password|key|credential", re.IGNORECASE)
# Names of files with secrets, not secrets.
_A_PATH = re.compile(r"(_PATH|_FILE|KEYS?)$")


def problems(objects: list[Manifest]) -> list[str]:
    """Return what is wrong with the objects of one release."""
    found = []
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        found += [f"{name}: {problem}" for problem in _of_object(each, objects)]
    return found


def _of_object(each: Manifest, objects: list[Manifest]) -> Iterator[str]:
    labels = each["metadata"].get("labels", {})
    if not {"app.kubernetes.io/name", "app.kubernetes.io/instance"} <= labels.keys():
        yield "it lacks the usual labels"
    if each["kind"] in _WORKLOADS:
        template = each["spec"]["template"]
        selector = each["spec"]["selector"]["matchLabels"]
        if not selector.items() <= template["metadata"]["labels"].items():
            yield "its selector does not choose its pods"
        yield from _of_pod(template["spec"])
        yield from _of_references(template["spec"], each, objects)
        if not any(_chooses(other, template) for other in objects if _is_budget(other)):
            yield "no PodDisruptionBudget is for its pods"
        if not any(_chooses(other, template) for other in objects if _is_policy(other)):
            yield "no NetworkPolicy is for its pods"
    if each["kind"] == "Service":
        pods = [other["spec"]["template"] for other in objects if other["kind"] in _WORKLOADS]
        chosen = [pod for pod in pods if _labels_match(each["spec"]["selector"], pod)]
        if len(chosen) != 1:
            yield f"it chooses the pods of {len(chosen)} workloads"
        for port in each["spec"]["ports"]:
            names = [p["name"] for pod in chosen for p in pod["spec"]["containers"][0]["ports"]]
            if port["targetPort"] not in names:
                yield f"its pods have no port {port['targetPort']}"


def _of_pod(spec: Manifest) -> Iterator[str]:
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "it may run as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "it has no seccomp profile"
    if spec.get("automountServiceAccountToken") is not False:
        yield "it has a token of the cluster"
    if {"hostNetwork", "hostPID", "hostIPC"} & spec.keys():
        yield "it shares namespaces with the node"
    if any("hostPath" in volume for volume in spec["volumes"]):
        yield "it sees files of the node"
    for volume in spec["volumes"]:
        if volume.get("secret", {"defaultMode": 0})["defaultMode"] & 0o007:
            yield f"everybody may read the Secret in {volume['name']}"
    for container in spec["containers"]:
        yield from _of_container(container, spec)


def _of_container(container: Manifest, spec: Manifest) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "it may gain privileges"
    if not security.get("readOnlyRootFilesystem"):
        yield "its root can be written to"
    if security.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "it has capabilities"
    image = container["image"].rpartition("/")[2]
    if not re.search(r"@sha256:|:[^:]*\d", image) or ":latest" in image:
        yield f"its image {image} is not pinned"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= resources.get("requests", {}).keys():
        yield "it requests no CPU or memory"
    if "memory" not in resources.get("limits", {}):
        yield "its memory is not limited"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe not in container:
            yield f"it has no {probe}"
    hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    delay_s = int(hook[1]) if hook[:1] == ["sleep"] else 0
    if spec.get("terminationGracePeriodSeconds", 30) <= delay_s + 30:
        yield "it has no time to drain"
    for variable in container.get("env", []):
        name = variable["name"]
        if _SECRET.search(name) and not _A_PATH.search(name):
            yield f"a secret is in the variable {name}"
        if "secretKeyRef" in variable.get("valueFrom", {}):
            yield f"a secret is in the variable {name}"


def _of_references(spec: Manifest, workload: Manifest, objects: list[Manifest]) -> Iterator[str]:
    claims = workload["spec"].get("volumeClaimTemplates", [])
    volumes = {volume["name"] for volume in [*spec["volumes"], *(c["metadata"] for c in claims)]}
    mounts = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    if volumes != mounts:
        yield f"volumes and mounts differ: {sorted(volumes ^ mounts)}"
    known = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for volume in spec["volumes"]:
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in known:
            yield f"there is no ConfigMap {volume['configMap']['name']}"
    if ("ServiceAccount", spec["serviceAccountName"]) not in known:
        yield f"there is no ServiceAccount {spec['serviceAccountName']}"
    if workload["kind"] == "StatefulSet":
        name = workload["spec"]["serviceName"]
        if ("Service", name) not in known:
            yield f"there is no Service {name}"


def _is_budget(each: Manifest) -> bool:
    return bool(each["kind"] == "PodDisruptionBudget")


def _is_policy(each: Manifest) -> bool:
    return bool(each["kind"] == "NetworkPolicy")


def _chooses(each: Manifest, template: Manifest) -> bool:
    spec = each["spec"]
    return _labels_match((spec.get("selector") or spec["podSelector"])["matchLabels"], template)


def _labels_match(labels: dict[str, str], template: Manifest) -> bool:
    return labels.items() <= template["metadata"]["labels"].items()

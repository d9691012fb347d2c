"""The Helm chart: what it renders, what the API of several Kubernetes accepts, and what it refuses.

Helm itself renders it (bin/test --kubernetes installs it as a library).
"""

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import ROOT, metrics_in
from tests.deploy.kubernetes.charts import (
    CHART,
    IN_PLAIN,
    NAME,
    PLAIN,
    VALUES,
    manifests,
    plain,
    render,
    values_of,
)
from tests.deploy.kubernetes.pods import Manifest, image_of
from tests.deploy.kubernetes.policy import problems
from vgate import __version__
from vgate.config import load
from vgate.config.schema import Config

pytestmark = pytest.mark.kubernetes

NAMES = [path.stem for path in VALUES]
# Objects of operators, whose schemas are not Kubernetes'.
OTHERS = {"ServiceMonitor", "ScaledObject", "HTTPRoute"}
# The chart's kubeVersion, some between, and the newest that there are schemas of.
VERSIONS = ("1.27", "1.31", "1.34", "1.37")
EVERYTHING: Manifest = {
    "apiKeys": {"content": "# none yet\n"},
    "huggingFace": {"existingSecret": "hub"},
    "image": {"pullSecrets": ["registry"], "repository": "registry.example/vgate"},
    "engine": {
        "keda": {"enabled": True},
        "runtimeClassName": "nvidia",
        "nodeSelector": {"gpu": "a100"},
        "affinity": {"nodeAffinity": {}},
        "podLabels": {"team": "llm"},
        "podAnnotations": {"note": "x"},
        "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    },
    "frontend": {"autoscaling": {"enabled": True}},
    "ingress": {"enabled": True, "tlsSecret": "tls"},
    "gatewayAPI": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["a.b"]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "service": {"annotations": {"a": "b"}, "type": "LoadBalancer"},
    "networkPolicy": {"egress": [{"ports": [{"port": 4318}]}]},
}


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [each for each in objects if each["kind"] == kind]


def pod_of(objects: list[Manifest], component: str = "engine") -> Manifest:
    (found,) = [
        each["spec"]["template"]["spec"]
        for kind in ("StatefulSet", "Deployment")
        for each in of_kind(objects, kind)
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return found


def config_of(objects: list[Manifest], tmp_path: Path) -> Config:
    (found,) = of_kind(objects, "ConfigMap")
    path = tmp_path / "config.yaml"
    path.write_text(found["data"]["config.yaml"])
    return load({"VGATE_CONFIG_PATH": str(path)})


@pytest.fixture(params=[*NAMES, "everything", "everything, split"])
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    if request.param in NAMES:
        return manifests(values_of(request.param))
    split = request.param.endswith("split")
    return manifests({**EVERYTHING, "mode": "split" if split else "single"})


@pytest.fixture(scope="module", autouse=True)
def schemas_read_once() -> Iterator[None]:
    """Read each file of schemas once, and not for each object."""
    from kubernetes_validate import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_of_each_kubernetes_accepts_it(objects: list[Manifest], version: str):
    import kubernetes_validate

    for each in objects:
        if each["kind"] not in OTHERS:
            kubernetes_validate.validate(each, version, strict=True)


def test_no_object_is_made_twice(objects: list[Manifest]):
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


def test_it_follows_the_policy(objects: list[Manifest]):
    assert problems(objects) == []


def test_helm_finds_nothing_to_complain_about():
    import helm_python

    for name in NAMES:
        report = helm_python.chart.lint(CHART, values_of(name), strict=True)
        worse = [message for message in report["messages"] if message["severity"] > 1]
        assert worse == report["errors"] == []


def test_the_chart_is_for_this_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


def test_the_configuration_is_one_that_vgate_takes(objects: list[Manifest], tmp_path: Path):
    config = config_of(objects, tmp_path)
    assert config.logging.json_format
    assert config.server.drain_timeout_s == 540
    assert config.server.drain_delay_s == 30


def test_a_pod_has_the_time_that_its_drain_may_take(objects: list[Manifest], tmp_path: Path):
    server = config_of(objects, tmp_path).server
    for each in of_kind(objects, "StatefulSet") + of_kind(objects, "Deployment"):
        spec = each["spec"]["template"]["spec"]
        hook = spec["containers"][0].get("lifecycle")
        serves = "http" in str(spec["containers"][0]["ports"])
        assert bool(hook) == serves
        before_s = int(hook["preStop"]["exec"]["command"][1]) + server.drain_delay_s if hook else 0
        # And the ends of the processes after it; cluster autoscalers wait for 600 s.
        grace_s = spec["terminationGracePeriodSeconds"]
        assert before_s + server.drain_timeout_s + 12 <= grace_s <= 600


def test_images_are_targets_of_the_dockerfile_and_mounts_are_its_directories(objects):
    for each in of_kind(objects, "StatefulSet") + of_kind(objects, "Deployment"):
        container = each["spec"]["template"]["spec"]["containers"][0]
        stage = image_of(container["image"])
        port = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert str(port.get("http", 8000)) == stage.environment["VGATE_SERVER__PORT"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {stage.environment["XDG_RUNTIME_DIR"], "/tmp"} <= mounts
        if cache := stage.environment.get("HF_HOME"):
            assert cache.removesuffix("/huggingface") in mounts
        assert f"{stage.last('WORKDIR')}/config.yaml" in mounts
        assert each["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 10001


@pytest.mark.parametrize("name", IN_PLAIN)
def test_the_plain_manifests_are_what_the_chart_makes(name: str):
    text = (PLAIN / f"{name}.yaml").read_text()
    assert text == plain(name), "python -m tests.deploy.kubernetes.charts writes them again"
    assert sorted(path.stem for path in PLAIN.glob("*.yaml")) == sorted(IN_PLAIN)
    assert problems([each for each in yaml.safe_load_all(text) if each]) == []


def test_gpus_are_asked_for_where_there_is_a_model():
    resources = pod_of(manifests(values_of("single")))["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 1
    assert resources["requests"]["memory"] == "12Gi"
    assert resources["limits"]["memory"] == "24Gi"
    assert "nvidia" not in json.dumps(manifests(values_of("cpu")))
    frontend = pod_of(manifests(values_of("split")), "frontend")
    assert "nvidia" not in json.dumps(frontend)


def test_a_changed_configuration_starts_pods_anew():
    before, after = (
        manifests(values_of("cpu", config={"batch": {"max_num_seqs": n}})) for n in (4, 8)
    )
    key = "checksum/config"
    annotations = [
        of_kind(objects, "StatefulSet")[0]["spec"]["template"]["metadata"]["annotations"][key]
        for objects in (before, after)
    ]
    assert annotations[0] != annotations[1]


def test_numbers_stay_what_they_are(tmp_path: Path):
    values = values_of("cpu", config={"server": {"max_memory_bytes": 12_345_678_901}})
    assert config_of(manifests(values), tmp_path).server.max_memory_bytes == 12_345_678_901


def test_each_side_of_a_link_gets_its_own_keys():
    objects = manifests(values_of("split"))
    files = {
        component: {
            item["path"]
            for volume in pod_of(objects, component)["volumes"]
            if volume["name"] == "link-keys"
            for item in volume["secret"]["items"]
        }
        for component in ("engine", "frontend")
    }
    assert files == {
        "engine": {"engine.key", "frontends.allow"},
        "frontend": {"frontend.key", "engine.pub"},
    }


def test_frontends_look_for_engines_at_the_service_of_their_pods(tmp_path: Path):
    objects = manifests(values_of("split"))
    (config,) = of_kind(objects, "ConfigMap")
    (engine,) = yaml.safe_load(config["data"]["config.yaml"])["engines"]
    host, _, port = engine["address"].removeprefix("tcp://").partition(":")
    (service,) = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == host]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["ports"][0]["port"] == int(port)


def test_only_frontends_reach_engines():
    objects = manifests(values_of("split"))
    (policy,) = [
        each
        for each in of_kind(objects, "NetworkPolicy")
        if each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "engine"
    ]
    ((rule,), policy_types) = policy["spec"]["ingress"], policy["spec"]["policyTypes"]
    assert policy_types == ["Ingress", "Egress"]
    (source,) = rule["from"]
    labels = source["podSelector"]["matchLabels"]
    assert labels["app.kubernetes.io/component"] == "frontend"
    assert rule["ports"] == [{"port": "engine"}]


def test_streams_pass_through_ingress_and_gateway():
    (ingress,) = of_kind(manifests(values_of("ingress")), "Ingress")
    prefix = "nginx.ingress.kubernetes.io/"
    found = {k.removeprefix(prefix): v for k, v in ingress["metadata"]["annotations"].items()}
    assert found["proxy-buffering"] == found["proxy-request-buffering"] == "off"
    longest_s = Config().timeouts.request_s
    assert float(found["proxy-read-timeout"]) > longest_s
    assert found["proxy-body-size"] == f"{Config().server.max_body_bytes >> 20}m"
    (route,) = of_kind(manifests(values_of("gateway-api")), "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    for timeout in rule["timeouts"].values():
        assert float(timeout.removesuffix("s")) > longest_s
    assert rule["backendRefs"] == [{"name": NAME, "port": 8000}]


def test_keda_asks_for_metrics_that_there_are():
    known = (ROOT / "vgate/frontend/apis/system/engine_metrics.py").read_text()
    for mode in ("single", "split"):
        values = values_of("ingress", mode=mode)
        (scaled,) = of_kind(manifests(values), "ScaledObject")
        queries = [t["metadata"]["query"] for t in scaled["spec"]["triggers"]]
        assert len(queries) == 2
        for name in {name for query in queries for name in metrics_in(query)}:
            assert f'"{name}"' in known


def test_replicas_are_left_to_what_scales():
    objects = manifests({**EVERYTHING, "mode": "split"})
    for each in of_kind(objects, "StatefulSet") + of_kind(objects, "Deployment"):
        assert "replicas" not in each["spec"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mdoe": "split"}, "mdoe"),
        ({"mode": "both"}, "mode"),
        ({"engine": {"replicas": -1}}, "replicas"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"config": {"security": {"api_keys": [{"name": "a", "key": "s"}]}}}, "use apiKeys"),
        ({"config": {"server": {"drain_timeout_s": 5}}}, "drain_timeout_s is the chart's"),
        ({"apiKeys": {"existingSecret": "a", "content": "b"}}, "not both"),
        ({"mode": "split", "engineKeys": {"existingSecret": ""}}, "engineKeys"),
        ({"gatewayAPI": {"enabled": True}}, "name the Gateway"),
        ({"engine": {"env": [{"name": "VGATE_SERVER__PORT", "value": "1"}]}}, "env"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(values: Manifest, told: str):
    import helm_python

    with pytest.raises(helm_python.HelmError, match=re.escape(told)):
        render(values)


def test_the_notes_warn_of_what_is_open():
    assert "EVERYBODY" in render(values_of("cpu"))["NOTES.txt"]
    notes = render(values_of("single"))["NOTES.txt"]
    assert "EVERYBODY" not in notes
    assert "statefulset/vgate" in notes


def test_the_page_names_files_and_values_that_there_are():
    text = (ROOT / "docs/kubernetes.md").read_text()
    paths = set(re.findall(r"\bdeploy/[\w/-]+(?:\.yaml)?", text))
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    sections = "|".join(key for key, value in values.items() if value and key != "config")
    named = re.findall(rf"[`\s]((?:{sections})\.(?!yaml)\w+(?:\.\w+)*)", text)
    assert len(named) > 8
    for name in named:
        value: Any = values
        for step in name.split("."):
            assert step in value, name
            value = value[step]


def broken(change: Any) -> list[str]:
    objects = copy.deepcopy(manifests(values_of("single")))
    change(objects, pod_of(objects))
    return problems(objects)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda _, pod: pod["securityContext"].update(runAsNonRoot=False), "as root"),
        (lambda _, pod: pod["securityContext"].pop("seccompProfile"), "seccomp"),
        (lambda _, pod: pod.pop("automountServiceAccountToken"), "token of the cluster"),
        (lambda _, pod: pod.update(hostNetwork=True), "namespaces with the node"),
        (lambda _, pod: pod["volumes"].append({"name": "x", "hostPath": {}}), "files of the node"),
        (lambda _, pod: pod["containers"][0].update(image="vgate:latest"), "not pinned"),
        (lambda _, pod: pod["containers"][0].update(image="vgate"), "not pinned"),
        (lambda _, pod: pod["containers"][0]["resources"].pop("limits"), "not limited"),
        (lambda _, pod: pod["containers"][0].pop("startupProbe"), "no startupProbe"),
        (lambda _, pod: pod["containers"][0]["securityContext"].clear(), "can be written to"),
        (
            lambda _, pod: pod["containers"][0]["env"].append({"name": "HF_TOKEN", "value": "x"}),
            "secret is in the variable HF_TOKEN",
        ),
        (lambda _, pod: pod.update(terminationGracePeriodSeconds=30), "no time to drain"),
        (lambda _, pod: pod["containers"][0]["volumeMounts"].pop(), "volumes and mounts differ"),
        (lambda objects, _: objects.remove(of_kind(objects, "ConfigMap")[0]), "no ConfigMap"),
        (
            lambda objects, _: objects.remove(of_kind(objects, "NetworkPolicy")[0]),
            "no NetworkPolicy",
        ),
        (
            lambda objects, _: of_kind(objects, "Service")[0]["spec"]["selector"].update(a="b"),
            "chooses the pods of 0",
        ),
    ],
)
def test_the_policy_notices(change: Any, told: str):
    assert any(told in problem for problem in broken(change)), broken(change)

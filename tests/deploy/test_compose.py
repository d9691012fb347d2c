"""compose.yaml's structure: what starts with what, and what it exposes."""

import re
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, PROMETHEUS, ROOT, read_yaml, stages
from vgate.config.schema import Server

GATEWAYS = ("vgate", "vgate-cpu")
# Of the supervisor: the ends of frontends and engine after a drain.
PROCESS_ENDS_S = 12


@pytest.fixture(scope="module")
def compose() -> Any:
    return read_yaml(ROOT / "compose.yaml")


def test_only_the_gateway_on_a_gpu_starts_without_a_profile(compose):
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {
        "vgate": None,
        "vgate-cpu": ["cpu"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


@pytest.mark.parametrize("name", GATEWAYS)
def test_gateways_are_built_restarted_checked_and_given_time_to_drain(compose, name):
    service = compose["services"][name]
    assert service["build"]["target"] in stages()
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"] == [
        "CMD",
        *re.findall(r'"([^"]+)"', stages()[service["build"]["target"]].last("HEALTHCHECK") or ""),
    ]
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s >= Server().drain_timeout_s + PROCESS_ENDS_S


def test_the_gpu_is_asked_for(compose):
    service = compose["services"]["vgate"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    cache = stages()["vgate-gpu"].environment["HF_HOME"].removesuffix("/huggingface")
    assert f"model-cache:{cache}" in service["volumes"]


def test_images_of_others_are_pinned(compose):
    for service in compose["services"].values():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


def test_ports_are_bound_to_this_machine(compose):
    for service in compose["services"].values():
        for port in service["ports"]:
            assert port.startswith(("127.0.0.1:", "${PUBLISH_ADDRESS:-127.0.0.1}:"))


def test_nothing_runs_with_privileges(compose):
    for service in compose["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")


def test_grafana_lets_nobody_in_without_the_password(compose):
    service = compose["services"]["grafana"]
    environment = service["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in environment
    (secret,) = service["secrets"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/run/secrets/{secret}"
    file = compose["secrets"][secret]["file"]
    assert f"/{file.rpartition('/')[2]}" in (DEPLOY / "grafana" / ".gitignore").read_text()


def test_every_mounted_path_and_volume_is_there(compose):
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro")
            else:
                assert source in compose["volumes"]


def test_prometheus_asks_for_a_name_that_both_gateways_have(compose):
    (job,) = read_yaml(PROMETHEUS)["scrape_configs"]
    ((target,),) = [config["targets"] for config in job["static_configs"]]
    host, _, port = target.partition(":")
    assert port == stages()["vgate-cpu"].environment["VGATE_SERVER__PORT"]
    for name in GATEWAYS:
        assert host in compose["services"][name]["networks"]["default"]["aliases"]


def test_grafana_is_given_the_data_source_and_the_dashboards(compose):
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = read_yaml(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == read_yaml(PROMETHEUS)["global"]["scrape_interval"]
    (provider,) = read_yaml(provisioning / "dashboards" / "vgate.yaml")["providers"]
    path = provider["options"]["path"]
    volumes = compose["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{path}:ro" in volumes
    home = compose["services"]["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]
    assert home == f"{path}/vgate.json"

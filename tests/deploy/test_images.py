"""Images and manifests hold what we say of them: the linters see their form, and these what they are for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE: Any = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = ("front", "worker", "worker-gpu")


def deployments() -> list[Any]:
    found = []
    for file in (ROOT / "deploy" / "kubernetes").glob("*.yaml"):
        found += [
            each for each in yaml.safe_load_all(file.read_text()) if each["kind"] == "Deployment"
        ]
    return found


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_is_pinned_by_hashes_and_runs_as_nobody_with_a_health_check(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert "--require-hashes" in text
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)
    assert text.count("\nFROM ") == 2
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split()), copied


def test_compose_gives_every_service_a_read_only_root_and_no_privileges() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "ports" not in service or all(
            port.startswith("127.0.0.1:") for port in service["ports"]
        ), name
    assert COMPOSE["services"]["worker-gpu"]["profiles"] == ["gpu"]
    assert "--appendonly yes" in " ".join(COMPOSE["services"]["redis"]["command"])


def test_every_image_of_others_is_named_by_its_digest() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()}
    foreign = {image for image in images if not image.startswith("upweight-")}
    assert len(foreign) == 3
    for image in foreign:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_no_secret_is_written_down() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name in re.findall(r"\b\w*(?:PASSWORD|SECRET)\w*: +(\S+)", text):
        assert name.startswith(('"${', "${")), name
    example = (ROOT / "deploy" / "example.env").read_text()
    assert re.findall(r"^\w*(?:PASSWORD|SECRET)\w*=(.*)$", example, re.MULTILINE) == ["", ""]


@pytest.mark.parametrize("deployment", deployments(), ids=lambda each: each["metadata"]["name"])
def test_a_pod_runs_as_nobody_on_a_read_only_root_within_limits(deployment: Any) -> None:
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert pod["terminationGracePeriodSeconds"] >= 30
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert {"startupProbe", "livenessProbe"} <= set(container)


def test_settings_that_containers_are_given_exist() -> None:
    from service.settings import Settings

    known = {f"UPWEIGHT_{name.upper()}" for name in Settings.model_fields}
    text = (ROOT / "compose.yaml").read_text()
    for file in [*DOCKERFILES, *(ROOT / "deploy" / "kubernetes").glob("*.yaml")]:
        text += file.read_text()
    assert set(re.findall(r"\bUPWEIGHT_[A-Z_]+\b", text)) <= known
    assert all(COMPOSE["services"][name]["environment"] for name in OURS)

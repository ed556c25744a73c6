"""compose.yaml says what a hospital relies on, and what it starts does what it says."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from sagdeploy.errors import ConfigError, EngineError
from sagdeploy.serving.environment import server_environment

ROOT = Path(__file__).parents[2]
CPU = ROOT / "docker" / "cpu"
SERVERS = ("triton", "triton-cpu")
NEEDED_TO_TRY = ("apt-get", "curl", "debootstrap", "docker", "docker-compose", "dockerd")
INPUT_LIMIT = "--http-max-input-size"
"""The one flag that the server in the wheel, 24.10, is too old for."""

SERVE_IMPORTS = """
import sys
from importlib.metadata import packages_distributions
import sagdeploy.cli.app, sagdeploy.cli.output, sagdeploy.serving.server, platformdirs
owners = packages_distributions()
for module in {name.partition(".")[0] for name in sys.modules}:
    for owner in owners.get(module, []):
        print(owner.lower())
"""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml, as YAML says them: variables are not filled in."""
    content: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return content["services"]


@pytest.fixture(scope="module")
def launch(services: dict[str, Any]) -> str:
    """The shell line that starts NVIDIA's server, with variables at their defaults."""
    shell, option, line = services["triton"]["command"]
    assert (shell, option) == ("sh", "-c")
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", line).replace("$$", "$")


def names(requirements: list[str]) -> set[str]:
    """What is required, without versions."""
    return {re.split(r"[\s\[<>=;]", line)[0] for line in requirements}


@pytest.mark.parametrize("more", [(), ("-f", "docker/gpu.yaml")], ids=["cpu", "gpu"])
@pytest.mark.parametrize("composer", [("docker-compose",), ("docker", "compose")], ids=["1", "2"])
def test_docker_compose_takes_the_files_as_written(
    composer: tuple[str, ...], more: tuple[str, ...]
) -> None:
    if not shutil.which(composer[0]):
        pytest.skip(f"{composer[0]} is not installed")
    if subprocess.run([*composer, "version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{' '.join(composer)} is not installed")
    profiles = ("--profile", "cpu", "--profile", "tls")
    command = [*composer, "-f", "compose.yaml", *more, *profiles, "config", "--quiet"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_is_reached_from_this_machine_only(services: dict[str, Any], server: str) -> None:
    assert services[server]["ports"] == ["127.0.0.1:${TRITON_PORT:-8000}:8000"]


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_cannot_write_to_its_models(services: dict[str, Any], server: str) -> None:
    (mount,) = services[server]["volumes"]
    assert (mount["target"], mount["read_only"]) == ("/models", True)


def test_every_service_has_few_rights(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "network_mode", "ipc", "pid"} & service.keys()
    assert {services[server]["user"] for server in SERVERS} == {"triton-server"}


def test_every_service_says_whether_it_is_well(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["healthcheck"]["test"][-1].endswith("/v2/health/ready")


def test_the_image_is_nvidias_after_its_fixes_and_can_be_another(services: dict[str, Any]) -> None:
    image = re.fullmatch(r"\$\{TRITON_IMAGE:-(\S+):(\S+)-py3\}", services["triton"]["image"])
    assert image is not None
    assert image[1] == "nvcr.io/nvidia/tritonserver"
    assert image[2] >= "26.07"


def test_a_gpu_is_asked_for_in_a_file_of_its_own(services: dict[str, Any]) -> None:
    assert not any("deploy" in service for service in services.values())
    gpu = yaml.safe_load((ROOT / "docker" / "gpu.yaml").read_text())["services"]
    (device,) = gpu["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_triton_is_started_with_all_that_is_promised(launch: str) -> None:
    assert launch.split()[:2] == ["exec", "tritonserver"]
    assert set(launch.split()[2:]) >= {
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        f"{INPUT_LIMIT}=1073741824",
    }


def test_a_real_triton_knows_its_flags_and_refuses_strangers(launch: str, tmp_path: Path) -> None:
    cache = Path(os.environ["SAGDEPLOY_CACHE"]) if "SAGDEPLOY_CACHE" in os.environ else None
    try:
        environment = server_environment(cache)
    except (ConfigError, EngineError) as error:
        pytest.skip(f"no tritonserver: {error}")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"127.0.0.1:{probe.getsockname()[1]}"
    line = re.sub(rf"{INPUT_LIMIT}=\d+", "", launch)
    line = line.replace("=/models", f"={tmp_path}").replace("=0.0.0.0", "=127.0.0.1")
    line = line.replace("--http-port=8000", f"--http-port={url.rpartition(':')[2]}")
    path = f"{environment.triton / 'bin'}:/usr/bin:/bin"
    with subprocess.Popen(["sh", "-c", line], env={"PATH": path}, stderr=subprocess.PIPE) as triton:
        deadline = time.monotonic() + 30
        while status(url, "health/ready") != 200 and time.monotonic() < deadline:
            assert triton.poll() is None, triton.stderr and triton.stderr.read().decode()
            time.sleep(0.1)
        answers = [
            status(url, path, method)
            for path, method in (
                ("health/ready", "GET"),
                ("systemsharedmemory/status", "GET"),
                ("trace/setting", "GET"),
                ("logging", "GET"),
                ("repository/models/sag/load", "POST"),
            )
        ]
        triton.send_signal(signal.SIGTERM)
        triton.communicate(timeout=30)
    assert answers == [200, 403, 403, 403, 503]


def status(url: str, path: str, method: str = "GET") -> int:
    """What a server answers; 0 where none does."""
    request = urllib.request.Request(f"http://{url}/v2/{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            code: int = answer.status
            return code
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError:
        return 0


@pytest.fixture
def shim_path(tmp_path: Path) -> str:
    """A PATH with the CPU image's `tritonserver`, and a `sagdeploy` that tells how it is called."""
    (tmp_path / "sagdeploy").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "sagdeploy").chmod(0o755)
    shutil.copy(CPU / "tritonserver", tmp_path)
    return f"{tmp_path}:/usr/bin:/bin"


def test_the_cpu_image_does_what_nvidias_is_told(launch: str, shim_path: str) -> None:
    command, environment = ["sh", "-c", launch], {"PATH": shim_path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "serve --repository /models --port 8000 --address 0.0.0.0\n"
    assert "older than 25.06" in done.stderr


@pytest.mark.parametrize("flag", ["--model-control-mode=explicit", "--allow-grpc=true", "--nope"])
def test_the_cpu_image_refuses_what_it_cannot_do(shim_path: str, flag: str) -> None:
    command, environment = ["tritonserver", flag], {"PATH": shim_path}
    done = subprocess.run(
        ["/usr/bin/env", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert flag in done.stderr


def test_the_cpu_image_has_all_that_serve_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {*project["dependencies"], *project["optional-dependencies"]["serve"]}
    lines = (CPU / "requirements.txt").read_text().splitlines()
    required = {line for line in lines if not line.startswith("#")}
    assert required <= ours
    command = [sys.executable, "-c", SERVE_IMPORTS]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert names(list(ours)) & set(imported) == names(list(required))


def test_only_what_is_installed_gets_near_an_image() -> None:
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert kept[1] == "*"
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", (CPU / "Dockerfile").read_text(), re.M)
    sources = {source for line in lines for source in line.split()}
    allowed = {line[1:] for line in kept if line.startswith("!")}
    assert {source.partition("/")[0] for source in sources} == {
        path.partition("/")[0] for path in allowed
    }
    for source in sources:
        assert source in allowed or str(Path(source).parent) in allowed


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/v2", True),
        ("/v2/health/ready", True),
        ("/v2/models/sag", True),
        ("/v2/models/sag.2_b-c/versions/12/infer", True),
        ("/v2/models/sag/config", True),
        ("/v2/models/sag/stats", False),
        ("/v2/models/stats", False),
        ("/v2/models/sag/../../repository/models/sag/load", False),
        ("/v2/repository/models/sag/unload", False),
        ("/v2/systemsharedmemory/region/x/register", False),
        ("/v2/logging", False),
        ("/v2/trace/setting", False),
        ("/metrics", False),
    ],
)
def test_the_proxy_lets_inference_through_and_nothing_else(path: str, passes: bool) -> None:
    template = (ROOT / "docker" / "proxy" / "nginx.conf.template").read_text()
    (pattern,) = re.findall(r'location ~ "(.*)" \{', template)
    assert bool(re.search(pattern, path)) is passes
    assert "location / { return 403; }" in template


def test_a_slide_is_diagnosed_through_docker(repository: Path, painted: Path) -> None:
    missing = [program for program in NEEDED_TO_TRY if not shutil.which(program)]
    if missing or os.geteuid():
        pytest.skip(f"no Docker engine can be started: root and {missing or 'all'} needed")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    tried = subprocess.run(
        [ROOT / "docker" / "try.sh", repository, painted],
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout

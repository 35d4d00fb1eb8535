"""What is in ``deploy/``: held against the project, linted, and run as far as that goes here."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement

from clip_text_cli.serve_config import PREFIX, ServeConfig, read_config
from retrieval.service.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile", "Dockerfile.torch")
# What an exported model runs without; all else that the service takes is in the light image.
HEAVY = {"open-clip-torch", "openvino", "scipy", "timm", "torch", "torchvision", "transformers"}
# Learnt of elsewhere: known as soon as it is there.
LEARNT = {"keys", "allowed_hosts"}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(lines):
    found = (Requirement(line.partition(" #")[0]) for line in lines)
    return {normal(each.name): (str(each.specifier), str(each.marker)) for each in found}


def instructions(name):
    """The Dockerfile's instructions as (stage, keyword, rest)."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    stage, found = "", []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            stage = rest.partition(" AS ")[2] or "final"
        if keyword:
            found.append((stage, keyword, rest.strip()))
    return found


def test_the_light_image_has_all_that_the_service_takes_but_what_stands_on_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    serve = project["optional-dependencies"]["serve"]
    onnx = [
        each
        for each in project["optional-dependencies"]["onnxruntime"]
        if each.startswith("onnxruntime")
    ]
    wanted = requirements([*project["dependencies"], *serve, *onnx])
    lines = (DEPLOY / "light.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert set(wanted) >= HEAVY
    assert requirements(lines) == {name: wanted[name] for name in wanted if name not in HEAVY}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_are_linted(name):
    # of the Python that runs this, or of the system
    command = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if command is None:
        pytest.skip("hadolint is not installed")
    # each step is one of its own where they are tried one by one
    done = subprocess.run(
        [command, "--ignore", "DL3059", DEPLOY / name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_run_as_nobody_in_particular_and_are_looked_after(name):
    final = {keyword: rest for stage, keyword, rest in instructions(name) if stage == "final"}
    assert final["USER"] == "10001:10001"
    assert final["HEALTHCHECK"].endswith('CMD ["python", "/opt/healthcheck.py"]')
    assert (json.loads(final["ENTRYPOINT"]), json.loads(final["CMD"])) == (["clip-text"], ["serve"])
    assert final["VOLUME"] == "/data"
    places = [rest.split()[-1] for _, keyword, rest in instructions(name) if keyword == "COPY"]
    assert "/" not in places
    variables = dict(pair.split("=", 1) for pair in final["ENV"].split())
    known = {f"{PREFIX}{field.upper()}" for field in ServeConfig.model_fields}
    assert {each for each in variables if each.startswith(PREFIX)} <= known
    assert variables["CLIP_TEXT_SERVE_HOST"] == "0.0.0.0"


def test_compose_gives_the_service_no_more_than_it_takes():
    said = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    for service in said["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert [each for each in service["volumes"] if each.endswith(":/pictures:ro")]
        known = {*ServeConfig.model_fields, *LEARNT}
        assert {each.removeprefix(PREFIX).lower() for each in service["environment"]} <= known
    service = said["services"]["service"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["healthcheck"]["test"][1:] == ["python", "/opt/healthcheck.py"]
    assert (ROOT / "deploy" / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().drain_s + Settings().shutdown_s + 5
    assert "data" in said["volumes"]


def test_the_unit_is_valid_and_shut_in(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = (DEPLOY / "clip-text.service").read_text(encoding="utf-8")
    unit = tmp_path / "clip-text.service"
    unit.write_text(text.replace("/opt/clip-text/bin/clip-text", sys.executable), encoding="utf-8")
    checks = (
        ["verify", unit],
        # ten times what systemd calls the exposure, from 0 to 100
        ["security", "--offline=true", "--threshold=20", unit],
    )
    for words in checks:
        done = subprocess.run(
            ["systemd-analyze", *words],
            capture_output=True,
            text=True,
            env=os.environ | {"SYSTEMD_PAGER": ""},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if words[0] == "verify":
            assert done.stderr == ""
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text
    assert "KillMode=mixed" in text
    seconds = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1])
    assert seconds > Settings().drain_s + Settings().shutdown_s + 5


def test_the_example_of_a_file_is_one(monkeypatch):
    for name in os.environ:
        if name.startswith("CLIP_TEXT_"):
            monkeypatch.delenv(name)
    config = read_config({}, DEPLOY / "serve.toml").config
    assert config.workers == 2
    assert {name: str(place) for name, place in config.index.items()} == {
        "photos": "/var/lib/clip-text/photos.index"
    }


@pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 0), (400, 0), (503, 1), (None, 1)])
def test_the_health_check_tells_a_service_that_answers_from_one_that_does_not(status, code):
    asked = []

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answering)
    port = server.server_address[1]
    if status is None:
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [sys.executable, DEPLOY / "healthcheck.py"],
            env=os.environ | {"CLIP_TEXT_SERVE_PORT": str(port)},
            check=False,
        )
        assert done.returncode == code
        assert asked == ([] if status is None else ["/readyz"])
    finally:
        if status is not None:
            server.shutdown()
            server.server_close()


def context(folder):
    """Copy what a build sees: what .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert "*" in lines
    for name in let:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)


@pytest.mark.slow
def test_the_steps_of_the_light_image_in_folders_of_their_own(tmp_path, capsys):
    """Each COPY and RUN of Dockerfile up to the last stage, with folders in place of images.

    Not run: the installation of torch in the stage that exports, for which the one that runs
    this test stands; the last stage, which copies two folders and makes an account's own.
    """
    (tmp_path / "context").mkdir()
    context(tmp_path / "context")
    clip_text = f"{sys.executable} -m clip_text_cli"
    run = []
    for stage, keyword, rest in instructions("Dockerfile"):
        place = tmp_path / stage
        if stage == "final":
            break
        if keyword == "COPY":
            source, target = rest.split()
            (place / target[1:]).parent.mkdir(parents=True, exist_ok=True)
            copied = tmp_path / "context" / source
            if copied.is_dir():
                shutil.copytree(copied, place / target[1:], dirs_exist_ok=True)
            else:
                shutil.copy2(copied, place / target[1:])
        if keyword != "RUN" or re.match(r"(PIP_INDEX_URL=\S+ )?pip install", rest):
            continue
        step = re.sub(r"(?<![\w.])/(opt|src)\b", f"{place}/\\1", rest)
        step = re.sub(r"^python ", f"{sys.executable} ", step)
        step = re.sub(r"^clip-text ", f"{clip_text} ", step)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step],
            env={**environment(), "MODEL": "starter", "PYTHONPATH": str(place / "src")}
            if stage == "model"
            else environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        offline = ("No matching distribution", "Connection", "Temporary failure in name resolution")
        if " install " in step and any(each in done.stderr for each in offline):
            pytest.skip("packages cannot be had here")
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
        run.append(step)
    assert len(run) == 7, run
    packages, model = tmp_path / "packages/opt/clip-text", tmp_path / "model/opt/model"
    sizes = {each.name: size_of(each) for each in (packages, model)}
    with capsys.disabled():
        sys.stdout.write(f"\nof the light image: {sizes} bytes\n")
    assert sum(sizes.values()) < 600e6
    answers_without_torch(packages, model, tmp_path)


def environment():
    """Our variables, without what leads back to the checkout."""
    left_out = ("PYTHONPATH", "OMP_NUM_THREADS", "CLIP_TEXT_RUNTIME")
    return {name: value for name, value in os.environ.items() if name not in left_out}


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if not file.is_symlink())


def answers_without_torch(packages, model, folder):
    """Index the gallery by what was installed, and search over HTTP with two workers."""
    variables = environment() | {
        "CLIP_TEXT_INDEX": str(folder / "data/index"),
        "CLIP_TEXT_MODEL": str(model),
        "HOME": str(folder / "data"),
    }

    def call(*words):
        return subprocess.run(
            [packages / "bin" / words[0], *words[1:]],
            env=variables,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "No module named 'torch'" in call("python", "-c", "import torch").stderr
    pictures = folder / "context/retrieval/gallery/photos"
    done = call("clip-text", "index", str(pictures))
    assert done.returncode == 0, done.stderr
    service = subprocess.Popen(
        [packages / "bin/clip-text", "serve", "--port", "0", "--workers", "2"],
        env=variables,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = next(
            found[1]
            for line in service.stderr
            if (found := re.search(r"Page: (http://\S+)/ ", line))
        )
        with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
            found = client.post("/v1/search", json={"query": "小猫", "top_k": 5}).json()
            assert found["total"] == len(list(pictures.iterdir()))
            assert any("kitten" in hit["image_id"] for hit in found["hits"])
            assert client.get("/version").json()["runtime"] == "onnxruntime"
            health = client.get("/readyz")
            assert health.status_code == 200
            port = address.rpartition(":")[2]
            variables["CLIP_TEXT_SERVE_PORT"] = port
            assert call("python", str(DEPLOY / "healthcheck.py")).returncode == 0
    finally:
        service.terminate()
        service.communicate(timeout=60)
    assert service.returncode == 0

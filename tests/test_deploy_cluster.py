"""What is in ``deploy/`` for Milvus and Kubernetes: that its parts fit each other and the service.

Nothing is started: there is neither a container engine nor a cluster here. Kubernetes's own schemas
are asked in tests/engines/test_manifests.py.
"""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from clip_text_cli.serve_config import PREFIX, ServeConfig
from retrieval.service.settings import Settings
from retrieval.stores.address import StoreAddress, as_location

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.milvus.yaml").read_text(encoding="utf-8"))
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OBJECTS = [
    (file.name, found)
    for file in FILES
    for found in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
OURS = ("clip-text", "clip-text-ray")


def of_kind(*kinds):
    return [found for _, found in OBJECTS if found["kind"] in kinds]


def templates():
    """The pods that are asked for, by who asks for them."""
    found = {
        f"{each['kind']} {each['metadata']['name']}": each["spec"]["template"]
        for each in of_kind("Deployment", "StatefulSet", "Job")
    }
    for each in of_kind("RayJob"):
        cluster = each["spec"]["rayClusterSpec"]
        found["RayJob head"] = cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            found[f"RayJob {group['groupName']}"] = group["template"]
    return found


def is_ours(template):
    return template["metadata"]["labels"]["app.kubernetes.io/name"] in OURS


PODS = templates()


def chosen(selector):
    """The pods that a selector of labels chooses."""
    wanted = selector.get("matchLabels", selector).items()
    return [name for name, pod in PODS.items() if wanted <= pod["metadata"]["labels"].items()]


def known_settings():
    return {
        f"{PREFIX}{name.upper()}" for name in (*ServeConfig.model_fields, *Settings.model_fields)
    }


def test_compose_asks_of_milvus_what_its_own_file_does():
    services = COMPOSE["services"]
    assert set(services) == {"service", "index", "milvus", "etcd", "minio"}
    for name in ("service", "milvus", "etcd", "minio"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
        assert services[name]["restart"] == "unless-stopped"
    for name in ("milvus", "etcd", "minio"):
        image, _, version = services[name]["image"].rpartition(":")
        assert image
        assert re.search(r"\d+\.\d+|\d{4}-\d{2}-\d{2}", version), "a version, not latest"
    assert services["milvus"]["environment"]["ETCD_ENDPOINTS"] == "etcd:2379"
    assert set(services["milvus"]["depends_on"]) == {"etcd", "minio"}


def test_compose_opens_one_port_to_this_machine_alone():
    opened = {name: said["ports"] for name, said in COMPOSE["services"].items() if "ports" in said}
    assert opened == {"service": ["127.0.0.1:${PORT:-8000}:8000"]}
    assert COMPOSE["networks"]["engine"] == {"internal": True}
    for name, said in COMPOSE["services"].items():
        assert ("outside" in said["networks"]) == (name == "service")
        assert "no-new-privileges:true" in said["security_opt"]


@pytest.mark.parametrize("name", ["service", "index"])
def test_compose_runs_the_service_as_the_other_file_does(name):
    plain = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"][name]
    ours = COMPOSE["services"][name]
    for key in ("command", "read_only", "tmpfs", "cap_drop", "security_opt", "volumes"):
        assert ours[key] == plain[key], key
    address = ours["environment"]["CLIP_TEXT_INDEX"]
    filled = address.replace("${MILVUS_PASSWORD:?choose one}", "secret")
    filled = filled.replace("${COLLECTION:-photos}", "photos")
    assert as_location(filled) == StoreAddress(
        "milvus", "milvus://root:secret@milvus:19530", "photos"
    )
    assert "secret" not in str(as_location(filled))
    assert {each for each in ours["environment"] if each.startswith(PREFIX)} <= known_settings()
    assert ours["build"]["args"] == {"ENGINES": "pymilvus>=2.6"}
    assert set(COMPOSE["volumes"]) == {"data", "milvus", "etcd", "minio"}


def test_the_clients_in_images_are_those_of_the_extras():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = extras["project"]["optional-dependencies"]
    assert extras["milvus"] == ["pymilvus>=2.6"]
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert "ENGINES='pymilvus>=2.6'" in text
    assert f"'{' '.join(extras['postgresql'])}'" in text


def test_kubernetes_and_compose_take_the_same_images():
    compose = {COMPOSE["services"][name]["image"] for name in ("milvus", "etcd", "minio")}
    cluster = {
        container["image"]
        for name, pod in PODS.items()
        for container in pod["spec"]["containers"]
        if name.partition(" ")[2] in ("milvus", "etcd", "minio")
    }
    assert cluster == compose


def test_all_lies_in_one_namespace():
    names = {found["metadata"].get("namespace", "clip-text") for _, found in OBJECTS}
    assert names == {"clip-text"}
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["name"] == "clip-text"


@pytest.mark.parametrize("name", PODS)
def test_pods_are_shut_in(name):
    pod = PODS[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        said = container["securityContext"]
        assert said["allowPrivilegeEscalation"] is False
        assert said["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        if is_ours(PODS[name]):
            assert said["readOnlyRootFilesystem"] is True
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] == 10001, "as the image's USER"
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            mounted = {each["mountPath"] for each in container["volumeMounts"]}
            assert {"/data", "/tmp"} <= mounted
        there = {each["name"] for each in pod.get("volumes", ())} | {"data"}
        assert {each["name"] for each in container.get("volumeMounts", ())} <= there


def test_selectors_choose_pods_that_are_there():
    for found in of_kind("Deployment", "StatefulSet"):
        own = f"{found['kind']} {found['metadata']['name']}"
        assert chosen(found["spec"]["selector"]) == [own]
    for found in of_kind("Service", "PodDisruptionBudget"):
        assert len(chosen(found["spec"]["selector"])) == 1, found["metadata"]["name"]
    for found in of_kind("NetworkPolicy"):
        assert chosen(found["spec"]["podSelector"]), found["metadata"]["name"]
        rules = [*found["spec"].get("ingress", ()), *found["spec"].get("egress", ())]
        for rule in rules:
            for end in (*rule.get("from", ()), *rule.get("to", ())):
                if "podSelector" in end:
                    assert chosen(end["podSelector"]), found["metadata"]["name"]


def ports_of(name):
    return {
        port["name"]: port["containerPort"]
        for container in PODS[name]["spec"]["containers"]
        for port in container.get("ports", ())
    }


def test_services_and_probes_lead_to_ports_that_are_there():
    for found in of_kind("Service"):
        (name,) = chosen(found["spec"]["selector"])
        for port in found["spec"]["ports"]:
            if target := port.get("targetPort"):
                assert target in ports_of(name)
    for name, pod in PODS.items():
        for container in pod["spec"]["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container.get(probe, {}).get("httpGet")
                assert asked is None or asked["port"] in ports_of(name), (name, probe)


def allowed(ways, asking, port):
    """Whether rules of a policy let pods ask for, or be asked at, a port."""
    for way in ways:
        ends = [end["podSelector"] for end in (*way.get("from", ()), *way.get("to", ()))
                if "podSelector" in end]  # fmt: skip
        ports = {each["port"] for each in way.get("ports", ())}
        if (not ports or port in ports) and any(asking in chosen(end) for end in ends):
            return True
    return False


@pytest.mark.parametrize(
    ("asking", "asked", "port"),
    [
        ("Deployment clip-text", "StatefulSet milvus", 19530),
        ("Deployment clip-text", "StatefulSet postgresql", 5432),
        ("Job clip-text-index", "StatefulSet milvus", 19530),
        ("Job clip-text-index", "StatefulSet postgresql", 5432),
        ("StatefulSet milvus", "StatefulSet etcd", 2379),
        ("StatefulSet milvus", "StatefulSet minio", 9000),
        ("Deployment ray-worker", "Deployment ray-head", 6379),
        ("Job clip-text-embed", "Deployment ray-head", 8265),
    ],
)
def test_policies_of_both_ends_let_them_speak(asking, asked, port):
    policies = [found["spec"] for found in of_kind("NetworkPolicy")]
    out = [
        way
        for each in policies
        if asking in chosen(each["podSelector"])
        for way in each.get("egress", ())
    ]
    into = [
        way
        for each in policies
        if asked in chosen(each["podSelector"])
        for way in each.get("ingress", ())
    ]
    assert allowed(out, asked, port)
    assert allowed(into, asking, port)


@pytest.mark.parametrize(
    ("asking", "asked", "port"),
    [
        ("Deployment clip-text", "StatefulSet etcd", 2379),
        ("Deployment clip-text", "StatefulSet minio", 9000),
        ("Deployment ray-worker", "StatefulSet milvus", 19530),
        ("StatefulSet etcd", "StatefulSet minio", 9000),
    ],
)
def test_policies_keep_others_apart(asking, asked, port):
    into = [
        way
        for found in of_kind("NetworkPolicy")
        if asked in chosen(found["spec"]["podSelector"])
        for way in found["spec"].get("ingress", ())
    ]
    assert into
    assert not allowed(into, asking, port)


def test_secrets_that_are_asked_for_are_in_the_example():
    (secret,) = of_kind("Secret")
    text = "\n".join(file.read_text(encoding="utf-8") for file in FILES)
    asked = set(re.findall(r"secretKeyRef: \{name: clip-text, key: ([\w.-]+)\}", text))
    assert asked | {"keys.toml"} == set(secret["stringData"])
    index = secret["stringData"]["index"]
    assert as_location(index).name == "photos"
    assert "CHANGE-ME" in index, "no password of an example is one"


def test_the_service_is_looked_after_as_it_says():
    pod = PODS["Deployment clip-text"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert {name for name in variables if name.startswith(PREFIX)} <= known_settings()
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    ending = float(variables[f"{PREFIX}DRAIN_S"]) + Settings().shutdown_s
    assert pod["terminationGracePeriodSeconds"] > ending + 5
    probe = container["readinessProbe"]
    missed = probe["periodSeconds"] + probe["timeoutSeconds"]
    assert float(variables[f"{PREFIX}DRAIN_S"]) >= missed, "taken out before it ends"
    assert float(container["resources"]["limits"]["cpu"]) == int(variables["OMP_NUM_THREADS"])
    (deployment,) = [f for f in of_kind("Deployment") if f["metadata"]["name"] == "clip-text"]
    assert deployment["spec"]["replicas"] >= 2


def test_ray_is_started_alike_with_kuberay_and_without():
    for plain, ray in (("Deployment ray-head", "head"), ("Deployment ray-worker", "workers")):
        ours = PODS[plain]["spec"]["containers"][0]
        theirs = PODS[f"RayJob {ray}"]["spec"]["containers"][0]
        for key in ("image", "env", "resources", "securityContext", "volumeMounts"):
            assert ours[key] == theirs[key], key
        assert PODS[plain]["spec"]["volumes"] == PODS[f"RayJob {ray}"]["spec"]["volumes"]
    (job,) = of_kind("RayJob")
    arguments = PODS["Job clip-text-embed"]["spec"]["containers"][0]["args"]
    assert job["spec"]["entrypoint"].split() == arguments[arguments.index("--") + 1 :]


def test_the_page_names_every_file_and_no_other():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(deploy/[\w./-]+)` \|", text, re.MULTILINE))
    there = {f"deploy/kubernetes/{file.name}" for file in FILES}
    assert named == there | {"deploy/compose.yaml", "deploy/compose.milvus.yaml"}
    applied = set(re.findall(r"--filename ([\w.-]+)", text)) - {"my-secret.yaml"}
    assert {f"deploy/kubernetes/{name}" for name in applied} <= there

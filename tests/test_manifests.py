"""The manifests for containers: every command line in them is one of rtskel's, and what they say of ports agrees."""

import shlex
from pathlib import Path

import pytest

from rtskel.client.servers import RAW, REFINED, servers
from rtskel.serve.front import shard_endpoint
from tests.test_docs import parsed

yaml = pytest.importorskip("yaml", reason="the manifests are read with PyYAML (extra docs)")

SERVICE = Path(__file__).resolve().parents[1] / "examples/service"
COMPOSE = yaml.safe_load((SERVICE / "compose.yaml").read_text())["services"]
OBJECTS = {
    (each["kind"], each["metadata"]["name"]): each
    for each in yaml.safe_load_all((SERVICE / "kubernetes.yaml").read_text())
}
STATEFUL = OBJECTS["StatefulSet", "rtskel"]["spec"]
ENTRYPOINT = 'ENTRYPOINT ["rtskel"]'


def port(endpoint):
    return int(endpoint.rpartition(":")[2])


def expanded(published):
    """Ports inside, of each published range; the same outside."""
    _, outside, inside = published.split(":")
    assert outside == inside
    first, _, last = inside.partition("-")
    return range(int(first), int(last or first) + 1)


def test_the_image_runs_rtskel():
    assert ENTRYPOINT in (SERVICE / "Dockerfile").read_text()


def test_compose():
    args = parsed(shlex.split(COMPOSE["rtskel"]["command"]))
    open_ports = {number for published in COMPOSE["rtskel"]["ports"] for number in expanded(published)}
    needed = {port(args.raw), port(args.refined), port(args.metrics)}
    for which in range(args.shards):
        needed |= {port(shard_endpoint(endpoint, which)) for endpoint in (args.raw, args.refined)}
    assert open_ports == needed
    assert all(published.startswith("127.0.0.1:") for each in COMPOSE.values() for published in each["ports"])
    *_, code = COMPOSE["rtskel"]["healthcheck"]["test"]
    compile(code, "healthcheck", "exec")
    assert f"http://127.0.0.1:{port(args.metrics)}/healthz" in code
    view = parsed(shlex.split(COMPOSE["view"]["command"]))
    assert view.refined == f"tcp://rtskel:{port(args.refined)}"
    assert COMPOSE["view"]["ports"] == ["127.0.0.1:{0}:{0}".format(port(view.listen))]
    assert float(COMPOSE["rtskel"]["stop_grace_period"].removesuffix("s")) > args.drain_s
    build = COMPOSE["rtskel"]["build"]
    assert (SERVICE / build["context"] / build["dockerfile"]).samefile(SERVICE / "Dockerfile")


def test_the_stateful_set():
    pod = STATEFUL["template"]
    (container,) = pod["spec"]["containers"]
    args = parsed(container["args"])
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"raw": port(args.raw), "refined": port(args.refined), "metrics": port(args.metrics)}
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    assert args.metrics.startswith("0.0.0.0:"), "probes come from outside the pod"
    assert pod["spec"]["terminationGracePeriodSeconds"] > args.drain_s
    assert str(args.threads) == container["resources"]["limits"]["cpu"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    service = OBJECTS["Service", STATEFUL["serviceName"]]["spec"]
    assert service["clusterIP"] == "None"
    assert {each["name"]: each["port"] for each in service["ports"]} == ports
    assert service["selector"] == STATEFUL["selector"]["matchLabels"] == pod["metadata"]["labels"]
    policy = OBJECTS["NetworkPolicy", "rtskel"]["spec"]
    assert policy["podSelector"] == STATEFUL["selector"]
    assert {each["port"] for rule in policy["ingress"] for each in rule["ports"]} == {*ports.values()}


def test_the_client_and_its_list(tmp_path):
    """The list names every pod of the set by the name that the headless service gives it."""
    ((name, text),) = OBJECTS["ConfigMap", "rtskel-servers"]["data"].items()
    (tmp_path / name).write_text(text)
    (container,) = STATEFUL["template"]["spec"]["containers"]
    args = parsed(container["args"])
    for column, endpoint in ((RAW, args.raw), (REFINED, args.refined)):
        hosts = [f"rtskel-{k}.{STATEFUL['serviceName']}" for k in range(STATEFUL["replicas"])]
        assert servers(f"file:{tmp_path / name}", column) == tuple(f"tcp://{host}:{port(endpoint)}" for host in hosts)
    pod = OBJECTS["Deployment", "rtskel-view"]["spec"]["template"]
    (client,) = pod["spec"]["containers"]
    view = parsed(client["args"])
    (mount,), (volume,) = client["volumeMounts"], pod["spec"]["volumes"]
    assert view.refined == f"file:{mount['mountPath']}/{name}"
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == "rtskel-servers"
    assert client["ports"] == [{"containerPort": port(view.listen)}]
    allowed = OBJECTS["NetworkPolicy", "rtskel"]["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= pod["metadata"]["labels"].items()

"""Checks what is deployed without a cluster: the chart over a matrix of values, the manifests, the Envoy fragments.

    deploy.py --guard BINARY --envoy BINARY --helm BINARY [--crds FOLDER] [--bless]

Core kinds are held to Kubernetes' own schemas in strict mode, the others to JSON schemas from --crds when there are any.
Every configuration that a chart renders is read by the service itself, every Envoy fragment by Envoy. With --bless the
part of values.schema.json that is the service's own is written anew.
"""

import argparse
import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "envoy-guard"
VALUES = ROOT / "tests" / "data" / "helm"
MANIFESTS = ROOT / "envoy" / "kubernetes"
KUBERNETES = ["1.31", "1.35"]
problems = []
counts = {}


def problem(where, message):
    problems.append(f"{where}: {message}")


def count(what, number=1):
    counts[what] = counts.get(what, 0) + number


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def documents(text, where):
    try:
        return [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        problem(where, f"is not YAML: {error}")
        return []


class Checker:
    """What a rendered object is held to."""

    def __init__(self, arguments):
        self.guard, self.envoy, self.crds = arguments.guard, arguments.envoy, arguments.crds
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="envoy-guard-deploy-"))
        self.without_schema = set()

    def object(self, document, where):
        where = f"{where}: {document.get('kind')}/{document.get('metadata', {}).get('name')}"
        group, _, version = document["apiVersion"].rpartition("/")
        if "." not in group or group.endswith("k8s.io") and group not in ("gateway.networking.k8s.io",):
            self.core(document, where)
        else:
            self.custom(document, group, version, where)
        if document["kind"] == "ConfigMap":
            self.config_map(document, where)
        if document["kind"] == "EnvoyFilter":
            for patch in document["spec"]["configPatches"]:
                self.fragment(patch["patch"]["value"], where)

    def core(self, document, where):
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(document, version, strict=True)
                count("objects against Kubernetes' schemas")
            except kubernetes_validate.ValidationError as error:
                problem(where, f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")

    def custom(self, document, group, version, where):
        name = f"{group}/{document['kind'].lower()}_{version}.json"
        path = self.crds / name if self.crds else None
        if path is None or not path.is_file():
            self.without_schema.add(name)
            return
        schema = json.loads(path.read_text())
        for error in jsonschema.Draft4Validator(schema).iter_errors(document):
            problem(where, f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}")
        count("objects against custom resource schemas")

    def config_map(self, document, where):
        for name, text in document.get("data", {}).items():
            if name == "config.yaml":
                self.config(text, where)
            elif name == "envoy.yaml":
                self.bootstrap(yaml.safe_load(text), where)

    def config(self, text, where):
        """The service reads its configuration. Files that only a pod has are left out."""
        config = yaml.safe_load(text)
        config.get("detection", {}).pop("patterns_dir", None)
        config.get("listeners", {}).pop("tls", None)
        config.get("redis", {}).get("tls", {}).pop("ca_file", None)
        path = self.scratch / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        checked = run(self.guard, "check-config", "--config", str(path))
        if checked.returncode != 0:
            problem(where, f"the service refuses config.yaml: {checked.stdout}{checked.stderr}")
        count("configurations read by the service")

    def bootstrap(self, bootstrap, where):
        path = self.scratch / "envoy.yaml"
        path.write_text(yaml.safe_dump(bootstrap))
        checked = run(self.envoy, "--mode", "validate", "-l", "error", "-c", str(path))
        if checked.returncode != 0:
            problem(where, f"Envoy refuses it: {checked.stdout}{checked.stderr}")
        count("Envoy configurations read by Envoy")

    def fragment(self, http_filter, where):
        """A single HTTP filter, put into a bootstrap of its own."""
        bootstrap = copy.deepcopy(yaml.safe_load((ROOT / "envoy" / "ext_proc.yaml").read_text()))
        manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"][-2:-1] = [http_filter]
        cluster = http_filter["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
        guard = bootstrap["static_resources"]["clusters"][-1]
        guard["name"] = guard["load_assignment"]["cluster_name"] = cluster
        self.bootstrap(bootstrap, f"{where}: the filter alone")


def chart_schema(guard, bless):
    """values.schema.json holds the service's own schema under `config`."""
    path = CHART / "values.schema.json"
    schema = json.loads(path.read_text())
    own = json.loads(run(guard, "schema").stdout)
    definitions = own.pop("$defs")
    own.pop("$schema", None)
    # Descriptions are in docs/configuration.md; they would make every release of the chart carry them thrice.
    config = without_descriptions(own)
    wanted = {**schema, "$defs": without_descriptions(definitions)}
    wanted["properties"] = {**schema["properties"], "config": config}
    if bless:
        path.write_text(json.dumps(wanted, indent=1) + "\n")
    elif wanted != schema:
        problem("values.schema.json", "is not in step with `envoy-guard schema`; run `make helm-schema`")


def without_descriptions(schema):
    if isinstance(schema, dict):
        return {
            key: without_descriptions(value)
            for key, value in schema.items()
            if not (key in ("description", "title") and isinstance(value, str))
        }
    if isinstance(schema, list):
        return [without_descriptions(value) for value in schema]
    return schema


def template(helm, values, *more):
    return run(helm, "template", "release", str(CHART), "--namespace", "guard", "-f", str(values), *more)


def chart(helm, checker):
    for values in sorted(VALUES.glob("*.yaml")):
        if values.name.startswith("bad-"):
            refused(helm, values)
            continue
        linted = run(helm, "lint", "--strict", str(CHART), "-f", str(values))
        if linted.returncode != 0:
            problem(f"helm lint {values.name}", linted.stdout + linted.stderr)
        rendered = template(helm, values)
        if rendered.returncode != 0:
            problem(f"helm template {values.name}", rendered.stderr)
            continue
        for document in documents(rendered.stdout, values.name):
            checker.object(document, values.name)
        count("sets of values rendered")


def refused(helm, values):
    wanted = values.read_text().splitlines()[0].removeprefix("# ")
    rendered = template(helm, values)
    if rendered.returncode == 0:
        problem(values.name, "is taken, though it has to be refused")
    elif wanted not in rendered.stderr:
        problem(values.name, f"is refused without saying `{wanted}`: {rendered.stderr}")
    count("bad values refused")


def restarts(helm):
    """Only what needs a new process changes the pods."""

    def annotation(*sets):
        rendered = template(helm, VALUES / "default.yaml", *(word for pair in sets for word in ("--set", pair)))
        found = [d for d in documents(rendered.stdout, "restarts") if d["kind"] == "Deployment"]
        return found[0]["spec"]["template"]["metadata"]["annotations"]["envoy-guard/restart"]

    before = annotation()
    if annotation("config.security.rate_limit=7") != before:
        problem("restarts", "a rate limit restarts the pods")
    for changed in ("ports.grpc=50052", "redis.url=redis://redis:6379", "config.listeners.workers=3"):
        if annotation(changed) == before:
            problem("restarts", f"{changed} does not restart the pods")
    count("restart rules", 4)


def manifests(checker):
    for path in sorted(MANIFESTS.glob("*.yaml")):
        found = documents(path.read_text(), path.name)
        for document in found:
            if "apiVersion" in document:
                checker.object(document, path.name)
            elif "meshConfig" not in document:
                problem(path.name, "is neither an object nor values for Istio")
        count("manifests")


def compose():
    """What compose.yaml names is there."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        where = f"compose.yaml: {name}"
        mounts = [volume.split(":") for volume in service.get("volumes", [])]
        for source, target, *_ in mounts:
            if source.startswith("./") and not (ROOT / source).exists():
                problem(where, f"{source} is not there")
            for word in service.get("command", []):
                inside = word.removeprefix(target + "/")
                if inside != word and not (ROOT / source / inside).is_file():
                    problem(where, f"{word} is not in {source}")
        mode = service.get("network_mode", "").removeprefix("service:")
        for other in [*service.get("depends_on", {}), *([mode] if mode else [])]:
            if other not in services:
                problem(where, f"names a service {other} that is not there")
        count("services of compose.yaml")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", required=True)
    parser.add_argument("--envoy", required=True)
    parser.add_argument("--helm", required=True)
    parser.add_argument("--crds", type=pathlib.Path)
    parser.add_argument("--bless", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"):
            os.environ[name] = home
        chart_schema(arguments.guard, arguments.bless)
        checker = Checker(arguments)
        chart(arguments.helm, checker)
        restarts(arguments.helm)
        manifests(checker)
        compose()
    for what, number in sorted(counts.items()):
        print(f"{number:5} {what}")
    for name in sorted(checker.without_schema):
        print(f"      no schema for {name}: not checked")
    for line in problems:
        print(f"PROBLEM {line}", file=sys.stderr)
    sys.exit(1 if problems else 0)


main()

"""Executes what the documentation shows: every configuration is read by what it is for, every command is run.

    docs.py --guard BINARY --envoy BINARY --helm BINARY

A block of YAML is told by its keys: a configuration of the service, values of the chart, an object of Kubernetes, or a part of
an Envoy configuration, which is put into a bootstrap. Commands are run in a scratch folder with the repository's files at
hand; those that cannot run in a test are listed below with what covers them instead.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "envoy").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Commands that need what a test has not, by their beginning, and why nothing is lost.
ELSEWHERE = {
    "make run": "make demo is the same with checks, and a test of its own",
    "make test": "is what runs this",
    "make bench": "takes minutes",
    "make quality": "needs labelled requests",
    "make fuzz": "takes an hour",
    "make test-envoys": "is this suite, five times",
    "cargo install": "builds once more what make test has built",
    "cargo nextest": "is part of make test",
    "docker": "needs a daemon; the image and compose.yaml are checked by deploy.py",
    "helm": "needs a cluster; the chart is rendered by deploy.py",
    "kubectl": "needs a cluster; the manifests are checked by deploy.py",
    "systemctl": "needs systemd as PID 1; the unit is verified by a test",
    "install ": "writes to the system",
    "apt-get": "writes to the system",
    "perf ": "needs rights of root",
    "envoy-guard reload": "needs a running service; the tests of operators do it",
    "curl ": "needs a running service; the journeys of the tests do it",
}
problems = []
counts = {}


def count(what):
    counts[what] = counts.get(what, 0) + 1


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


class Reader:
    def __init__(self, arguments):
        self.guard, self.envoy, self.helm = (str(pathlib.Path(path).absolute()) for path in (arguments.guard, arguments.envoy, arguments.helm))
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="envoy-guard-docs-"))
        schema = run(self.guard, "schema").stdout
        self.keys = set(yaml.safe_load(schema)["properties"])
        self.values = set(yaml.safe_load((ROOT / "helm" / "envoy-guard" / "values.yaml").read_text()))

    def page(self, path):
        for found in BLOCK.finditer(path.read_text()):
            language, text = found.groups()
            line = path.read_text()[: found.start()].count("\n") + 2
            where = f"{path.relative_to(ROOT)}:{line}"
            if language in ("yaml", "yml"):
                self.yaml(text, where)
            elif language == "toml":
                self.config(text, "toml", where)
            elif language in ("sh", "bash", "console"):
                for command in commands(text):
                    self.command(command, where)

    def yaml(self, text, where):
        try:
            documents = [document for document in yaml.safe_load_all(text) if document]
        except yaml.YAMLError as error:
            problems.append(f"{where}: is not YAML: {error}")
            return
        for document in documents:
            keys = set(document) if isinstance(document, dict) else set()
            # Most of the chart's values are no keys of the service; `config` tells them apart where both could be meant.
            if keys <= self.keys and keys:
                self.config(text, "yaml", where)
            elif keys <= self.values and keys:
                self.chart(text, where)
            elif "apiVersion" in keys or "meshConfig" in keys:
                count("objects of Kubernetes (checked by deploy.py)")
            elif keys & {"typed_per_filter_config", "check_settings", "static_resources", "http_filters", "access_log", "metadata"}:
                self.fragment(document, where)
            else:
                self.other(document, keys, text, where)

    def other(self, document, keys, text, where):
        """A part of a larger thing: an entry of a list, or fields of `security`."""
        for wrapped in ({"security": document}, {"detection": document}, {"routes": document}, {"listeners": document}):
            if self.is_config(yaml.safe_dump(wrapped)):
                count("parts of configurations read by the service")
                return
        problems.append(f"{where}: nobody reads this block (keys {sorted(keys)})")

    def is_config(self, text):
        path = self.scratch / "part.yaml"
        path.write_text(text)
        return run(self.guard, "check-config", "--config", str(path), cwd=ROOT).returncode == 0

    def config(self, text, kind, where):
        path = self.scratch / f"config.{kind}"
        path.write_text(text)
        checked = run(self.guard, "check-config", "--config", str(path), cwd=ROOT)
        missing = re.findall(r"cannot read|No such file", checked.stdout + checked.stderr)
        if checked.returncode != 0 and not missing:
            problems.append(f"{where}: the service refuses it: {checked.stdout}{checked.stderr}")
        count("configurations read by the service")

    def chart(self, text, where):
        path = self.scratch / "values.yaml"
        path.write_text(text)
        rendered = run(self.helm, "template", "release", str(ROOT / "helm" / "envoy-guard"), "-f", str(path))
        if rendered.returncode != 0:
            problems.append(f"{where}: the chart refuses it: {rendered.stderr}")
        count("values read by the chart")

    def fragment(self, document, where):
        """A route's settings, put on the first route of a shipped bootstrap."""
        if "static_resources" in document:
            bootstrap = document
        else:
            bootstrap = yaml.safe_load((ROOT / "envoy" / "both.yaml").read_text())
            manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
            route = manager["route_config"]["virtual_hosts"][0]["routes"][-1]
            if "check_settings" in document:
                kind = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
                document = {"typed_per_filter_config": {"envoy.filters.http.ext_authz": {"@type": kind, **document}}}
            if "http_filters" in document:
                manager["http_filters"][:-1] = document["http_filters"]
            elif "access_log" in document:
                manager["access_log"] = document["access_log"]
            else:
                route.update(document)
        path = self.scratch / "envoy.yaml"
        path.write_text(yaml.safe_dump(bootstrap))
        checked = run(self.envoy, "--mode", "validate", "-l", "error", "-c", str(path))
        if checked.returncode != 0:
            problems.append(f"{where}: Envoy refuses it: {checked.stderr}")
        count("parts of Envoy configurations read by Envoy")

    def command(self, command, where):
        for beginning in ELSEWHERE:
            if command.startswith(beginning):
                count("commands covered elsewhere")
                return
        folder = self.scratch / "here"
        if not folder.exists():
            folder.mkdir()
            for name in ("envoy", "docs", "helm"):
                (folder / name).symlink_to(ROOT / name)
            # What a page takes for granted: a configuration and requests of one's own.
            for name in ("guard.yaml", "policy.yaml", "new.yaml", "old.yaml"):
                (folder / name).write_text((ROOT / "envoy" / "guard.yaml").read_text())
            (folder / "requests.jsonl").write_text('{"method":"GET","path":"/?a=1"}\n')
            (folder / "request.json").write_text('{"method":"GET","path":"/?a=1"}\n')
        path = f"{pathlib.Path(self.guard).parent}:{os.environ['PATH']}"
        # `pipefail` needs bash; a command that the page shows is one line.
        served = command.startswith("envoy-guard serve")
        if served:
            command = f"timeout --preserve-status 5 {command} --set listeners.grpc=127.0.0.1:0 --set admin.address=null"
        done = run("bash", "-c", command, cwd=folder, env={**os.environ, "PATH": path})
        # 1 is an answer of `explain` and `replay` (something was refused), not a failure of the command.
        if done.returncode not in (0, 1) or "unrecognized" in done.stderr:
            problems.append(f"{where}: `{command}` ends with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        count("commands run")


def commands(text):
    """Lines of a block, continued ones joined, prompts and comments left out."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        line = re.sub(r"\s+#\s.*$", "", line).strip().removeprefix("$ ")
        if line and not line.startswith("#"):
            yield line


def links(path):
    """Pages and files that are linked are there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (path.parent / file).resolve() if file else path
        if not linked.exists():
            problems.append(f"{path.relative_to(ROOT)}: links to {target}, which is not there")
        elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
            problems.append(f"{path.relative_to(ROOT)}: links to {target}: no such heading")
        count("links followed")


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def main():
    parser = argparse.ArgumentParser()
    for name in ("guard", "envoy", "helm"):
        parser.add_argument(f"--{name}", required=True)
    reader = Reader(parser.parse_args())
    for path in PAGES:
        reader.page(path)
        links(path)
    for what, number in sorted(counts.items()):
        print(f"{number:5} {what}")
    for line in problems:
        print(f"PROBLEM {line}", file=sys.stderr)
    sys.exit(1 if problems else 0)


main()

"""Executes what the documentation shows: every configuration is read by what it is for, every command is run.

    docs.py --guard BINARY --envoy BINARY --helm BINARY

A block of YAML is told by its keys: a configuration of the service, values of the chart, an object of Kubernetes, or a part of
an Envoy configuration, which is put into a bootstrap. Commands are run in a scratch folder with the repository's files at
hand, those for operators against a service that runs meanwhile; of `make run` each request that it prints is sent. Commands
within the text and in tables have to exist, with the flags that are named. What cannot run in a test is listed below with the
reason, and printed.
"""

import argparse
import importlib
import inspect
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "envoy").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Commands that a test cannot run, by their beginning, and why nothing is lost. Each use is printed.
ELSEWHERE = {
    "make test": "is what runs this",
    "make bench": "takes minutes; measures and proves nothing",
    "make quality": "needs labelled requests, which are not part of the repository",
    "make fuzz": "takes an hour",
    "make test-envoys": "is this suite, five times",
    "cargo install": "builds once more what make test has built",
    "cargo nextest": "is part of make test",
    "docker": "needs a daemon; hadolint reads the Dockerfile, deploy.py compose.yaml",
    "helm test": "needs a cluster; the pod of the test is rendered and held to its schema by deploy.py",
    "helm upgrade": "needs a cluster; the values are rendered by deploy.py",
    "helm rollback": "needs a cluster",
    "kubectl": "needs a cluster; the manifests are checked by deploy.py",
    "systemctl": "needs systemd as PID 1; systemd-analyze verifies the unit in a test of its own",
    "apt-get": "writes to the system; setup.sh installs the same package",
    "perf ": "needs rights of root",
    "git push": "changes what others see",
}
# Languages of blocks that hold no command and no configuration.
PROSE = {"text", "diff", "promql"}
# Ends of commands that are answers: `explain` and `replay` refuse with 1, `lint` says how bad it is with 1 and 2.
ANSWERS = {"envoy-guard lint": (0, 1, 2)}
problems = []
skipped = []
counts = {}


def count(what, number=1):
    counts[what] = counts.get(what, 0) + number


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


class Reader:
    def __init__(self, arguments):
        self.guard, self.envoy, self.helm = (str(pathlib.Path(path).absolute()) for path in (arguments.guard, arguments.envoy, arguments.helm))
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="envoy-guard-docs-"))
        schema = run(self.guard, "schema").stdout
        self.keys = set(yaml.safe_load(schema)["properties"])
        self.service = None
        listed = run(self.guard, "--help").stdout.partition("Commands:")[2].partition("Options:")[0]
        self.commands = set(re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE))
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
            elif language == "json":
                self.config(text, "json", where)
            elif language in ("sh", "bash", "console"):
                for command in commands(text):
                    self.command(command, where)
            elif language in PROSE:
                # What follows a prompt is a command all the same; the rest is what it prints.
                for command in commands(text):
                    if language == "text" and f"$ {command}" in text:
                        self.command(command, where)
            else:
                problems.append(f"{where}: nobody knows what a block of {language} is")

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
        for beginning, why in ELSEWHERE.items():
            if command.startswith(beginning):
                skipped.append(f"{where}: `{command}`: {why}")
                return
        if command == "make run":
            self.make_run(where)
            return
        folder = self.here()
        path = f"{pathlib.Path(self.guard).parent}:{pathlib.Path(self.helm).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        wanted = next((codes for beginning, codes in ANSWERS.items() if command.startswith(beginning)), (0, 1))
        if command.startswith("envoy-guard serve"):
            command = f"timeout --preserve-status 5 {command} --set listeners.grpc=127.0.0.1:0 --set admin.address=null"
        elif command.startswith("helm install"):
            # Without a cluster: the same chart with the same values and names, rendered.
            command = command.replace("helm install", "helm template", 1)
        elif command.startswith("install "):
            # Into a folder instead of the system.
            command = re.sub(r" /(usr|etc|var)/", rf" {folder}/root/\1/", command)
        elif command.startswith("curl ") or is_remote(command):
            port = self.live()
            environment["ENVOY_GUARD_ADMIN_URL"] = f"http://127.0.0.1:{port}"
            command = command.replace("localhost:8081", f"127.0.0.1:{port}").replace("127.0.0.1:8081", f"127.0.0.1:{port}")
            if command.startswith(ENDLESS):
                # 124 says that it went on until the end.
                command, wanted = f"timeout -s INT 3 {command}", (0, 124)
            command = command.replace("curl ", "curl -sS --fail-with-body ", 1) if command.startswith("curl ") else command
        # `pipefail` needs bash; a command that the page shows is one line.
        done = run("bash", "-c", command, cwd=folder, env=environment)
        if done.returncode not in wanted or "unrecognized" in done.stderr:
            problems.append(f"{where}: `{command}` ends with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        count("commands run")

    def here(self):
        """A folder with what a page takes for granted: the repository's files, a configuration and requests of one's own."""
        folder = self.scratch / "here"
        if not folder.exists():
            (folder / "target").mkdir(parents=True)
            for name in ("envoy", "docs", "helm"):
                (folder / name).symlink_to(ROOT / name)
            (folder / "target" / "release").symlink_to(pathlib.Path(self.guard).parent)
            for name in ("usr/local/bin", "etc/systemd/system"):
                (folder / "root" / name).mkdir(parents=True)
            for name in ("guard.yaml", "policy.yaml", "new.yaml", "old.yaml"):
                (folder / name).write_text((ROOT / "envoy" / "guard.yaml").read_text())
            (folder / "values.yaml").write_text("redis: { existingSecret: redis }\n")
            (folder / "requests.jsonl").write_text('{"method":"GET","path":"/?a=1"}\n')
            (folder / "request.json").write_text('{"method":"GET","path":"/?a=1"}\n')
            (folder / "bans.txt").write_text("192.0.2.50\n")
            made = run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                       "-subj", "/CN=envoy.test", "-keyout", str(folder / "envoy.key"), "-out", str(folder / "envoy.crt"))
            assert made.returncode == 0, made.stderr
            (folder / "ca.pem").write_text((folder / "envoy.crt").read_text())
        return folder

    def live(self):
        """The admin port of a service that runs until the end."""
        if self.service is None:
            port = free_port()
            command = [self.guard, "serve", "--config", str(ROOT / "envoy" / "guard.yaml")]
            command += ["--set", f"listeners.grpc=127.0.0.1:{free_port()}", "--set", f"admin.address=127.0.0.1:{port}"]
            log = (self.scratch / "guard.log").open("wb")
            process = subprocess.Popen(command, stdout=log, stderr=log)
            self.service = (process, port)
            wait(f"http://127.0.0.1:{port}/readyz", process)
        return self.service[1]

    def make_run(self, where):
        """`make run` without the build: what it starts, each request that it prints, and the end."""
        planned = run("make", "-n", "run", cwd=ROOT)
        if "envoy/demo.py run --guard target/release/envoy-guard" not in planned.stdout:
            problems.append(f"{where}: make run does something else: {planned.stdout}{planned.stderr}")
        command = [sys.executable, str(ROOT / "envoy" / "demo.py"), "run", "--guard", self.guard, "--envoy", self.envoy]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        printed = []
        for line in process.stdout:
            printed.append(line.rstrip())
            if line.startswith("Ctrl-C"):
                break
        pasted = [(head, request) for head, request in zip(printed, printed[1:]) if head.startswith("# ")]
        if len(pasted) != 6:
            problems.append(f"{where}: make run prints {len(pasted)} requests, not six: {printed}")
        for head, request in pasted:
            title, _, rest = head.removeprefix("# ").partition(": ")
            answers = re.findall(r"^HTTP/1.1 (\d+)", run("bash", "-c", request).stdout, re.MULTILINE)
            if not answers or answers[-1] != rest.split(",")[0]:
                problems.append(f"{where}: {title}: `{request}` is answered with {answers}, not {rest}")
            count("requests of make run pasted")
        for url in re.findall(r"http://127\.0\.0\.1:\d+/(?:metrics|config)", "\n".join(printed)):
            if run("curl", "-sS", "--fail", url).returncode != 0:
                problems.append(f"{where}: {url} does not answer")
        process.send_signal(signal.SIGINT)
        if process.wait(timeout=60) != 0:
            problems.append(f"{where}: make run ends with {process.returncode} after Ctrl-C")
        count("commands run")

    def inline(self, path):
        """Commands within the text and in tables of commands: they exist, with the flags that are named."""
        text = re.sub(r"^```.*?^```", lambda found: "\n" * found[0].count("\n"), path.read_text(), flags=re.MULTILINE | re.DOTALL)
        is_table = False
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{path.relative_to(ROOT)}:{number}"
            is_table = line.startswith("|") and (is_table or line.startswith("| command |"))
            for shown in re.findall(r"`(make [a-z-]+|envoy-guard [a-z][^`]*)`", line):
                self.exists(shown, where)
            if is_table:
                group = None
                for shown in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                    if not re.match(r"[a-z]", shown) or shown.startswith("envoy-guard "):
                        continue
                    words = shown.split()
                    # "`patterns add`, `del`" names the group once.
                    if group and words[0] not in self.commands:
                        shown = f"{group} {shown}"
                    else:
                        group = words[0]
                    self.exists(f"envoy-guard {shown}", where)

    def exists(self, shown, where):
        words = shown.replace("\\|", "|").split()
        if words[0] == "make":
            if run("make", "-n", words[1], cwd=ROOT).returncode != 0:
                problems.append(f"{where}: `{shown}`: there is no such target")
            count("commands within the text")
            return
        names = []
        for word in words[1:]:
            if not re.fullmatch(r"[a-z][a-z-]*", word) or len(names) == 2:
                break
            names.append(word)
        said = run(self.guard, *names, "--help")
        if said.returncode != 0 and len(names) == 2:
            # The second word may be a value, and a table may leave the first one out.
            said = run(self.guard, names[0], "--help")
        if said.returncode != 0:
            problems.append(f"{where}: `{shown}`: there is no such command: {said.stderr[:200]}")
        for flag in re.findall(r"--[a-z][a-z-]*", shown):
            if flag not in said.stdout:
                problems.append(f"{where}: `{shown}`: {flag} is not in its help")
        count("commands within the text")

    def close(self):
        if self.service is not None:
            process, _ = self.service
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


# Commands that ask a running service.
REMOTE = ("bans", "patterns", "limits", "decisions", "reload", "status", "doctor", "log", "log-level", "support-bundle")
# And go on until they are told to stop.
ENDLESS = ("envoy-guard decisions tail",)


def is_remote(command):
    words = command.split()
    return len(words) > 1 and words[0] == "envoy-guard" and words[1] in REMOTE


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(url, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"the service ended with {process.returncode}") from None
            time.sleep(0.05)
    raise SystemExit(f"{url} does not answer")


def commands(text):
    """Lines of a block, continued ones joined, prompts and comments left out."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        line = re.sub(r"\s+#\s.*$", "", line).strip().removeprefix("$ ")
        if line and not line.startswith("#"):
            yield line


def seeds():
    """Every handler's method and every decorator of guard-core stands in docs/guard-core.md, and every field has its key."""
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "guard-core.md").read_text()))
    modules = {
        "guard_core.handlers": ("behavior", "cloud", "cors", "dynamic_rule", "ipban", "ipinfo", "ratelimit", "redis", "security_headers", "suspatterns"),
        "guard_core.decorators": ("access_control", "advanced", "authentication", "base", "behavioral", "content_filtering", "rate_limiting"),
    }
    for package, names in modules.items():
        for name in names:
            module = importlib.import_module(f"{package}.{name}_handler" if package.endswith("handlers") else f"{package}.{name}")
            for kind, found in vars(module).items():
                if not inspect.isclass(found) or found.__module__ != module.__name__ or kind.startswith("_"):
                    continue
                for method in dir(found):
                    if not method.startswith("_") and callable(getattr(found, method)) and kind != "DecoratedFunction":
                        count("methods of guard-core")
                        if method not in named:
                            problems.append(f"docs/guard-core.md: {kind}.{method} is not there")
    fields = set(importlib.import_module("guard_core").SecurityConfig.model_fields)
    keys = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE))
    for field in fields - keys:
        problems.append(f"docs/configuration.md: guard-core's {field} is not there")
    count("fields of guard-core", len(fields))


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
    try:
        for path in PAGES:
            reader.page(path)
            reader.inline(path)
            links(path)
        seeds()
    finally:
        reader.close()
    for what, number in sorted(counts.items()):
        print(f"{number:5} {what}")
    for line in skipped:
        print(f"      not run: {line}")
    for line in problems:
        print(f"PROBLEM {line}", file=sys.stderr)
    sys.exit(1 if problems else 0)


main()

#!/usr/bin/env python3
"""Puts envoy-guard behind a real Envoy with an example application behind both.

`run` keeps them running and prints six requests to paste; `demo` sends the six itself, prints what came out and exits
0 only if all came out as expected. Ctrl-C, or an error, stops everything that was started. Standard library only.
"""
import argparse
import dataclasses
import http.client
import json
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

HERE = pathlib.Path(__file__).resolve().parent
READY_SECONDS = 30
ORIGIN = "https://app.example.com"


@dataclasses.dataclass
class Case:
    """One request of the demo: what is sent, how often, and what must come back from the last one."""

    title: str
    client: str
    path: str
    status: int
    check: str
    method: str = "GET"
    headers: dict = dataclasses.field(default_factory=dict)
    body: str = ""
    before: int = 0  # how often the request (or `prelude`) is sent first
    prelude: str = ""  # another path to send first
    expect: str = ""  # text in the body or a header of the answer
    note: str = ""

    def curl(self, port, path=None):
        parts = ["curl -si", f"-H 'X-Forwarded-For: {self.client}'"]
        parts += [f"-X {self.method}"] if self.method not in ("GET", "POST") else []
        parts += [f"-H '{name}: {value}'" for name, value in self.headers.items()]
        parts += [f"--data '{self.body}'"] if self.body else []
        return " ".join(parts + [f"'http://127.0.0.1:{port}{path or self.path}'"])

    def paste(self, port):
        if self.prelude:
            return f"for i in $(seq {self.before}); do {self.curl(port, self.prelude)} | head -1; done; {self.curl(port)}"
        if self.before:
            return f"for i in $(seq {self.before + 1}); do {self.curl(port)}; done"
        return self.curl(port)


SQLI = "/items?id=1%27%20UNION%20SELECT%20login,password%20FROM%20users--"
CASES = [
    Case("allowed", "198.51.100.1", "/items?id=42", 200, "", expect="reached the application",
         note="the application answers, with security headers added"),
    Case("SQL injection", "198.51.100.2", SQLI, 400, "suspicious_activity", expect="Suspicious activity detected",
         note="refused, category sqli"),
    Case("XSS in a body", "198.51.100.3", "/comments", 400, "suspicious_activity", method="POST",
         headers={"content-type": "application/json"}, body='{"text": "<img src=x onerror=alert(document.cookie)>"}',
         expect="Suspicious activity detected", note="refused, category xss"),
    Case("rate limited", "198.51.100.4", "/limited", 429, "rate_limit", before=2, expect="retry-after: 30",
         note="two pass, the third is told to come back in 30 seconds"),
    Case("banned", "198.51.100.5", "/items?id=42", 403, "ip_security", before=2, prelude=SQLI,
         expect="IP address banned", note="after two attacks even a clean request is refused"),
    Case("CORS preflight", "198.51.100.6", "/items", 200, "cors_preflight", method="OPTIONS",
         headers={"origin": ORIGIN, "access-control-request-method": "POST",
                  "access-control-request-headers": "content-type"},
         expect=f"access-control-allow-origin: {ORIGIN}", note="answered by the guard, the application is not asked"),
]


class Stack:
    """The processes, in order of start; all end together."""

    def __init__(self, options):
        self.options = options
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="envoy-guard-demo-"))
        self.processes = []
        self.ports = {}

    def start(self):
        names = {"envoy": 10000, "application": 10080, "guard": 50051, "guard_admin": 8081, "envoy_admin": 9901}
        self.ports = {name: self.pick(port) for name, port in names.items()}
        numbers = {port: self.ports[name] for name, port in names.items()}
        envoy, guard = self.rewritten("ext_authz.yaml", numbers), self.rewritten("guard.yaml", numbers)
        self.spawn("application", sys.executable, HERE / "upstream.py", "--port", self.ports["application"])
        self.spawn("guard", self.options.guard, "serve", "--config", guard)
        self.wait("guard", f"http://127.0.0.1:{self.ports['guard_admin']}/readyz")
        self.spawn("envoy", self.options.envoy, "-c", envoy, "--log-level", "warning", "--concurrency", 2,
                   "--use-dynamic-base-id", "--file-flush-interval-msec", 20, "--drain-time-s", 1)
        self.wait("envoy", f"http://127.0.0.1:{self.ports['envoy_admin']}/ready")
        self.wait("envoy", f"http://127.0.0.1:{self.ports['envoy']}/items", {200})

    def pick(self, wanted):
        """The usual port when it is free, else any free one."""
        for port in (wanted, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                    return probe.getsockname()[1]
                except OSError:
                    continue
        raise SystemExit("demo: no free port on this machine")

    def rewritten(self, name, numbers):
        """The shipped file, with ports that were taken replaced."""
        text = (HERE / name).read_text()
        pattern = re.compile(r"(port_value: |127\.0\.0\.1:)(" + "|".join(map(str, numbers)) + r")\b")
        # The demo plays all clients from this machine. Envoy must not add itself to what they say about themselves.
        text = text.replace("use_remote_address: true", "use_remote_address: true\n                skip_xff_append: true")
        path = self.folder / name
        path.write_text(pattern.sub(lambda found: found[1] + str(numbers[int(found[2])]), text))
        return path

    def spawn(self, name, *command):
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        self.processes.append((name, process))

    def wait(self, name, url, statuses=None):
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                with urllib.request.urlopen(url, timeout=1) as answer:
                    if statuses is None or answer.status in statuses:
                        return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"demo: {name} was not ready after {READY_SECONDS} s; its log:\n{self.log(name)}")

    def check_alive(self):
        for name, process in self.processes:
            if process.poll() is not None:
                raise SystemExit(f"demo: {name} ended with code {process.returncode}; its log:\n{self.log(name)}")

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self):
        for _, process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in reversed(self.processes):
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                print(f"demo: {name} had to be killed", file=sys.stderr)


def send(port, case, path=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(case.method, path or case.path, body=case.body or None,
                       headers={"x-forwarded-for": case.client, **case.headers})
    answer = connection.getresponse()
    text = "".join(f"{name.lower()}: {value}\n" for name, value in answer.getheaders())
    return answer.status, text + "\n" + answer.read().decode(errors="replace")


def last_access_log(stack, seen):
    """The line Envoy wrote for the latest request; Envoy flushes its log every 20 ms."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        lines = [line for line in stack.log("envoy").splitlines() if line.startswith("{")]
        if len(lines) >= seen:
            return json.loads(lines[seen - 1])
        time.sleep(0.02)
    return {}


def demo(stack):
    port, failures = stack.ports["envoy"], 0
    seen = sum(line.startswith("{") for line in stack.log("envoy").splitlines())
    time.sleep(0.1)
    seen = sum(line.startswith("{") for line in stack.log("envoy").splitlines())
    rows = []
    for case in CASES:
        for _ in range(case.before):
            send(port, case, case.prelude)
        status, text = send(port, case)
        seen += case.before + 1
        guard = last_access_log(stack, seen).get("guard") or {}
        wrong = [] if status == case.status else [f"status {status}, not {case.status}"]
        wrong += [] if case.expect in text else [f"no '{case.expect}' in the answer"]
        wrong += [] if (guard.get("check") or "") == case.check else [f"check {guard.get('check')}, not {case.check}"]
        failures += bool(wrong)
        reason = guard.get("reason") or ("nothing objected" if status == 200 else "")
        rows.append((case.title, str(status), guard.get("decision", "?"), guard.get("check") or "-", reason,
                     "as expected" if not wrong else "; ".join(wrong)))
    print_table(("request", "status", "decision", "check", "reason", "result"), rows)
    return failures


def print_table(head, rows, widest=64):
    cut = [[cell if len(cell) <= widest else cell[: widest - 1] + "…" for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cut) for i in range(len(head))]
    for number, row in enumerate(cut):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def run(stack):
    port = stack.ports["envoy"]
    print(f"\nEnvoy listens on http://127.0.0.1:{port} and asks envoy-guard about every request. Paste these:\n")
    for case in CASES:
        print(f"# {case.title}: {case.status}, {case.note}\n{case.paste(port)}\n")
    print(f"Metrics: http://127.0.0.1:{stack.ports['guard_admin']}/metrics   "
          f"configuration: http://127.0.0.1:{stack.ports['guard_admin']}/config")
    print(f"Logs of all three: {stack.folder}\nCtrl-C stops everything.", flush=True)
    while True:
        time.sleep(1)
        stack.check_alive()


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    cache = HERE.parent / ".cache" / "envoy" / os.environ.get("ENVOY_VERSION", "1.40") / "envoy"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("run", "demo"))
    parser.add_argument("--guard", default=HERE.parent / "target/release/envoy-guard", help="the envoy-guard binary")
    parser.add_argument("--envoy", default=cache, help="the Envoy binary")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    stack = Stack(options)
    try:
        stack.start()
        return 1 if (demo if options.mode == "demo" else run)(stack) else 0
    except KeyboardInterrupt:
        print("\nstopping", file=sys.stderr)
        return 0
    finally:
        stack.stop()


if __name__ == "__main__":
    sys.exit(main())

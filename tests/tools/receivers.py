"""The other side of every telemetry sink: an agent server, webhooks, and OTLP over HTTP and gRPC.

Prints one JSON line for whatever arrives. What the agent protocol defines is checked here, with guard-agent's own
models, decryptor and signature; `problems` of a line says what is wrong. `GET /answer?path=/hook&status=503&times=2`
makes the next answers of a path fail; `path=grpc/traces` with a status of gRPC does so there, and `rejected=3` says that as
many spans, records or points were thrown away. Arguments: port of HTTP, port of gRPC, and for gRPC over TLS port,
certificate and key.
"""

import concurrent.futures
import gzip
import hashlib
import hmac
import http.server
import json
import sys
import threading
import urllib.parse

import grpc
from google.protobuf.json_format import MessageToDict
from guard_agent import models
from guard_agent.encryption import PayloadEncryptor
from guard_agent.signing import sign_payload
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

API_KEY = "corpus-agent-key"
SIGNING_SECRET = "signing-secret"
HOOK_SECRET = "hook-secret"
# 32 bytes of 0x07, URL-safe base64.
ENCRYPTION_KEY = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
BATCH_KEYS = [
    "project_id", "events", "metrics", "batch_id", "created_at", "compressed", "agent_version", "guard_version",
    "guard_core_version",
]
SEALED_KEYS = ["encrypted_payload", "batch_id", "agent_version", "guard_version", "guard_core_version"]
EVENT_KEYS = list(models.SecurityEvent.model_fields)

lock = threading.Lock()
answers = {}
forever = threading.Event()


def tell(kind, **fields):
    with lock:
        print(json.dumps({"kind": kind, **fields}), flush=True)


def check(problems, holds, text):
    if not holds:
        problems.append(text)


def agent(path, headers, wire):
    problems = []
    body = gzip.decompress(wire) if headers.get("content-encoding") == "gzip" else wire
    compressed = headers.get("content-encoding") == "gzip"
    check(problems, compressed == (len(body) >= 1024), f"{len(body)} bytes, compressed: {compressed}")
    check(problems, headers.get("x-api-key") == API_KEY, "api key")
    check(problems, headers.get("content-type") == "application/json", "content type")
    check(problems, headers.get("user-agent", "").startswith("guard-agent/"), "user agent")
    check(problems, len(headers.get("x-agent-install-id", "")) == 36, "install id")
    check(problems, headers.get("x-project-id") == "proj-1", "project id")
    expected = sign_payload(body, secret=SIGNING_SECRET)
    check(problems, headers.get("x-payload-signature") == expected, "signature")
    check(problems, body.isascii(), "ASCII only")
    document = json.loads(body)
    check(problems, json.dumps(document, separators=(",", ":")).encode() == body, "compact text")
    batch = document
    if path.endswith("/encrypted"):
        check(problems, list(document) == SEALED_KEYS, f"keys {list(document)}")
        batch = PayloadEncryptor(ENCRYPTION_KEY).decrypt(document["encrypted_payload"])
        check(problems, list(batch) == sorted(batch), "sorted keys")
        for event in batch["events"]:
            models.SecurityEvent.model_validate(event)
        for metric in batch["metrics"]:
            models.SecurityMetric.model_validate(metric)
    elif path.endswith("/status"):
        models.AgentStatus.model_validate(document)
    else:
        check(problems, list(document) == BATCH_KEYS, f"keys {list(document)}")
        parsed = models.EventBatch.model_validate_json(body)
        is_events = path.endswith("/events")
        check(problems, bool(parsed.events) == is_events and bool(parsed.metrics) != is_events, "one kind a batch")
        for event in document["events"]:
            check(problems, list(event) == EVENT_KEYS, f"event keys {list(event)}")
    tell("agent", path=path, headers=headers, problems=problems, body=batch, text=body.decode())


def hook(path, headers, body):
    problems = []
    signature = headers.get("x-guard-signature")
    if signature:
        fields = dict(field.split("=", 1) for field in signature.split(","))
        signed = hmac.new(HOOK_SECRET.encode(), f"{fields['t']}.".encode() + body, hashlib.sha256).hexdigest()
        check(problems, hmac.compare_digest(signed, fields["v1"]), "signature")
    tell("hook", path=path, headers=headers, problems=problems, text=body.decode())


def scripted_answer(path):
    """What the next answer of a path shall be: status, times left, seconds of Retry-After, items thrown away."""
    with lock:
        found = answers.get(path)
        if found and found[1] > 0:
            found[1] -= 1
            return found
    return None


def taken(kind, rejected):
    """The answer that says how many items were thrown away."""
    response, field = RESPONSES[kind]
    if not rejected:
        return response()
    return response(partial_success={field: int(rejected), "error_message": "too old"})


def otlp(kind, message, metadata):
    tell(kind, metadata=metadata, body=MessageToDict(message, preserving_proto_field_name=True))


OTLP = {
    "/v1/traces": ("traces", traces.ExportTraceServiceRequest),
    "/v1/metrics": ("metrics", metrics.ExportMetricsServiceRequest),
    "/v1/logs": ("logs", logs.ExportLogsServiceRequest),
}


RESPONSES = {
    "traces": (traces.ExportTraceServiceResponse, "rejected_spans"),
    "metrics": (metrics.ExportMetricsServiceResponse, "rejected_data_points"),
    "logs": (logs.ExportLogsServiceResponse, "rejected_log_records"),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"{}", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        if url.path == "/answer":
            with lock:
                answers[query["path"]] = [
                    int(query["status"]), int(query["times"]), query.get("retry_after"), query.get("rejected"),
                ]
        self.answer(200)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path.startswith("/stall"):
            forever.wait()
        scripted = scripted_answer(self.path)
        rejected = scripted[3] if scripted else None
        if scripted and not rejected:
            tell("refused", path=self.path, status=scripted[0], bytes=len(body))
            extra = [("retry-after", scripted[2])] if scripted[2] else []
            self.answer(scripted[0], headers=extra)
            return
        try:
            if self.path.startswith("/api/v1/"):
                agent(self.path, headers, body)
                self.answer(200, b'{"success":true}')
            elif self.path in OTLP:
                kind, form = OTLP[self.path]
                otlp(kind, form.FromString(body), headers)
                self.answer(200, taken(kind, rejected).SerializeToString(), [("content-type", "application/x-protobuf")])
            else:
                hook(self.path, headers, body)
                self.answer(200)
        except Exception as error:  # noqa: BLE001
            tell("broken", path=self.path, error=repr(error))
            self.answer(200)


class Exporter:
    def __init__(self, kind):
        self.kind = kind

    def Export(self, request, context):
        scripted = scripted_answer(f"grpc/{self.kind}")
        if scripted and not scripted[3]:
            tell("refused", path=f"grpc/{self.kind}", status=scripted[0])
            status = next(code for code in grpc.StatusCode if code.value[0] == scripted[0])
            context.abort(status, "as it was told to")
        otlp(self.kind, request, dict(context.invocation_metadata()))
        return taken(self.kind, scripted and scripted[3])


def main():
    http_port, grpc_port = int(sys.argv[1]), int(sys.argv[2])
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    traces_grpc.add_TraceServiceServicer_to_server(Exporter("traces"), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(Exporter("metrics"), server)
    logs_grpc.add_LogsServiceServicer_to_server(Exporter("logs"), server)
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    if len(sys.argv) > 3:
        certificate, key = (open(path, "rb").read() for path in sys.argv[4:6])
        server.add_secure_port(f"127.0.0.1:{sys.argv[3]}", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    http.server.ThreadingHTTPServer.daemon_threads = True
    http.server.ThreadingHTTPServer(("127.0.0.1", http_port), Handler).serve_forever()


main()

#!/usr/bin/env python3
"""The application of the demo: answers every request with what it received. Standard library only."""
import argparse
import http.server
import json
import socketserver


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.read_chunks() if self.is_chunked() else self.rfile.read(int(self.headers.get("content-length") or 0))
        status = 404 if self.path.startswith("/missing") else 200
        payload = json.dumps(
            {"you": "reached the application", "method": self.command, "path": self.path, "body_bytes": len(body)}
        ).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def is_chunked(self):
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=10080)
    Server(("127.0.0.1", parser.parse_args().port), Echo).serve_forever()

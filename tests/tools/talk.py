"""Servers and clients that the tests do not write by hand: gRPC (C-core) and WebSocket.

    talk.py serve GRPC_PORT WEBSOCKET_PORT    until it is killed
    talk.py ask PORT                          one JSON question a line in, one JSON answer a line out

The gRPC service answers every path by its last part; a message is a protobuf with one text, field 1.
"""

import concurrent.futures
import json
import queue
import sys
import threading

import grpc
import websockets.exceptions
import websockets.sync.client
import websockets.sync.server

# Seconds after which a call counts as hung.
PATIENCE = 30
# What the tests send as an attack.
HOSTILE = b"onerror"


def packed(text):
    data = text.encode()
    length, rest = bytearray(), len(data)
    while 0x7F < rest:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return b"\x0a" + bytes(length) + data


def unpacked(message):
    at = 1
    while message[at] & 0x80:
        at += 1
    return message[at + 1 :].decode()


class Talk(grpc.GenericRpcHandler):
    """Echoes, in each of the four shapes of a call."""

    def __init__(self):
        self.hostile = 0

    def see(self, message):
        self.hostile += HOSTILE in message
        return message

    def stream(self, messages):
        for message in messages:
            yield self.see(message)

    def service(self, details):
        shape = details.method.rsplit("/", 1)[-1]
        if shape == "Unary":
            return grpc.unary_unary_rpc_method_handler(lambda message, _: self.see(message))
        if shape == "Gather":
            joined = lambda messages, _: packed("|".join(unpacked(one) for one in self.stream(messages)))
            return grpc.stream_unary_rpc_method_handler(joined)
        if shape == "Count":
            count = lambda message, _: (packed(f"{number} {unpacked(self.see(message))}") for number in range(3))
            return grpc.unary_stream_rpc_method_handler(count)
        if shape == "Talk":
            return grpc.stream_stream_rpc_method_handler(lambda messages, _: self.stream(messages))
        if shape == "Hostile":
            return grpc.unary_unary_rpc_method_handler(lambda *_: packed(str(self.hostile)))
        return None


def greet(socket):
    """Speaks first, then echoes."""
    socket.send("welcome")
    for message in socket:
        socket.send(message)


def serve(grpc_port, websocket_port):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), handlers=[Talk()])
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    with websockets.sync.server.serve(greet, "127.0.0.1", websocket_port) as sockets:
        print("ready", flush=True)
        sockets.serve_forever()


def called(channel, question):
    """The texts that came back, however the call ended."""
    path, texts = question["path"], question["texts"]
    metadata = list(question.get("metadata", {}).items())
    options = {"metadata": metadata, "timeout": PATIENCE}
    messages = [packed(text) for text in texts]
    shape = path.rsplit("/", 1)[-1]
    if shape in ("Unary", "Hostile"):
        return [unpacked(channel.unary_unary(path)(messages[0], **options))], None
    if shape == "Gather":
        return [unpacked(channel.stream_unary(path)(iter(messages), **options))], None
    got = []
    try:
        if shape == "Count":
            for message in channel.unary_stream(path)(messages[0], **options):
                got.append(unpacked(message))
            return got, None
        waiting = queue.SimpleQueue()
        answers = channel.stream_stream(path)(iter(waiting.get, None), **options)
        for message in messages:
            # The next one is said after the last one was answered.
            waiting.put(message)
            got.append(unpacked(next(answers)))
        waiting.put(None)
        got.extend(unpacked(message) for message in answers)
        return got, None
    except grpc.RpcError as error:
        return got, error


def socket(port, question):
    try:
        with websockets.sync.client.connect(
            f"ws://127.0.0.1:{port}{question['path']}",
            additional_headers=question.get("metadata", {}),
            open_timeout=PATIENCE,
            proxy=None,
        ) as open_socket:
            got = [open_socket.recv(PATIENCE)]
            for text in question["texts"]:
                open_socket.send(text)
                got.append(open_socket.recv(PATIENCE))
            return {"code": 101, "message": "", "texts": got}
    except websockets.exceptions.InvalidStatus as error:
        body = error.response.body
        return {"code": error.response.status_code, "message": (body or b"").decode(), "texts": []}


def answered(port, channel, question):
    if question.get("websocket"):
        return socket(port, question)
    try:
        texts, error = called(channel, question)
    except grpc.RpcError as raised:
        texts, error = [], raised
    if error is None:
        return {"code": 0, "message": "", "texts": texts}
    return {"code": error.code().value[0], "message": error.details(), "texts": texts}


def ask(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for line in sys.stdin:
            print(json.dumps(answered(port, channel, json.loads(line))), flush=True)


if __name__ == "__main__":
    threading.stack_size(1 << 20)
    what, *ports = sys.argv[1:]
    {"serve": serve, "ask": ask}[what](*map(int, ports))

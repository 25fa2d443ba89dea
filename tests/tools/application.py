"""An application that embeds guard-core the way its users do, with fastapi-guard's middleware and decorators.

One JSON request a line in, one JSON answer a line out: {"ip": ..., "path": ..., "headers": {...}} gives {"status": ...}.
The application runs inside this process; no port is opened, and every request may come from another address.

usage: application.py REDIS_URL PREFIX [SETTINGS]

SETTINGS is JSON: fields of SecurityConfig, and "decorated": false for an application without rules of its own routes.
"""

import asyncio
import json
import sys

import httpx
from fastapi import FastAPI, Response
from guard import SecurityConfig, SecurityDecorator, SecurityMiddleware

LIMIT = {"threshold": 3, "window": 600}


def login():
    return {"signed": "in"}


def missing(status: int):
    return Response(status_code=status)


def anything(path: str):
    return {"path": path}


def build(url, prefix, settings):
    decorated = settings.pop("decorated", True)
    fields = {"redis_url": url, "redis_prefix": prefix, "enable_redis": True, "rate_limit": 100000, "log_request_level": None}
    config = SecurityConfig(**{**fields, **settings})
    app = FastAPI()
    app.add_middleware(SecurityMiddleware, config=config)
    handlers = {"login": login, "missing": missing}
    if decorated:
        guard = SecurityDecorator(config)
        app.state.guard_decorator = guard
        usage = guard.usage_monitor(max_calls=LIMIT["threshold"], window=LIMIT["window"], action="ban")
        returns = guard.return_monitor("status:404", LIMIT["threshold"], window=LIMIT["window"], action="ban")
        handlers = {"login": usage(login), "missing": returns(missing)}
    app.add_api_route("/login", handlers["login"])
    app.add_api_route("/status/{status}", handlers["missing"])
    app.add_api_route("/{path:path}", anything, methods=["GET", "POST"])
    return app


async def main(url, prefix, settings):
    app = build(url, prefix, json.loads(settings))
    print(json.dumps("ready"), flush=True)
    loop = asyncio.get_running_loop()
    # In a thread: what the application does in the background goes on while it waits for requests.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        transport = httpx.ASGITransport(app=app, client=(request["ip"], 40000))
        async with httpx.AsyncClient(transport=transport, base_url="http://example.com") as client:
            method, headers = request.get("method", "GET"), request.get("headers", {})
            answer = await client.request(method, request["path"], headers=headers, content=request.get("body"))
        print(json.dumps({"status": answer.status_code, "body": answer.text}), flush=True)


asyncio.run(main(*(sys.argv[1:] + ["{}"])[:3]))

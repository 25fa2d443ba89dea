"""A guard-core participant on the same Redis: one JSON command a line in, one JSON answer a line out.

usage: participant.py REDIS_URL PREFIX
"""

import asyncio
import json
import pathlib
import sys
from types import SimpleNamespace

from guard_core.handlers.behavior_handler import BehaviorRule, BehaviorTracker
from guard_core.handlers import dynamic_rule_handler, ipinfo_handler
from guard_core.handlers.cloud_ip_stores import RedisCloudIpStore
from guard_core.handlers.ipban_handler import ip_ban_manager
from guard_core.handlers.ratelimit_handler import RateLimitManager
from guard_core.handlers.redis_handler import RedisManager
from guard_core.handlers.suspatterns_handler import sus_patterns_handler
from guard_core.models import SecurityConfig


async def refuse(status, body):
    return SimpleNamespace(status_code=status, body=body, headers={})


async def rules_of(config, redis, act):
    manager = dynamic_rule_handler.DynamicRuleManager(config)
    manager.redis_handler = redis
    return await act(manager)


class Download:
    """Stands for the HTTP client of the country database: answers with a file."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *_, **__):
        return self

    def get(self, *_, **__):
        return self

    def raise_for_status(self):
        if self.path is None:
            raise OSError("nothing may be downloaded")

    async def read(self):
        return pathlib.Path(self.path).read_bytes()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    def __await__(self):
        yield from ()
        return self


async def geo(redis, folder, served):
    """A manager of the country database, new to this process; it may download the file `served`, or nothing."""
    path = pathlib.Path(folder) / "country_asn.mmdb"
    ipinfo_handler.IPInfoManager._instance = None
    manager = ipinfo_handler.IPInfoManager(token="interop-token", db_path=path, max_age=86400)
    ipinfo_handler.aiohttp = SimpleNamespace(ClientSession=Download(served), ClientTimeout=lambda **_: None, ClientError=OSError)
    await manager.initialize_redis(redis)
    await manager.initialize()
    return True if served else manager


async def answer(parts, command):
    config, redis, limits, behavior, cloud = parts
    match command["op"]:
        case "ban":
            return await ip_ban_manager.ban_ip(command["ip"], command["seconds"], "interop")
        case "is_banned":
            return await ip_ban_manager.is_ip_banned(command["ip"])
        case "unban":
            return await ip_ban_manager.unban_ip(command["ip"])
        case "hit":
            request = SimpleNamespace(
                url_path=command.get("path") or "/", method="GET", headers={}, client_host=command["ip"],
                url_full="http://example.com/", state=SimpleNamespace(),
            )
            refused = await limits.check_rate_limit(
                request, command["ip"], refuse, endpoint_path=command.get("path") or "",
                rate_limit=command["limit"], rate_limit_window=command["window"],
            )
            return refused is None
        case "hits":
            passed = [0] * len(command["ips"])

            async def some(start):
                for place in range(start, len(passed), 100):
                    for _ in range(command["times"]):
                        hit = {**command, "op": "hit", "ip": command["ips"][place]}
                        passed[place] += await answer(parts, hit)

            await asyncio.gather(*(some(start) for start in range(100)))
            return passed
        case "rules_write":
            rules = dynamic_rule_handler.DynamicRules(**command["rules"])
            return await rules_of(config, redis, lambda manager: manager._persist_last_known_rules(rules))
        case "rules_read":
            rules = await rules_of(config, redis, lambda manager: manager._load_last_known_rules())
            return None if rules is None else rules.model_dump(mode="json")
        case "usage":
            rule = BehaviorRule(rule_type="usage", threshold=command["threshold"], window=command["window"])
            return await behavior.track_endpoint_usage(command["endpoint"], command["ip"], rule)
        case "returned":
            pattern = f"status:{command['status']}"
            rule = BehaviorRule(
                rule_type="return_pattern", threshold=command["threshold"], window=command["window"], pattern=pattern
            )
            response = SimpleNamespace(status_code=command["status"], body=b"", headers={})
            return await behavior.track_return_pattern(command["endpoint"], command["ip"], response, rule)
        case "cloud_set":
            return await cloud.set(command["provider"], set(command["ranges"]), command.get("ttl"))
        case "cloud_get":
            found = await cloud.get(command["provider"])
            return None if found is None else sorted(found)
        case "geo_fetch":
            return await geo(redis, command["folder"], command["served"])
        case "geo_country":
            found = await geo(redis, command["folder"], None)
            return found.get_country(command["ip"]) if found.is_initialized else None
        case "pattern_add":
            return await sus_patterns_handler.add_pattern(command["pattern"], custom=True)
        case "patterns":
            return sorted(await sus_patterns_handler.get_custom_patterns())


async def main(url, prefix):
    config = SecurityConfig(redis_url=url, redis_prefix=prefix, enable_redis=True)
    redis = RedisManager(config)
    await redis.initialize()
    limits, behavior = RateLimitManager(config), BehaviorTracker(config)
    for part in (ip_ban_manager, limits, behavior, sus_patterns_handler):
        await part.initialize_redis(redis)
    parts = (config, redis, limits, behavior, RedisCloudIpStore(redis))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        try:
            result = await answer(parts, json.loads(line))
        except Exception as error:  # the orchestrator judges it
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2]))

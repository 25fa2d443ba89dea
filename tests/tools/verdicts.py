"""Reads tests/data/verdicts: values with the verdict they must get, as requests. See the README there."""

import json
import pathlib
from urllib.parse import quote

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data" / "verdicts"
SIGNS = str.maketrans({"␊": "\n", "␍": "\r", "␉": "\t", "␀": "\0"})
PLAIN = {"host": "www.example.com", "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}


def request(place, value):
    """A request with `value` in `place`."""
    place, _, name = place.partition(":")
    get = {"method": "GET", "path": "/search", "headers": dict(PLAIN)}
    post = lambda kind, body: {"method": "POST", "path": "/items", "headers": {**PLAIN, "content-type": kind}, "body": body}
    match place:
        case "query":
            return {**get, "path": f"/search?{quote(name or 'q', safe='[]$')}={quote(value, safe='')}"}
        case "path":
            return {**get, "path": value}
        case "cookie":
            return {**get, "headers": {**PLAIN, "cookie": f"theme=dark; seen={quote(value, safe='')}"}}
        case "header":
            return {**get, "headers": {**PLAIN, name: value}}
        case "form":
            form = f"page=2&{quote(name or 'text', safe='[]$')}={quote(value, safe='')}"
            return post("application/x-www-form-urlencoded", form)
        case "json":
            return post("application/json", json.dumps({"page": 2, "text": value}))
        case "body":
            return post(name, value)
    raise SystemExit(f"verdicts: no such place: {place}")


def cases():
    """Every value in every place: verdict, category, place, value, the remark above its list, request."""
    for path in sorted(FOLDER.glob("*.txt")):
        verdict, places, remark = None, [], ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("== "):
                _, verdict, *places = line.split()
            elif line.startswith("## "):
                remark = line[3:]
            elif line.strip():
                value = line.translate(SIGNS)
                for place in places:
                    yield {"verdict": verdict, "category": path.stem, "place": place, "value": line, "remark": remark,
                           **request(place, value)}


if __name__ == "__main__":
    for number, case in enumerate(cases()):
        print(json.dumps({"id": str(number), **case}))

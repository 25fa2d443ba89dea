"""How good the verdicts are: replays labelled requests and prints score tables.

    quality.py GUARD [--corpora FOLDER] [--out target/quality.json] [--no-roc] [--set KEY=VALUE ...]

FOLDER holds JSON-lines files. Each line is a request as `envoy-guard replay` takes it, and labels: "label" (malicious or
benign) and, where known, "source", "category", "tier". Headline figures are of the tier "core", the default; other tiers are
reported apart. A file called evasion.jsonl is printed row by row. Categories that begin with real_, api_ or accesslog_ are
recorded traffic. This repository's own examples (tests/data/verdicts) are always scored: each transform of its table of
evasions beside its benign twin. It ends with a list of the targets and fails when one is missed; a line that cannot be read
ends it with the file and the number of the line.
"""

import argparse
import base64
import collections
import gzip
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.parse

import verdicts

HERE = pathlib.Path(__file__).resolve().parent.parent
RECORDED = ("real_", "api_", "accesslog_")
# Sources smaller than this say nothing by themselves; categories smaller than this are not held to the target.
SOURCE_MIN, CATEGORY_MIN = 20, 25
TARGETS = [  # key, words, comparison, bound
    ("tpr", "attacks blocked", ">=", 97.0),
    ("fpr", "benign blocked", "<=", 0.5),
    ("fpr_recorded", "recorded traffic blocked", "<=", 0.15),
    ("balanced", "balanced", ">=", 98.2),
    ("macro_balanced", "balanced, mean over sources", ">=", 97.0),
    ("fpr_hard", "hard tier, benign blocked", "<=", 15.0),
    ("tpr_lowest", "lowest category", ">=", 90.0),
]
# The thresholds of the engine, from the loosest to the strictest: a semantic score above the first one convicts, and so does
# a sum of row weights (each row of ours weighs 1) that reaches the second. Each step blocks what the next one blocks, and more.
SEMANTIC, SCORE = "security.detection_semantic_threshold", "security.detection_threat_score_threshold"
DEFAULT = (0.7, 1)
CURVE = [(semantic, 1) for semantic in (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6)] + [DEFAULT]
CURVE += [(semantic, 1) for semantic in (0.8, 0.9)] + [(0.9, score) for score in (2, 3, 4, 5, 6)]


def fail(words):
    raise SystemExit(f"quality: {words}")


class Cell:
    """So many of so many were blocked."""

    def __init__(self, rows=()):
        self.blocked, self.total = sum(row["blocked"] for row in rows), len(rows)

    @property
    def rate(self):
        return 100 * self.blocked / self.total if self.total else None

    def interval(self):
        """Wilson's interval, 95 %."""
        z, n = 1.96, self.total
        if not n:
            return None
        share = self.blocked / n
        middle = (share + z * z / 2 / n) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n) / (1 + z * z / n)
        return [round(100 * (middle - half), 2), round(100 * (middle + half), 2)]

    def json(self):
        return {"blocked": self.blocked, "total": self.total, "rate": rounded(self.rate), "interval": self.interval()}

    def __str__(self):
        return "" if self.rate is None else f"{self.rate:6.2f} %  {self.blocked}/{self.total}"


def rounded(number):
    return None if number is None else round(number, 3)


def balance(tpr, fpr):
    return None if tpr is None or fpr is None else (tpr + 100 - fpr) / 2


def replay(guard, lines, settings, where):
    """The verdicts of `lines`, by position. `where` names the place of each line."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        command = [guard, "replay", "--detection-only", *(f"--set={one}" for one in settings), file.name]
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if answer.returncode:
        words = answer.stderr.strip().splitlines()[-1:] or ["no reason given"]
        # The service counts requests; people look for lines.
        found = re.search(r"request (\d+): (.*)", answer.stderr)
        fail(f"{where[int(found[1]) - 1]}: {found[2]}" if found else f"{guard} replay: {words[0]}")
    verdicts = [json.loads(line) for line in answer.stdout.splitlines()]
    if len(verdicts) != len(lines):
        fail(f"{len(lines)} requests, {len(verdicts)} verdicts")
    return verdicts


def content_type(entry):
    """The header of that name, when headers are an object."""
    headers = entry.get("headers")
    fields = headers.items() if isinstance(headers, dict) else ()
    return next((value for name, value in fields if name.lower() == "content-type"), "")


class Requests:
    """Labelled requests: labels, lines as the service reads them, and where each stands."""

    def __init__(self):
        self.labels, self.lines, self.where = [], [], []

    def add(self, entry, where, stem):
        """Takes one; fails when it is none."""
        if not isinstance(entry, dict):
            fail(f"{where}: is no JSON object")
        if entry.get("label") not in ("malicious", "benign"):
            fail(f"{where}: label must be malicious or benign")
        if not isinstance(entry.get("path"), str):
            fail(f"{where}: path is missing, or no text")
        self.labels.append({
            "id": str(entry.get("id", where)),
            "hostile": entry["label"] == "malicious",
            "source": str(entry.get("source", stem)),
            "category": str(entry.get("category", "-")),
            "tier": str(entry.get("tier", "core")),
            "enc": str(entry.get("enc", "") or "-"),
            "content type": str(entry.get("content_type") or content_type(entry) or "-").split(";")[0],
        })
        self.lines.append(json.dumps(entry) + "\n")
        self.where.append(where)


def read(path):
    """The requests of one file."""
    requests = Requests()
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            fail(f"{path}:{number}: {error}")
        requests.add(entry, f"{path}:{number}", path.stem)
    if not requests.lines:
        fail(f"{path}: holds no requests")
    return requests


def coded(number):
    """The transforms of whole bodies: what is sent for a text."""
    text = "text/plain; charset="
    form = "application/x-www-form-urlencoded"
    match number:
        case 36:
            head = 'Content-Disposition: form-data;\r\n name="a"; filename*=utf-8\'\'a.txt\r\n\r\n'
            part = lambda value: f"--X7\r\n{head}{value}\r\n--X7--\r\n".encode()
            return [("multipart/form-data; boundary=X7; boundary=Y8", "", part)]
        case 37:
            return [(form, "gzip", lambda value: gzip.compress(f"id={urllib.parse.quote(value)}".encode()))]
        case 38:
            bare = lambda name: lambda value: value.encode(name)
            shifted = lambda value: value.replace("'", "+ACc-").replace("=", "+AD0-").encode()
            return [(text + "ibm037", "", bare("cp037")), (text + "utf-16le", "", bare("utf-16-le")), (text + "utf-7", "", shifted)]
        case 41:
            return [("application/json", "", lambda value: json.dumps({"filler": "lorem ipsum " * 12000, "id": value}).encode())]


def own():
    """The requests of this repository's lists: all of them, and the table of evasions, each under its transform."""
    every, evasions = Requests(), Requests()
    for case in verdicts.cases():
        where = f"{case['category']}.txt, {case['place']}: {case['value']}"
        labels = {"label": "benign" if case["verdict"] == "benign" else "malicious", "source": "own", "enc": case["place"]}
        every.add({**case, **labels, "tier": "missed" if case["verdict"] == "missed" else "core"}, where, "own")
        if case["category"] == "evasion":
            evasions.add({**case, **labels, "category": case["remark"]}, where, "own")
    for number, name in ((36, "multipart tricks"), (37, "gzip"), (38, "charsets"), (41, "padding")):
        for value, label in (("4' or '4'='4", "malicious"), ("it is 4 or 5", "benign")):
            for kind, coding, code in coded(number):
                headers = {"Content-Type": kind, **({"Content-Encoding": coding} if coding else {})}
                body = base64.b64encode(code(value)).decode()
                entry = {"method": "POST", "path": "/items", "headers": headers, "body_b64": body, "label": label}
                evasions.add({**entry, "category": f"{number} {name}"}, f"transform {number}", "evasion")
    return every, evasions


def groups(rows, key):
    found = collections.defaultdict(list)
    for row in rows:
        found[row[key]].append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def macro(rows):
    """Mean rate over the sources: every source weighs the same, so that one long list cannot carry the score."""
    rates = [Cell(group).rate for group in groups(rows, "source").values() if SOURCE_MIN <= len(group)]
    return sum(rates) / len(rates) if rates else None


def figures(rows):
    """The headline of one set of judged rows."""
    core = [row for row in rows if row["tier"] == "core"]
    hostile = [row for row in core if row["hostile"]]
    benign = [row for row in core if not row["hostile"]]
    hard = [row for row in rows if row["tier"] == "hard" and not row["hostile"]]
    recorded = [row for row in benign if row["category"].startswith(RECORDED)]
    lowest = [Cell(group).rate for group in groups(hostile, "category").values() if CATEGORY_MIN <= len(group)]
    tpr, fpr = Cell(hostile).rate, Cell(benign).rate
    return {
        "tpr": tpr,
        "fpr": fpr,
        "fpr_recorded": Cell(recorded).rate,
        "balanced": balance(tpr, fpr),
        "macro_balanced": balance(macro(hostile), macro(benign)),
        "fpr_hard": Cell(hard).rate,
        "tpr_lowest": min(lowest, default=None),
    }


def meets(value, comparison, bound):
    return bound <= value if comparison == ">=" else value <= bound


def print_headline(values):
    for key, words, comparison, bound in TARGETS:
        if values[key] is None:
            continue
        verdict = "" if meets(values[key], comparison, bound) else "   MISSED"
        print(f"  {words:32} {values[key]:7.3f} %   target {comparison} {bound} %{verdict}")


def print_summary(result):
    """Every target of every file, and whether it is met; true when all are."""
    print("\n== targets")
    missed = 0
    for name, scores in result.items():
        checks = []
        if "evasion" in scores:
            wrong = [key for key, row in scores["evasion"].items() if row["wrong"]]
            total = len(scores["evasion"])
            checks.append((f"evasions right, of {total}", total - len(wrong), "", ">=", total))
        if "twins" in scores:
            total = len(scores["twins"])
            right = sum(row["right"] for row in scores["twins"].values())
            checks.append((f"blocked and twin passed, of {total}", right, "", ">=", total))
        for key, words, comparison, bound in TARGETS:
            value = scores.get("figures", {}).get(key)
            if value is not None:
                checks.append((words, value, " %", comparison, bound))
        for words, value, unit, comparison, bound in checks:
            good = meets(value, comparison, bound)
            missed += not good
            print(f"  {'pass' if good else 'FAIL'}  {name:16} {words:32} {value:8}{unit} {comparison} {bound}{unit}")
    print(f"  {'all targets are met' if not missed else f'{missed} targets are missed'}")
    return not missed


def print_groups(rows, key):
    """One table; returns it as data."""
    print(f"\n  by {key:36} attacks blocked        benign blocked")
    table = {}
    for name, group in groups(rows, key).items():
        hostile, benign = Cell([r for r in group if r["hostile"]]), Cell([r for r in group if not r["hostile"]])
        print(f"    {name[:36]:37} {hostile!s:22} {benign!s}")
        table[name] = {"malicious": hostile.json(), "benign": benign.json()}
    return table


def print_evasion(rows):
    passed = [row for row in rows if row["blocked"] != row["hostile"]]
    print(f"  right: {len(rows) - len(passed)} of {len(rows)}")
    for row in rows:
        words = "blocked" if row["blocked"] else "passed "
        print(f"    {row['id']:8} {words} {'' if row['blocked'] == row['hostile'] else 'WRONG '}{row['category']}")
    return {row["id"]: {"transform": row["category"], "blocked": row["blocked"], "wrong": row["blocked"] != row["hostile"],
                        "rows": row["rows"]} for row in rows}


def print_twins(rows):
    """The transforms of our own table: what it hides is found, and what looks like it passes."""
    print("    transform                                    attack blocked  twin passed")
    table = {}
    for name, group in sorted(groups(rows, "category").items()):
        hostile, benign = [r for r in group if r["hostile"]], [r for r in group if not r["hostile"]]
        found, passed = sum(r["blocked"] for r in hostile), sum(not r["blocked"] for r in benign)
        right = bool(hostile and benign) and found == len(hostile) and passed == len(benign)
        print(f"    {name[:44]:44} {f'{found}/{len(hostile)}':>9} {f'{passed}/{len(benign)}':>14}{'' if right else '   WRONG'}")
        table[name] = {"attacks": len(hostile), "blocked": found, "twins": len(benign), "passed": passed, "right": right}
    return table


def print_costs(rows):
    costs = sorted(row["us"] for row in rows)
    at = lambda share: costs[min(len(costs) - 1, int(len(costs) * share))]
    found = {"p50": at(0.5), "p99": at(0.99), "mean": round(sum(costs) / len(costs), 1)}
    print(f"\n  engine time, us a request, both threads busy: p50 {found['p50']}, p99 {found['p99']}, mean {found['mean']}")
    return found


def judge(labels, verdicts):
    keep = ("blocked", "score", "us")
    return [
        {**label, **{key: verdict[key] for key in keep}, "rows": verdict.get("rows", [])}
        for label, verdict in zip(labels, verdicts)
    ]


def score(name, requests, arguments):
    """Scores one set of requests; returns what goes to the JSON."""
    print(f"\n== {name}: {len(requests.lines)} requests")
    rows = judge(requests.labels, replay(arguments.guard, requests.lines, arguments.set, requests.where))
    if name == OWN_EVASIONS:
        return {"twins": print_twins(rows)}
    if name == "evasion.jsonl":
        return {"evasion": print_evasion(rows)}
    values = figures(rows)
    print_headline(values)
    result = {"figures": {key: rounded(value) for key, value in values.items()}, "tiers": {}, "by": {}}
    for tier, group in groups(rows, "tier").items():
        hostile, benign = Cell([r for r in group if r["hostile"]]), Cell([r for r in group if not r["hostile"]])
        print(f"  tier {tier:10} attacks blocked {hostile!s:22} benign blocked {benign!s}")
        result["tiers"][tier] = {"malicious": hostile.json(), "benign": benign.json()}
    core = [row for row in rows if row["tier"] == "core"]
    for key in ("source", "category", "enc", "content type"):
        result["by"][key] = print_groups(core, key)
    result["us"] = print_costs(rows)
    result["wrong"] = [
        {key: row[key] for key in ("id", "source", "category", "tier", "rows")}
        for row in rows if row["blocked"] != row["hostile"]
    ]
    if not arguments.no_roc and name != OWN:
        result["roc"] = print_curve(requests, arguments, rows)
    return result


def print_curve(requests, arguments, default):
    """The score under every threshold of CURVE, the area under the curve, and the point where the mean of attacks blocked
    and benign passed is highest."""
    points = []
    for semantic, weight in CURVE:
        settings = arguments.set + [f"{SEMANTIC}={semantic}", f"{SCORE}={weight}"]
        if (semantic, weight) == DEFAULT:
            rows = default
        else:
            rows = judge(requests.labels, replay(arguments.guard, requests.lines, settings, requests.where))
        values = {key: rounded(value) for key, value in figures(rows).items()}
        points.append({"semantic": semantic, "score": weight, "default": (semantic, weight) == DEFAULT, **values})
    best = max((point["balanced"] or 0 for point in points), default=0)
    print("\n  ROC    semantic  score   attacks blocked   benign blocked  recorded      hard   balanced")
    for point in points:
        point["best"] = point["balanced"] == best
        marks = [words for key, words in (("default", "the default"), ("best", "the balanced point")) if point[key]]
        shown = (point[key] for key in ("tpr", "fpr", "fpr_recorded", "fpr_hard", "balanced"))
        tpr, fpr, recorded, hard, balanced = ("-" if value is None else f"{value:.2f} %" for value in shown)
        print(f"    {'above':>7} {point['semantic']:5}  >= {point['score']:2}  {tpr:>15}  {fpr:>15} {recorded:>9} {hard:>9} {balanced:>10}"
              f"   {'<- ' if marks else ''}{', '.join(marks)}")
    area = area_under(points)
    if area is not None:
        print(f"    area under the curve {area:.4f}")
    return {"points": points, "area": area}


def area_under(points):
    """The share of the square below the curve through the points and its corners, from 0 to 1."""
    if any(point["tpr"] is None or point["fpr"] is None for point in points):
        return None
    places = sorted({(0.0, 0.0), (100.0, 100.0)} | {(point["fpr"], point["tpr"]) for point in points})
    steps = zip(places, places[1:])
    return round(sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in steps) / 10000, 5)


# Names under which this repository's own requests are scored.
OWN, OWN_EVASIONS = "our own lists", "our own evasions"


def gather(folder):
    """Every set of requests, all read before the first is replayed."""
    every, evasions = own()
    sets = {OWN: every, OWN_EVASIONS: evasions}
    if not folder:
        print("quality: no folder with labelled requests (CORPORA=folder); scoring our own lists only", file=sys.stderr)
        return sets
    if not pathlib.Path(folder).is_dir():
        fail(f"{folder}: is no folder")
    files = sorted(pathlib.Path(folder).glob("*.jsonl"))
    if not files:
        fail(f"{folder}: holds no .jsonl file")
    return sets | {path.name: read(path) for path in files}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guard", help="the envoy-guard binary")
    parser.add_argument("--corpora", default="", help="folder with labelled requests")
    parser.add_argument("--out", default="target/quality.json", type=pathlib.Path)
    parser.add_argument("--no-roc", action="store_true", help="only the default thresholds")
    parser.add_argument("--set", action="append", default=[], help="a setting for every replay")
    arguments = parser.parse_args()
    result = {name: score(name, requests, arguments) for name, requests in gather(arguments.corpora).items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    passed = print_summary(result)
    print(f"\nwritten: {arguments.out}")
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

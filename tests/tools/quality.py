"""How good the verdicts are: replays labelled requests and prints score tables.

    quality.py GUARD [--corpora FOLDER] [--out target/quality.json] [--no-roc] [--set KEY=VALUE ...]

FOLDER holds JSON-lines files. Each line is a request as `envoy-guard replay` takes it, and labels: "label" (malicious or
benign) and, where known, "source", "category", "tier". Headline figures are of the tier "core", the default; other tiers are
reported apart. It ends with a list of the targets and fails when one is missed. A file called evasion.jsonl is printed row by row. Categories that begin with real_, api_ or accesslog_ are
recorded traffic. Without a folder only this repository's own examples (tests/data/verdicts) are scored.
"""

import argparse
import collections
import json
import math
import pathlib
import subprocess
import sys
import tempfile

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
# Setting by setting, the points of the curve. The first is the default.
CURVE = [
    ("default", []),
    *((f"threat score {n}", [f"security.detection_threat_score_threshold={n}"]) for n in (2, 3, 4)),
    *((f"semantic {n}", [f"security.detection_semantic_threshold={n}"]) for n in (0, 0.4, 0.5, 0.6, 0.8)),
    ("profile guard_core", ["detection.profile=guard_core"]),
]


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


def replay(guard, lines, settings):
    """The verdicts of `lines`, by position."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(lines)
        file.flush()
        command = [guard, "replay", "--detection-only", *(f"--set={one}" for one in settings), file.name]
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    verdicts = [json.loads(line) for line in answer.stdout.splitlines()]
    if len(verdicts) != len(lines):
        raise SystemExit(f"quality: {len(lines)} requests, {len(verdicts)} verdicts")
    return verdicts


def read(path):
    """Labels and request lines of one file."""
    labels, lines = [], []
    for number, line in enumerate(path.open(encoding="utf-8"), 1):
        if not line.strip():
            continue
        entry = json.loads(line)
        if entry.get("label") not in ("malicious", "benign"):
            raise SystemExit(f"quality: {path}:{number}: label must be malicious or benign")
        labels.append({
            "id": str(entry.get("id", number)),
            "hostile": entry["label"] == "malicious",
            "source": str(entry.get("source", path.stem)),
            "category": str(entry.get("category", "-")),
            "tier": str(entry.get("tier", "core")),
            "enc": str(entry.get("enc", "") or "-"),
            "content type": str(entry.get("content_type") or "-").split(";")[0],
        })
        lines.append(line if line.endswith("\n") else line + "\n")
    return labels, lines


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


def score(path, arguments):
    """Scores one file; returns what goes to the JSON."""
    labels, lines = read(path)
    print(f"\n== {path.name}: {len(lines)} requests")
    rows = judge(labels, replay(arguments.guard, lines, arguments.set))
    if path.stem == "evasion":
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
    if not arguments.no_roc:
        result["roc"] = print_curve(labels, lines, arguments, rows)
    return result


def print_curve(labels, lines, arguments, default):
    """The score under other thresholds; the last column is the one number to compare points by."""
    print("\n  ROC                        attacks blocked   benign blocked   recorded   hard    balanced")
    points = []
    for name, settings in CURVE:
        rows = default if not settings else judge(labels, replay(arguments.guard, lines, arguments.set + settings))
        values = figures(rows)
        shown = [values[key] for key in ("tpr", "fpr", "fpr_recorded", "fpr_hard", "balanced")]
        cells = ["      -" if value is None else f"{value:7.2f}" for value in shown]
        print(f"    {name:22} {cells[0]} %         {cells[1]} %        {cells[2]} % {cells[3]} % {cells[4]} %")
        points.append({"point": name, "settings": settings, **{key: rounded(value) for key, value in values.items()}})
    return points


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guard", help="the envoy-guard binary")
    parser.add_argument("--corpora", default="", help="folder with labelled requests")
    parser.add_argument("--out", default="target/quality.json", type=pathlib.Path)
    parser.add_argument("--no-roc", action="store_true", help="only the default thresholds")
    parser.add_argument("--set", action="append", default=[], help="a setting for every replay")
    arguments = parser.parse_args()
    files = sorted((HERE / "data" / "verdicts").glob("*.jsonl"))
    if arguments.corpora:
        files += sorted(pathlib.Path(arguments.corpora).glob("*.jsonl"))
    else:
        print("quality: no folder with labelled requests (CORPORA=folder); scoring our own examples only", file=sys.stderr)
    result = {path.name: score(path, arguments) for path in files}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    passed = print_summary(result)
    print(f"\nwritten: {arguments.out}")
    if not passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

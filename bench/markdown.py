#!/usr/bin/env python3
"""The tables of docs/benchmarks.md, from what `make bench` wrote: bench/markdown.py build/bench.json"""
import json
import sys


def shown(name, value):
    """A value with its unit, as "1.23 ms"."""
    if value is None:
        return "–"
    if name.endswith("[s]"):
        for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= scale:
                return f"{value / scale:.3g} {unit}"
        return f"{value * 1e9:.3g} ns"
    unit = name[name.rfind("[") + 1 : -1] if name.endswith("]") else ""
    return f"{value:.3g} {unit}".strip()


def plain(name):
    return name[: name.rfind(" [")] if name.endswith("]") else name


def main(path):
    with open(path) as file:
        run = json.load(file)
    for key, value in run.items():
        if key != "rows":
            print(f"- {key}: {value}")
    sections = {}
    for row in run["rows"]:
        if not row["name"].startswith("  "):  # the single products of a block
            sections.setdefault(row["section"], []).append(row)
    for section, rows in sections.items():
        columns = list(dict.fromkeys(name for row in rows for name in row["values"]))
        print(f"\n### {section}\n")
        print("| " + " | ".join(["work", *map(plain, columns), "bounds"]) + " |")
        print("|---" * (len(columns) + 2) + "|")
        for row in rows:
            bounds = []
            for c in row["checks"]:
                sign, bound = ("≥", c["at_least"]) if "at_least" in c else ("≤", c["at_most"])
                value = "–" if c["value"] is None else f"{c['value']:.3g}"
                bounds.append(f"{'' if c['pass'] else '**missed** '}{c['what']} {value} ({sign} {bound:.4g})")
            cells = [shown(n, row["values"].get(n)) if n in row["values"] else "" for n in columns]
            print("| " + " | ".join([row["name"], *cells, "; ".join(bounds)]) + " |")


if __name__ == "__main__":
    main(sys.argv[1])

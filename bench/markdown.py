#!/usr/bin/env python3
"""The part "Results" of docs/benchmarks.md, from what `make bench` wrote:

    bench/markdown.py build/bench.json                              prints it
    bench/markdown.py --into docs/benchmarks.md build/bench.json    puts it there, from the first "## Results" to the end

Several files make one part: rows of a later file take the place of rows of the same section in an earlier one, so that
a section that was disturbed can be run again by itself. Sections of another commit than the first file's say so."""
import contextlib
import io
import json
import sys

NOT_FACTS = ("rows", "seconds")


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
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def plain(name):
    return name[: name.rfind(" [")] if name.endswith("]") else name


def shown_bound(check):
    sign, bound = ("≥", check["at_least"]) if "at_least" in check else ("≤", check["at_most"])
    value = "–" if check["value"] is None else f"{check['value']:.4g}"
    state = "" if check["pass"] else "missed, by hand, too: " if check.get("out_of_reach") else "**missed** "
    by_hand = f"; by hand {check['by_hand']:.4g}" if check.get("by_hand") is not None else ""
    return f"{state}{check['what']} {value} ({sign} {bound:.4g}{by_hand})"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def read(paths):
    """Facts of the first run, and the sections in order: name -> (rows, seconds, commit)."""
    facts, sections = {}, {}
    for path in paths:
        with open(path) as file:
            run = json.load(file)
        facts = facts or {key: value for key, value in run.items() if key not in NOT_FACTS}
        of_run = {}
        for row in run["rows"]:
            of_run.setdefault(row["section"], []).append(row)
        for name, rows in of_run.items():
            sections[name] = (rows, run.get("seconds", {}).get(name), run.get("commit"))
    return facts, sections


def summary(sections):
    print("\n### Bounds\n")
    lines = []
    for name, (rows, seconds, _) in sections.items():
        checks = [c for row in rows for c in row["checks"]]
        met, far = sum(c["pass"] for c in checks), sum(c.get("out_of_reach", False) for c in checks)
        lines.append([f"`{name}`", str(met), str(far), str(len(checks) - met - far),
                      "" if seconds is None else f"{seconds:.0f} s"])
    totals = [str(sum(int(line[i]) for line in lines)) for i in (1, 2, 3)]
    table(["section", "met", "missed, by hand, too", "missed", "took"], [*lines, ["all", *totals, ""]])
    misses = [[f"`{name}`", row["name"], shown_bound(c)]
              for name, (rows, _, _) in sections.items() for row in rows for c in row["checks"] if not c["pass"]]
    if misses:
        print("\nMissed:\n")
        table(["section", "work", "bound"], misses)


def details(name, rows, commit, usual_commit):
    print(f"\n### {name}\n")
    if commit != usual_commit:
        print(f"Commit {commit}.\n")
    rows = [row for row in rows if not row["name"].startswith("  ")]  # the single products of a block
    columns = list(dict.fromkeys(name for row in rows for name in row["values"]))
    table(["work", *map(plain, columns), "bounds"],
          [[row["name"], *(shown(c, row["values"][c]) if c in row["values"] else "" for c in columns),
            "; ".join(map(shown_bound, row["checks"]))] for row in rows])
    disturbed = [row["name"] for row in rows if any("other processes took" in note for note in row["notes"])]
    if disturbed:
        print(f"\nDisturbed by other processes: {', '.join(disturbed)}.")
    for note in dict.fromkeys(n for row in rows for n in row["notes"] if " failed: " in n):
        print(f"\n{note}.")


def results(paths):
    facts, sections = read(paths)
    print("## Results\n")
    for key, value in facts.items():
        print(f"- {key}: {value}")
    if limits := sections.get("limits"):
        ceilings = (f"{row['name']} {plain(c)} {shown(c, v)}" for row in limits[0] for c, v in row["values"].items()
                    if "rate" in c)
        print(f"- ceilings: {'; '.join(ceilings)}")
    summary(sections)
    for name, (rows, _, commit) in sections.items():
        details(name, rows, commit, facts.get("commit"))


def main(arguments):
    if arguments[0] != "--into":
        results(arguments)
        return
    page, text = arguments[1], io.StringIO()
    with contextlib.redirect_stdout(text):
        results(arguments[2:])
    with open(page, encoding="utf-8") as file:
        before = file.read().split("\n## Results", 1)[0]
    with open(page, "w", encoding="utf-8") as file:
        file.write(f"{before}\n{text.getvalue()}")


if __name__ == "__main__":
    main(sys.argv[1:])

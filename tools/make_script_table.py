#!/usr/bin/env python3
"""Writes src/io/tokenizer/script_data.inc: which characters the reference's UnicodeScripts keeps together.

    tools/make_script_table.py [output]        needs: pip install tokenizers

Its scripts follow a version of Unicode of their own, so they are asked of the pre-tokenizer itself, for all scalar
values: two characters are of one script if it does not part them, and a character of no script is parted from none.
"""
import sys

from tokenizers.pre_tokenizers import UnicodeScripts

ALL = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
PARTS = UnicodeScripts().pre_tokenize_str


def parted(a, b):
    return len(PARTS(a + b)) > 1


def scripts():
    """A number for each scalar value, 0 for none; numbers in the order of first appearance."""
    first = ["a", "\u03b1"]  # two that are parted: who is parted from neither is of no script
    assert parted(*first)
    number, last = {}, 0
    for c in ALL:
        if not parted(first[0], c) and not parted(first[1], c):
            number[c] = 0
            continue
        if last == 0 or parted(first[last - 1], c):
            last = next((i + 1 for i, f in enumerate(first) if not parted(f, c)), 0)
            if last == 0:
                first.append(c)
                last = len(first)
        number[c] = last
    return number, len(first)


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else "src/io/tokenizer/script_data.inc"
    number, count = scripts()
    ranges, before = [], None
    for c in ALL:
        if number[c] != before:
            ranges.append(f"{{0x{ord(c):X}, {number[c]}}}")
            before = number[c]
    with open(output, "w") as f:
        f.write(f"// Written by tools/make_script_table.py. {count} scripts; each range goes up to the next.\n")
        line = ""
        for r in ranges:
            if len(line) + len(r) + 2 > 118:
                f.write(line.rstrip() + "\n")
                line = ""
            line += r + ", "
        f.write(line.rstrip(", ") + "\n")
    print(f"{len(ranges)} ranges, {count} scripts")


if __name__ == "__main__":
    main()

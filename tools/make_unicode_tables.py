#!/usr/bin/env python3
"""Writes src/io/tokenizer/unicode_data.inc: what the reference tokenizer thinks of each Unicode scalar value.

    tools/make_unicode_tables.py [output]        needs: pip install tokenizers regex

The reference's parts follow different versions of Unicode (its regular expressions 16, its normal forms 9, its
punctuation 8 ...), so no single version of the character database gives the same ids. Each property is therefore asked
of the part that uses it, for all 1,112,064 scalar values. Combining classes never change between versions, so they come
from Python's database, for the characters that the reference reorders. What the regular expression library at hand may
be too old to know (`kLateRanges`) is what Python's database does not know either.
"""
import sys
import unicodedata

import regex
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

ALL = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
TEXT = "".join(ALL)
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co").split()


def removed(pre_tokenizer):
    """The characters that a pre-tokenizer which drops its delimiters drops."""
    kept = bytearray(len(TEXT))
    for _, (a, b) in pre_tokenizer.pre_tokenize_str(TEXT):
        kept[a:b] = b"\1" * (b - a)
    return {c for c, k in zip(ALL, kept) if not k}


def matches(pattern):
    return removed(pre_tokenizers.Split(Regex(pattern), "removed"))


def changed(normalizer):
    f = normalizer.normalize_str
    return {c: f(c) for c in ALL if f(c) != c}


def bert(**on):
    options = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return normalizers.BertNormalizer(**(options | on))


def isolated(pre_tokenizer):
    """Characters that are split from an 'a' on both sides."""
    return {c for c in ALL if len(pre_tokenizer.pre_tokenize_str("a" + c + "a")) == 3}


def combining_classes(nfd):
    """Class of each character that the reference moves across a mark of another class."""
    out = {}
    for c in ALL:
        k = unicodedata.combining(c)
        if not k:
            continue
        low, high = "\u0334", "\u0345"  # classes 1 and 240
        moves = nfd(high + c) == c + high if k < 240 else nfd(c + low) == low + c
        if moves:
            out[c] = k
    return out


def compositions(nfc, canonical, classes):
    """Pairs that compose, and to what."""
    pairs = {}
    for c in ALL:
        d = unicodedata.decomposition(c)
        if not d or d.startswith("<"):
            continue
        parts = [chr(int(x, 16)) for x in d.split()]
        if len(parts) == 2 and c in canonical and nfc("".join(parts)) == c:
            pairs[parts[0], parts[1]] = c
    return pairs


def grapheme(name):
    found = regex.findall(r"\p{GCB=%s}" % name, TEXT)
    return set(found)


def runs(value):
    """(first code point, value) wherever the value changes; surrogates take the value before them."""
    out, last = [], None
    for c in ALL:
        v = value(c)
        if v != last:
            out.append((ord(c), v))
            last = v
    return out


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "src/io/tokenizer/unicode_data.inc"
    nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
    canonical, compatible = changed(normalizers.NFD()), changed(normalizers.NFKD())
    hangul = {c for c in ALL if 0xAC00 <= ord(c) < 0xAC00 + 11172}
    classes = combining_classes(nfd)
    pairs = compositions(nfc, canonical, classes)
    jamo = {chr(i) for i in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    backward = {b for _, b in pairs} | set(classes) | jamo
    lower = changed(normalizers.Lowercase())
    punctuation = isolated(pre_tokenizers.Punctuation("isolated"))
    word = {c for c in ALL if len(pre_tokenizers.Whitespace().pre_tokenize_str("a" + c)) == 1 and
            pre_tokenizers.Whitespace().pre_tokenize_str("a" + c)[0][0] == "a" + c}
    cleaned = changed(bert(clean_text=True))
    extend = grapheme("Extend") | grapheme("ZWJ") | grapheme("SpacingMark")
    control = grapheme("Control") | grapheme("CR") | grapheme("LF")

    # In the order of the bits in unicode.h.
    sets = [
        matches(r"\p{L}"), matches(r"\p{N}"), matches(r"\s"),
        removed(pre_tokenizers.WhitespaceSplit()),
        {c for c in ALL if c in isolated_numbers()},
        punctuation,
        {c for c, to in cleaned.items() if to == ""},
        {c for c in changed(bert(strip_accents=True)) if nfd(c) == c},
        set(changed(normalizers.StripAccents())),
        word,
        set(canonical) | set(classes),
        set(compatible) | set(classes),
        set(changed(normalizers.NFC())) | backward,
        set(changed(normalizers.NFKC())) | backward,
        set(lower),
        extend, grapheme("Prepend"), control, set(regex.findall(r"\p{Extended_Pictographic}", TEXT)),
    ]
    flags = {}
    for bit, members in enumerate(sets):
        for c in members:
            flags[c] = flags.get(c, 0) | 1 << bit

    category = {}
    for name in CATEGORIES:
        for c in matches(r"\p{%s}" % name):
            category[c] = name
    late = runs(lambda c: category.get(c, "Cn") if unicodedata.category(c) == "Cn" else "Cn")
    moved = [c for c in ALL if unicodedata.category(c) not in ("Cn", category.get(c, "Cn"))]

    with open(path, "w", encoding="ascii") as out:
        def numbers(items):
            line = ""
            for item in items:
                if len(line) + len(item) > 118:
                    out.write(line.rstrip() + "\n")
                    line = ""
                line += item + " "
            out.write(line.rstrip() + "\n")

        def table(head, items):
            out.write(head + " = {\n")
            numbers(items)
            out.write("};\n")

        def mapping(name, items):
            """Pairs (code point, length << 24 | start in the pool), and the pool."""
            pool, index = [], []
            for c, to in sorted(items.items()):
                index.append(f"{{{ord(c):#x}, {len(to) << 24 | len(pool):#x}}},")
                pool += [ord(x) for x in to]
            table(f"constexpr Mapped k{name}[]", index)
            table(f"constexpr char32_t k{name}Pool[]", [f"{p:#x}," for p in pool])

        out.write("// Written by tools/make_unicode_tables.py with tokenizers "
                  f"{tokenizers.__version__}; not to be edited.\n")
        table("constexpr Run kFlagRuns[]", [f"{{{a:#x}, {v:#x}}}," for a, v in runs(lambda c: flags.get(c, 0))])
        table("constexpr Run kClassRuns[]", [f"{{{a:#x}, {v}}}," for a, v in runs(lambda c: classes.get(c, 0))])
        mapping("Canonical", {c: d for c, d in canonical.items() if c not in hangul})
        mapping("Compatible", {c: d for c, d in compatible.items() if c not in hangul and canonical.get(c) != d})
        mapping("Lower", lower)
        table("constexpr Pair kPairs[]", [f"{{{ord(a):#x}, {ord(b):#x}, {ord(c):#x}}},"
                                          for (a, b), c in sorted(pairs.items())])
        ends = [a for a, _ in late[1:]] + [0x110000]
        table("constexpr LateRange kLateRanges[]", [f"{{{a:#x}, {e - 1:#x}, \"{v}\"}},"
                                                    for (a, v), e in zip(late, ends) if v != "Cn"])
    print(f"{path}: {len(canonical)} canonical, {len(pairs)} pairs; changed category since Unicode "
          f"{unicodedata.unidata_version}: {[hex(ord(c)) for c in moved]}")


def isolated_numbers():
    if not hasattr(isolated_numbers, "found"):
        isolated_numbers.found = isolated(pre_tokenizers.Digits(individual_digits=True))
    return isolated_numbers.found


if __name__ == "__main__":
    main()

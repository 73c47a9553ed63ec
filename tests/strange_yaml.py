"""YAML that must be refused, each with what the refusal names: pairs of a name and a builder of its bytes."""

from collections.abc import Callable

Builder = Callable[[], bytes]


def _merge_bomb() -> bytes:
    lines = ["a0: &a0 {x0: 0}"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}")
    return "\n".join(lines).encode()


def _laughs() -> bytes:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines).encode()


# name, bytes, a part of the reason, its line
REFUSED: list[tuple[str, Builder, str, int]] = [
    ("merge keys of aliases", _merge_bomb, "anchor", 1),
    ("aliases of aliases", _laughs, "anchor", 1),
    ("an anchor alone", lambda: b"schema: 1\nname: &n x\n", "anchor", 2),
    ("an alias of nothing", lambda: b"name: *n\n", "alias", 1),
    ("a merge key alone", lambda: b"name: x\n<<: {cores: 4}\n", "merge key", 2),
    ("a tag of a boolean", lambda: b"name: x\nreduce_range: !!bool foo\n", "tag", 2),
    ("a tag of Python", lambda: b"name: !!python/object/apply:os.system ['true']\n", "tag", 1),
    ("a tag of its own", lambda: b"name: !x y\n", "tag", 1),
    ("the tag of no kind", lambda: b"name: ! y\n", "tag", 1),
    ("a tagged list", lambda: b"isa: !!set {a, b}\n", "tag", 1),
    ("a directive", lambda: b"%YAML 1.1\n---\nname: x\n", "directive", 1),
    ("a key twice", lambda: b"cores: 1\nname: x\ncores: 4\n", "'cores'", 3),
    ("a key twice, below", lambda: b"a:\n  b: 1\n  b: 2\n", "'b'", 3),
    ("a list for a key", lambda: b"? [a, b]\n: 1\n", "a key", 1),
    ("a thousand brackets", lambda: b"a: " + b"[" * 1000, "deeper", 1),
    ("a thousand braces", lambda: b"a: " + b"{a: " * 1000, "deeper", 1),
    ("a thousand indents", lambda: b"\n".join(b" " * n + b"a:" for n in range(300)), "deeper", 33),
    ("a thousand dashes", lambda: b"- " * 1000 + b"a", "deeper", 1),
    ("two documents", lambda: b"a: 1\n---\na: 2\n", "second document", 2),
    ("half a quote", lambda: b"a: 1\nb: 'x\n", "end of stream", 3),
    ("a tab for an indent", lambda: b"a:\n\tb: 1\n", "cannot start", 2),
    ("no UTF-8", lambda: b"a: 1\nb: \xff\n", "0xff", 2),
    ("UTF-16", lambda: "a: 1\n".encode("utf-16"), "UTF-8", 1),
    ("a control character", lambda: b"a: 1\nb: \x1b[31m\n", "\\x1b", 2),
    ("a NUL", lambda: b"a: \x00\n", "\\x00", 1),
    ("an escape of no character", lambda: b'a: "\\UFFFFFFFF"\n', "", 1),
    ("megabytes", lambda: b"a: " + b"x" * (1 << 20), "bytes", 1),
]

# what YAML would make a number, a date or worse of, and is text here
TEXTS: list[tuple[str, str]] = [
    ("a huge hex number", "0x" + "f" * 5000),
    ("a huge number", "9" * 5000),
    ("a hex number", "0x1F"),
    ("octal", "017"),
    ("sexagesimal", "190:20:30"),
    ("a date", "2001-12-14"),
    ("a month too many", "2001-13-14"),
    ("infinity", ".inf"),
    ("no number", ".nan"),
    ("beyond floats", "1.0e+999"),
    ("a long float", "1." + "0" * 5000),
    ("other digits", "\u0663"),
    ("underscores", "1_000"),
    ("a bare exponent", "1e5"),
    ("an equals sign", "="),
]

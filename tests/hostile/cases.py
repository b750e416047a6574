"""Tables of hostile input: command lines with the files that they read. Every one has to be answered by a sentence."""

import io
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS = "1" * 4000
NESTED = "[" * 5000 + "]" * 5000
#: A problem that is read in full is refused here, so that nothing is computed.
READ = ["--plot", "figure.xyz"]


class Case(NamedTuple):
    """A command line, what it reads, whether its sentence has to be about that, not about ``--plot``.

    What may be ``answered`` need not be refused, and has a minute to be compiled.
    """

    name: str
    argv: list[str]
    files: dict[str, bytes | Callable[[Path], None]] = {}  # noqa: RUF012
    refused: bool = True
    answered: bool = False

    def prepare(self, folder: Path) -> None:
        """Write the files."""
        for name, content in self.files.items():
            if callable(content):
                content(folder / name)
            else:
                (folder / name).write_bytes(content)


NUMBERS = {
    "teacher.value": "constant", "start.std": "", "noise.std": "", "weights.bits": "", "weights.range": "",
    "weights.latent_clip": "", "inputs.bits": "", "inputs.range": "", "rule.lr": "", "rule.batch": "",
    "rule.weight_decay": "", "run.tau": "", "run.points": "",
}  # fmt: skip
VALUES = {
    "nan": "nan", "inf": "inf", "minus-inf": "-inf", "minus-one": "-1", "text": '"text"', "list": "[1, 2]",
    "table": "{a = 1}", "true": "true", "large": "1e300", "digits": DIGITS, "date": "1979-05-27",
    "nested": NESTED, "control": '"\\u001b[31m\\u0007"', "megabyte": '"' + "x" * 10**6 + '"',
}  # fmt: skip


def numbers() -> Iterator[Case]:
    """Every number of a problem, in a file and by ``--set``, against values that it cannot have."""
    for key in NUMBERS:
        for label, value in VALUES.items():
            if (key, label) == ("teacher.value", "minus-one"):
                continue  # which is a teacher like any other
            table, name = key.split(".")
            text = f"[{table}]\n{name} = {value}\n".encode()
            yield Case(f"file-{key}-{label}", ["predict", "a.toml", *READ], {"a.toml": text})
            if len(value) < 10**5:  # a longer argument is refused by the system
                yield Case(f"set-{key}-{label}", ["predict", "--set", f"{key}={value}", *READ])


def files() -> Iterator[Case]:
    """Problem files that are no TOML, or no files; and valid ones with bytes changed at random."""
    broken = {
        "empty-name": b"= 1", "nul": b"a\0 = 1", "utf16": "[run]\ntau = 1".encode("utf-16"), "open": b"[run",
        "twice": b"[run]\n[run]\n", "random": random.Random(1).randbytes(4096), "nested": f"a = {NESTED}".encode(),
        "inline": b"a = " + b"{a = " * 3000, "dots": b"a" + b".a" * 10**4 + b" = 1", "string": b'a = "' + b"x" * 10**6,
        "table": b"run = 1", "unknown": b"[\x1b]\n", "long-key": b"x" * 10**6 + b" = 1", "bare": b"\xff\xfe\xfd",
    }  # fmt: skip
    for name, content in broken.items():
        yield Case(f"toml-{name}", ["predict", "a.toml", *READ], {"a.toml": content})
    special: dict[str, Callable[[Path], None]] = {
        "folder": lambda path: path.mkdir(), "pipe": lambda path: os.mkfifo(path),
        "loop": lambda path: path.symlink_to(path), "device": lambda path: path.symlink_to("/dev/zero"),
        "nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
    }  # fmt: skip
    for ending in ("toml", "npy", "npz", "csv", "safetensors"):
        for name, make in special.items():
            yield Case(f"{ending}-{name}", reading(f"a.{ending}"), {f"a.{ending}": make})
    for length in (248, 255, 256, 5000):
        for ending in ("toml", "npy", "npz"):
            yield Case(f"{ending}-name-of-{length}", reading("n" * (length - 4) + "." + ending))
    valid = b'[teacher]\nkind = "gaussian"\nstd = 1.0\n[weights]\nbits = 2\nrange = 2.0\n[run]\ntau = 10.0\npoints = 5\n'
    rng = random.Random(2)
    for k in range(60):
        changed = bytearray(valid)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        yield Case(f"toml-changed-{k}", ["predict", "a.toml", *READ], {"a.toml": bytes(changed)}, False)


def reading(name: str) -> list[str]:
    """The command line that reads a problem file, or a tensor file as the teacher."""
    if name.endswith(".toml"):
        return ["predict", name, *READ]
    values = {"kind": "file", "path": name, "normalise": "none"}
    return ["predict", *(f"--set=teacher.{key}={json.dumps(value)}" for key, value in values.items()), *READ]


def _npy(array, **given) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **given)
    return buffer.getvalue()


def _header(text: str) -> bytes:
    """A ``.npy`` file of version 2 with this header and no numbers."""
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text.encode()


def _zip(members: dict[str, bytes], compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _changed(archive: bytes, offset: int, value: int) -> bytes:
    """An archive with two bytes of its local and its central header set: flags (6) or compression (8)."""
    content, central = bytearray(archive), archive.index(b"PK\x01\x02")
    content[offset : offset + 2] = content[central + offset + 2 : central + offset + 4] = value.to_bytes(
        2, "little"
    )
    return bytes(content)


def _safetensors(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode()


def tensors() -> Iterator[Case]:
    """Tensor files that are damaged, that lie about their size, or that carry code."""
    whole = {"npy": _npy(np.arange(50.0)), "npz": _zip({"a.npy": _npy(np.arange(50.0))}),
             "safetensors": _safetensors('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}') + bytes(8)}  # fmt: skip
    rng = random.Random(3)
    for ending, content in whole.items():
        for cut in sorted({0, 1, 5, 8, 9, 10, 60, len(content) // 2, len(content) - 1}):
            if cut < len(content):
                yield Case(f"{ending}-cut-{cut}", reading(f"a.{ending}"), {f"a.{ending}": content[:cut]})
        yield Case(f"{ending}-random", reading(f"a.{ending}"), {f"a.{ending}": rng.randbytes(5000)})
        for k in range(15):
            changed = bytearray(content)
            for _ in range(rng.randint(1, 3)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            yield Case(
                f"{ending}-changed-{k}", reading(f"a.{ending}"), {f"a.{ending}": bytes(changed)}, False
            )
    header = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}\n"
    npy = {
        "huge": _header(header.format("'<f8'", "(1000000000000000,)")), "digits": _header(header.format("'<f8'", f"({DIGITS},)")),
        "huge-2d": _header(header.format("'<f8'", "(4294967296, 4294967296)")), "negative": _header(header.format("'<f8'", "(-5,)")),
        "nested": _header("(" * 5000 + ")" * 5000), "object": _npy(np.array([{}], dtype=object), allow_pickle=True),
        "code": _header("__import__('os').system('touch executed')"), "text": _npy(np.array(["a"])),
        "complex": _npy(np.ones(5) * 1j), "empty": _npy(np.zeros(0)), "nan": _npy(np.full(5, np.nan)), "scalar": _npy(np.array(1.0)),
        "large": _npy(np.full(5, 1e300)), "long-header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "date": _npy(np.array(["2020"], "M8[D]")),
    }  # fmt: skip
    zipped = {
        "bomb": _zip({"a.npy": _npy(np.zeros(5 * 10**7))}), "encrypted": _changed(whole["npz"], 6, 1), "odd": _changed(whole["npz"], 8, 97),
        "none": _zip({}), "no-array": _zip({"a": b"text"}), "control": _zip({"\x1b[2J.npy": b"text"}), "nested": _zip({"a.npy": whole["npz"]}),
        **{name: _zip({"a.npy": content}) for name, content in npy.items()},
    }  # fmt: skip
    for ending, table in (("npy", npy), ("npz", zipped)):
        for name, content in table.items():
            yield Case(f"{ending}-{name}", reading(f"a.{ending}"), {f"a.{ending}": content})
    entry = '"a":{"dtype":"F32","shape":%s,"data_offsets":[0,%s]}'
    names = {
        "huge": "{" + entry % ("[4611686018427387904]", 8) + "}", "digits": "{" + entry % (f"[{DIGITS}]", 8) + "}",
        "nested": NESTED, "none": "{}", "list": "[]", "negative": "{" + entry % ("[-1]", 8) + "}", "offset": "{" + entry % ("[2]", 10**15) + "}",
    }  # fmt: skip
    for name, text in names.items():
        yield Case(f"safetensors-{name}", reading("a.safetensors"), {"a.safetensors": _safetensors(text)})
    yield Case("safetensors-length", reading("a.safetensors"), {"a.safetensors": b"\xff" * 8 + b"{}"})
    cells = {
        "text": b"a,b\n", "ragged": b"1,2\n3\n", "empty": b"", "digits": DIGITS.encode(), "nul": b"\0\0\0", "table": b"1,2\n3,4\n",
        "megabytes": b"x" * 10**7, "nan": b"nan\n1\n", "nested": NESTED.encode(), "binary": random.Random(4).randbytes(5000), "control": b"\x1b[31m1\n",
    }  # fmt: skip
    for name, content in cells.items():
        yield Case(f"csv-{name}", reading("a.csv"), {"a.csv": content}, name != "table")


COMMANDS = ("predict", "simulate", "compare", "fixed-point", "plateaus", "choose")


def flags() -> Iterator[Case]:
    """Flags that do not exist, lack their value, or name what cannot be."""
    wrong = [["--bits"], ["--lr", "x"], ["--tau", "nan"], ["--points", "1e3"], ["--nothing"], ["--set", "x"], ["--set", "a.b=1"],
             ["--set", "run.tau="], ["--kind", "\x1b[2J"], ["--lr", DIGITS], ["nowhere.toml"], ["a", "b", "c"], ["--out", "/dev/null/x"],
             ["--set", f"run.tau={NESTED}"], ["--lr", "--lr"], ["--tau", "-1"]]  # fmt: skip
    for command in COMMANDS:
        for k, words in enumerate(wrong):
            yield Case(f"flags-{command}-{k}", [command, *words])
    large = [["--seeds", "100000"], ["--tau", "1e9"], ["--dim", "536870912"], ["--dim", "1000000000000"], ["--seeds", DIGITS],
             ["--seeds", "100000000"], ["--dim", "0"], ["--devices", "99"], ["--split", "none"], ["--every", "1"], ["--seed", "4294967296"],
             ["--checkpoint", "."], ["--checkpoint", "/nowhere/a"], ["--checkpoint", "n" * 300], ["--checkpoint", "/dev/zero"]]  # fmt: skip
    for k, words in enumerate(large):
        yield Case(f"large-simulate-{k}", ["simulate", "--dim", "2000", *words])
    for k, words in enumerate(
        (
            ["--points", "1000000", "--kind", "none"],
            ["--points", "1000000"],
            ["--tol", "0"],
            ["--law", "x"],
            ["--tol", "nan"],
        )
    ):
        yield Case(f"large-predict-{k}", ["predict", *words])
    yield Case("no-command", ["nothing"])


def phases() -> Iterator[Case]:
    """Phases that are none, that cannot follow, or that change what a run has once."""
    weights = "[phase.weights]\nbits = 2\nrange = 1.0\n"
    texts = {
        "number": "phase = 1\n", "table": "[phase]\nfrom = 1\n", "list": "phase = [1]\n", "empty": "[[phase]]\n", "alone": "[[phase]]\nfrom = 1\n",
        "no-from": f"[[phase]]\n{weights}", "unknown": "[[phase]]\nfrom = 1\nteacher = {value = 2}\n", "eta": "[[phase]]\nfrom = 1\nrule = {eta = 1}\n",
        "text": f'[[phase]]\nfrom = "x"\n{weights}', "nan": f"[[phase]]\nfrom = nan\n{weights}", "zero": f"[[phase]]\nfrom = 0\n{weights}",
        "late": f"[[phase]]\nfrom = 1e9\n{weights}", "twice": 2 * f"[[phase]]\nfrom = 1\n{weights}", "digits": f"[[phase]]\nfrom = {DIGITS}\n{weights}",
        "weights": "[[phase]]\nfrom = 1\nweights = 3\n", "ste": '[[phase]]\nfrom = 1\nweights = {ste = "clipped"}\n',
        "law": '[[phase]]\nfrom = 1\ninputs = {law = "relu"}\n', "momentum": "[[phase]]\nfrom = 1\nrule = {momentum = 0.5}\n",
        "rule": '[[phase]]\nfrom = 1\nrule = {kind = "stochastic-rounding", delta = 0.1}\n', "large": "[[phase]]\nfrom = 1\nrule = {lr = 1e300}\n",
        "channels": f"[channels]\nteacher = [1.0, 2.0]\n[[phase]]\nfrom = 1\n{weights}", "nested": f"[[phase]]\nfrom = {NESTED}\n",
    }  # fmt: skip
    for name, text in texts.items():
        yield Case(f"phase-{name}", ["predict", "a.toml", *READ], {"a.toml": text.encode()})
    for name, text in {
        "none": 'kind = "none"',
        "no-range": "bits = 2",
        "ste": 'bits = 2\nrange = 1.0\nste = "clipped"',
        "nan": "bits = 2\nrange = nan",
    }.items():
        yield Case(f"ptq-{name}", ["predict", "a.toml", *READ], {"a.toml": f"[ptq]\n{text}\n".encode()})
    good = {"a.toml": f"[[phase]]\nfrom = 1\n{weights}".encode()}
    for command in (
        ["plateaus"],
        ["choose", "--bits", "2"],
        ["predict", "--law", "fluid"],
        ["predict", "--tau", "0.5"],
    ):
        yield Case(f"phase-for-{'-'.join(command)}", [*command, "a.toml"], good)


def sweeps() -> Iterator[Case]:
    """Tables of sweeps."""
    tables = {
        "empty": b"", "header": b"rule.lr\n", "unknown": b"eta\n1\n", "wide": b",".join([b"rule.lr"] * 10**5) + b"\n", "text": b"rule.lr\nx\n",
        "digits": f"rule.lr\n{DIGITS}\n".encode(), "nested": f'rule.lr\n"{NESTED}"\n'.encode(), "megabytes": b"rule.lr\n" + b"x" * 10**7,
        "binary": random.Random(5).randbytes(4096), "nul": b"rule.lr\n\0\n", "ragged": b"rule.lr\n1,2,3\n4\n", "control": b"\x1b[2J\n1\n",
        "quote": b'rule.lr\n"1', "what": b"what\nnothing\n", "seeds": b"what,seeds\nsimulate,-1\n", "dim": b"what,dim\nsimulate,1e99\n",
        "large": b"rule.lr\n1e300\n", "long-name": b"x" * 10**6 + b"\n1\n",
    }  # fmt: skip
    for name, content in tables.items():
        yield Case(f"sweep-{name}", ["sweep", "t.csv", "--out", "o"], {"t.csv": content})
    yield Case("sweep-pipe", ["sweep", "t.csv", "--out", "o"], {"t.csv": lambda path: os.mkfifo(path)})
    yield Case(
        "sweep-scheduler", ["sweep", "t.csv", "--out", "o", "--scheduler", "x"], {"t.csv": b"rule.lr\n1\n"}
    )


def checkpoints() -> Iterator[Case]:
    """Files that are no checkpoints, or damaged ones."""
    archive = _zip({"header.npy": _npy(np.array("{}"))})
    first = b"stedyn checkpoint 3\n"
    contents = {
        "empty": b"",
        "text": b"text",
        "first": first,
        "old": b"stedyn checkpoint 1\n",
        "digest": first + b"0" * 64 + b"\n" + archive,
    }
    rng = random.Random(6)
    contents |= {f"random-{k}": first + rng.randbytes(rng.randint(1, 5000)) for k in range(20)}
    for name, content in contents.items():
        yield Case(
            f"checkpoint-{name}", ["simulate", "--dim", "50", "--checkpoint", "a.ckpt"], {"a.ckpt": content}
        )


def extremes() -> Iterator[Case]:
    """Magnitudes at which a law has to find its scale, whatever it answers."""
    assignments = {
        "inputs.range": (1e-30, 1e6, 1e14), "weights.range": (1e-30, 1e-14, 1e14), "rule.lr": (1e-30, 1e6, 1e14),
        "noise.std": (1e-300, 1e7, 1e15), "start.std": (1e-300, 1e10, 1e15), "teacher.value": (1e-300, 1e14),
        "rule.weight_decay": (1e-30, 1e6, 1e15), "run.tau": (1e-30, 1e9, 1e15), "weights.latent_clip": (1e-30, 1e15),
    }  # fmt: skip
    for command in ("predict", "fixed-point"):
        for key, values in assignments.items():
            for value in values:
                argv = [command, "--points", "5", "--set", f"{key}={value}"]
                yield Case(f"extreme-{command}-{key}-{value}", argv, answered=True)
    for words in (["--lr", "1e14"], ["--input-range", "1e6"], ["--noise-std", "1e14"], ["--tau", "1e-30"]):
        yield Case(
            "extreme-choose-" + "-".join(words),
            ["choose", "--bits", "2", "--scan", "5", *words],
            answered=True,
        )
        yield Case("extreme-none-" + "-".join(words), ["predict", "--kind", "none", *words], answered=True)
    ranges = ["plateaus", "--bits", "2", "--tau", "1", "--ranges", "1e-30,1e14"]
    yield Case("extreme-plateaus", ranges, answered=True)
    many = {"t.csv": b"run.tau,what,dim\n" + b"".join(b"1e9,simulate,%d\n" % d for d in range(2000, 2100))}
    yield Case("sweep-of-years", ["sweep", "t.csv", "--out", "o"], many)
    sides = {"t.csv": b"what,dim\nsimulate,500000000\nsimulate,400000000\n"}
    yield Case("sweep-of-memory", ["sweep", "t.csv", "--out", "o"], sides)


def ranges() -> Iterator[Case]:
    """Keys of a range that moves, against values and companions that they cannot have."""
    learned, lr = "range_rule = 'learned'", "range_lr = 1.0"
    tables = {
        "unknown": ["range_rule = 'max'"], "number": ["range_rule = 3"], "no-rate": [learned],
        "no-schedule": ["range_rule = 'schedule'"], "no-percentile": ["range_rule = 'percentile'"],
        "fixed-rate": [lr], "alien": [learned, lr, "range_factor = 2.0"], "clip": [learned, lr, "latent_clip = 2.0"],
        "range": ["range_rule = 'absmean'"], "estimator": [learned, lr, "range_estimator = 'ema'"],
        "word": ["range_rule = 'schedule'", "range_schedule = 'cosine'"],
        "empty": ["range_rule = 'schedule'", "range_schedule = {}"],
        "zero": ["range_rule = 'schedule'", "range_schedule = {kind = 'cosine', period = 5.0}"],
        **{f"lr-{label}": [learned, f"range_lr = {value}"] for label, value in VALUES.items()},
        **{f"decay-{label}": [learned, lr, f"range_decay = {value}"] for label, value in VALUES.items()},
        **{f"percentile-{label}": ["range_rule = 'percentile'", f"range_percentile = {value}"]
           for label, value in VALUES.items()},
    }  # fmt: skip
    for name, lines in tables.items():
        text = "\n".join(["[weights]", "bits = 2", "range = 2.0", *lines, ""]).encode()
        yield Case(f"moving-range-{name}", ["predict", "a.toml", *READ], {"a.toml": text})


def recipes() -> Iterator[Case]:
    """The flags and the file of ``stedyn convert``."""
    for flag in ("lr", "weight-decay", "momentum", "beta1", "beta2", "eps", "batch", "range", "steps"):
        for value in ("nan", "-1", "text", DIGITS):
            yield Case(f"convert-{flag}-{value[:5]}", ["convert", "--dim", "9", f"--{flag}", value])
    yield Case("convert-dim", ["convert", "--dim", "0"])
    yield Case("convert-no-dim", ["convert"])
    contents = {"empty": b"", "list": b"[]", "nested": NESTED.encode(), "none": b'{"param_groups": []}',
                "text": b'{"param_groups": [{"lr": "x"}]}', "betas": b'{"param_groups": [{"betas": [1]}]}',
                "bytes": b"\xff\xfe", "nan": b'{"param_groups": [{"lr": NaN}]}'}  # fmt: skip
    for name, content in contents.items():
        yield Case(f"convert-file-{name}", ["convert", "a.json", "--dim", "9"], {"a.json": content})


def formats() -> Iterator[Case]:
    """Named formats with keys, bits and companions that they cannot have."""
    tables = {
        "edge": "kind = 'nf4'\nrange = 1.0\nedge = 'level'", "bits": "kind = 'nf4'\nbits = 3\nrange = 1.0",
        "zero": "kind = 'int4'\nrange = 1.0\nzero_point = 3", "no-range": "kind = 'fp8-e4m3'",
        "levels": "kind = 'fp4-e2m1'\nrange = 1.0\nlevels = [0.0, 1.0]", "no-bits": "kind = 'power-of-two'\nrange = 1.0",
        "many": "kind = 'power-of-two'\nbits = 9\nrange = 1.0", "unknown": "kind = 'fp4'\nrange = 1.0",
    }  # fmt: skip
    for name, lines in tables.items():
        for table in ("weights", "inputs"):
            text = f"[{table}]\n{lines}\n".encode()
            yield Case(f"format-{table}-{name}", ["predict", "a.toml", *READ], {"a.toml": text})
    for name, argv in {
        "other-bits": ["--kinds", "nf4,fp8-e4m3", "--bits", "4"], "twice": ["--kinds", "nf4,nf4"],
        "unknown": ["--kinds", "fp4"], "none": ["--kinds", ","], "levels": ["--kinds", "levels"],
        "identity": ["--kinds", "none"],
    }.items():  # fmt: skip
        yield Case(f"kinds-{name}", ["choose", *argv])


CASES = [
    *formats(),
    *recipes(),
    *ranges(),
    *numbers(),
    *files(),
    *tensors(),
    *flags(),
    *phases(),
    *sweeps(),
    *checkpoints(),
    *extremes(),
]

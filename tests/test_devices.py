"""The same bits for every chunk, on every number of devices, and from several processes."""

import hashlib
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from systems import Remembering

from stedyn.problem.problem import Problem
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import SGD, Multinomial
from stedyn.simulation import layout, simulate

PROBLEMS = {
    "R1": Problem(weights=Quantizer(2, 2.0), inputs=Quantizer(2, 2.0), rule=SGD(0.1)),
    "floats": Problem(
        weights=Quantizer(3, 1.5, rounding="stochastic"), noise_std=0.3, rule=SGD(0.3, weight_decay=0.5)
    ),
    "memory": Problem(noise_std=0.1, rule=Remembering(0.3)),
}
#: d is odd; 1100 steps are more than the longest chunk and no multiple of any.
RUN = {"dim": 129, "seeds": 5, "seed": 4, "taus": [0.0, 3.0, 1100 / 129]}
CHUNKS = (1, 7, 1000)


def digest(ensemble):
    """A hash of every number of an ensemble."""
    names = ("steps", "error", "m", "q", "overlap", "norm", "saturated", "flip_rate", "occupancy", "weights",
             "teacher", "snapshots")  # fmt: skip
    parts = [getattr(ensemble, name) for name in names]
    return hashlib.sha256(b"".join(b"-" if part is None else part.tobytes() for part in parts)).hexdigest()


def child(program, *arguments, **environment):
    """Start a Python process with this program, in which ``test_devices`` can be imported."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    prologue = "import sys, json, re, jax; jax.config.update('jax_enable_x64', True)\n"
    command = [sys.executable, "-c", prologue + program, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path} | environment
    )


@pytest.mark.parametrize("name", ["R1", pytest.param("floats", marks=pytest.mark.slow), "memory"])
def test_chunks_do_not_change_a_bit(name):
    digests = {digest(simulate(PROBLEMS[name], **RUN, chunk=chunk)) for chunk in (*CHUNKS, None)}
    assert len(digests) == 1


FOUR = """
from test_devices import *
assert len(jax.devices()) == 4
used = []
if True:
    from stedyn.simulation import run
    place = run.Task.place
    def seen(self, *a):
        place(self, *a)
        used.append(len({group.keys.device for group in self.groups}))
    run.Task.place = seen
results = []
for name, arguments, devices, split in CASES:
    ensemble = simulate(PROBLEMS[name], **arguments, devices=devices, split=split)
    results.append([digest(ensemble), ensemble.weights[:, :100].tolist()])
from stedyn.simulation import kernel, layout, programs
from stedyn.simulation.model import model_of
from stedyn.simulation.state import encode
spread = layout.spread_over(tuple(jax.devices()), 129)
halves = spread.put(np.zeros((1, 129), np.float32))
program = programs.programs("cpu", spread).advance
words = np.uint32(0), np.uint32(0), np.int32(0)
model = model_of(PROBLEMS["R1"], 129)
state = encode(model, halves)
arguments = model, np.zeros(1, np.uint32), kernel.Fixed(halves, None, spread.index), state
text = program.lower(*arguments, *words).compile().as_text()
print(json.dumps([used, results, re.findall(r" (all-\\w+|collective-\\w+|reduce-scatter)(?:-start)?\\(", text)]))
"""
#: Widths of the halves: 72, below what is exchanged, and 20008, which is folded to 2501 and 313 first.
LARGE = {"dim": 40001, "seeds": 2, "taus": [0.0, 10 / 40001]}
CASES = [
    *[
        (name, RUN, devices, split)
        for name in PROBLEMS
        for devices in (None, 1, 3)
        for split in ("seeds", "weights")
    ],
    *[(name, LARGE, devices, "weights") for name in PROBLEMS for devices in (None, 1, 3)],
]


@pytest.mark.slow
def test_four_devices_give_the_bits_of_one():
    with child(FOUR, XLA_FLAGS="--xla_force_host_platform_device_count=4") as process:
        used, results, exchanges = json.loads(process.stdout.read())
    assert used[0] == 4  # devices of the groups
    found = {}
    for (name, arguments, _, split), (bits, weights) in zip(CASES, results, strict=True):
        expected = simulate(PROBLEMS[name], **arguments)
        key = name, arguments["dim"], split
        assert found.setdefault(key, digest(expected) if split == "seeds" else bits) == bits, key
        # spread weights: products may be rounded in another way, once a step
        np.testing.assert_allclose(weights, expected.weights[:, :100], rtol=0, atol=2e-6)
    assert len(exchanges) == 1, exchanges  # the loop is in the program once: one exchange a step


def test_a_layout_is_a_permutation():
    import jax

    values = np.random.default_rng(0).normal(size=(2, 40001)).astype(np.float32)
    spread = layout.Spread(40001, tuple(jax.devices()))
    np.testing.assert_array_equal(spread.whole(spread.put(values)), values)
    assert sorted(spread.index[spread.index < 2**32 - 1].tolist()) == list(range(20008))


def test_a_joint_rule_is_not_spread():
    problem = Problem(rule=Multinomial(zeta=0.1, nu=1.0))
    with pytest.raises(ValueError, match="split: expected 'seeds' for a rule that couples"):
        simulate(problem, dim=100, seeds=1, taus=[0.0], split="weights")
    with pytest.raises(ValueError, match="split: expected one of"):
        simulate(problem, dim=100, seeds=1, taus=[0.0], split="rows")


HOSTS = """
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_devices import *
small = {"snapshots": [0.5], "checkpoint": sys.argv[3]}
ensembles = [simulate(PROBLEMS["R1"], **RUN | extra) for extra in ({}, small, small)]
print(json.dumps([digest(ensemble) for ensemble in ensembles]))
"""


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [child(HOSTS, address, str(k), str(tmp_path / "a")) for k in range(2)]
    found = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    with_snapshots = digest(simulate(PROBLEMS["R1"], **RUN, snapshots=[0.5]))
    assert found == [[digest(simulate(PROBLEMS["R1"], **RUN)), with_snapshots, with_snapshots]] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.0-of-2", "a.1-of-2"]

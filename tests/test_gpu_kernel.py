"""The GPU kernel in Pallas' interpreter makes the runs of the CPU kernel; it can be translated for an H100."""

import contextlib
import functools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from systems import Remembering

from stedyn.problem.problem import Problem
from stedyn.quantizers.quantizer import Quantizer
from stedyn.rules import (
    SGD,
    Adam,
    DeterministicRounding,
    Inverse,
    Multinomial,
    QuantizedGradient,
    Rule,
    Shrinkage,
    Sign,
    StochasticRounding,
)
from stedyn.simulation import gpu, kernel, programs, sampler, simulate, trial
from stedyn.simulation.model import model_of
from stedyn.simulation.state import encode, latent

TWO_BIT = Quantizer(2, 2.0)
NOISY = {"noise_std": 0.3}
STREAMED = 0  # no pairs are held
KEYS = jnp.array([5, 2**32 - 1], jnp.uint32)
R1 = Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.3), **NOISY)
MANY = Problem(  # many of the features at once
    weights=Quantizer(3, 1.5, rounding="stochastic"),
    inputs=Quantizer(3, 2.0, kind="mid-tread", rounding="stochastic"),
    ste="clipped",
    latent_clip=1.2,
    rule=SGD(0.4, weight_decay=2.0, schedule=Inverse(0.2)),
    **NOISY,
)
LATTICE = Problem(inputs=TWO_BIT, rule=StochasticRounding(0.3, delta=0.5, weight_decay=3.0), **NOISY)
MEMORY = Problem(weights=Quantizer(2, 1.0), ste="clipped", rule=Remembering(0.5), **NOISY)
OTHERS = {
    "no quantizers": Problem(rule=SGD(0.3), **NOISY),
    "12 bits": Problem(weights=Quantizer(12, 1.5), inputs=TWO_BIT, rule=SGD(0.3), **NOISY),
    "8 bits": Problem(weights=Quantizer(8, 1.5), inputs=Quantizer(8, 2.5), rule=SGD(0.3), **NOISY),
    "sign weights": Problem(weights=Quantizer(kind="sign", range=0.7), rule=SGD(0.3)),
    "sign": Problem(weights=TWO_BIT, rule=Sign(0.3), **NOISY),
    "shrinkage": Problem(rule=Shrinkage(0.3, q=0.9, q_min=0.4, noise_std=0.2), **NOISY),
    "quantized gradient": Problem(
        rule=QuantizedGradient(0.3, quantizer=Quantizer(3, 1.5, kind="mid-tread")), **NOISY
    ),
    "quantized gradient, stochastic": Problem(
        rule=QuantizedGradient(0.3, quantizer=Quantizer(3, 1.5, rounding="stochastic")), **NOISY
    ),
    "deterministic rounding": Problem(rule=DeterministicRounding(0.6, delta=0.3), latent_clip=1.0, **NOISY),
    "momentum": Problem(weights=TWO_BIT, rule=SGD(0.1, momentum=0.8, weight_decay=1.0), **NOISY),
    "adam": Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=Adam(0.3, memory=0.5, eps=0.1), **NOISY),
    "mini-batch": Problem(weights=TWO_BIT, inputs=TWO_BIT, rule=SGD(0.5, batch=3), **NOISY),
}


class Sorted(Rule):
    """A rule that Triton has no translation for."""

    kind: ClassVar[str] = "sorted"

    def move(self, r, phi, u, tau):
        return self.rate(tau) * r * jnp.sort(phi)


def arguments(problem, dim, steps=8, first=57, spread=False):
    """What `advance` takes; by default the steps go past a multiple of 32, 64 and of the tile."""
    rng = np.random.default_rng(dim)
    start, teacher = rng.normal(size=(2, dim)), rng.normal(1.0, 0.3, size=(2, dim))
    std = kernel.halves(jnp.asarray(rng.uniform(0.5, 2.0, (2, dim)), jnp.float32)) if spread else None
    model = model_of(problem, dim)
    w, teacher = (kernel.halves(jnp.asarray(x, jnp.float32)) for x in (start, teacher))
    w = encode(model, w)
    words = np.uint32(first % 2**32), np.uint32(first // 2**32), np.int32(steps)
    return model, KEYS, kernel.Fixed(teacher, std), w, *words


def weights(model, w):
    return np.asarray(kernel.whole(latent(model, w), model.dim))


def check(problem, dim, held, spread=False, first=57):
    """The weights of the CPU kernel; and those of two calls to the bit, whatever the cut."""
    full = arguments(problem, dim, first=first, spread=spread)
    model, start = full[0], full[3]
    expected = weights(model, programs.programs("cpu").advance(*full))
    found = weights(model, gpu.advance(*full, held=held, interpret=True))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert np.abs(expected - weights(model, start)).max() > 2e-2  # so that the tolerance means something
    low, high = full[4:6]
    for cut in (0, 3, 7):
        w = gpu.advance(*full[:4], low, high, np.int32(cut), held=held, interpret=True)
        w = gpu.advance(
            *full[:3], w, low + np.uint32(cut), high, np.int32(8 - cut), held=held, interpret=True
        )
        np.testing.assert_array_equal(weights(model, w), found)


def test_draws_in_a_kernel_are_those_of_the_generator():
    pairs, counter = 64, sampler.Counter(KEYS, jnp.uint32(7), jnp.uint32(3))

    def draw(seed, *out):
        at = sampler.Counter(seed[()], jnp.uint32(7), jnp.uint32(3))
        words = sampler.words_of(at, sampler.RULE, jax.lax.iota(jnp.uint32, pairs))
        for ref, value in zip(
            out, (*words, *sampler.units(*words), *sampler.box_muller(*words)), strict=True
        ):
            ref[...] = value

    row = pl.BlockSpec((None, pairs), lambda s: (s, 0))
    kinds = [jnp.uint32] * 2 + [jnp.float32] * 4
    found = pl.pallas_call(
        draw,
        grid=(2,),
        in_specs=[pl.BlockSpec((None,), lambda s: (s,))],
        out_specs=[row] * 6,
        out_shape=[jax.ShapeDtypeStruct((2, pairs), kind) for kind in kinds],
        interpret=True,
    )(KEYS)

    @jax.jit  # compiled, as multiply-adds are then fused alike
    def expected():
        both = [f(counter, sampler.RULE, pairs) for f in (sampler.uniforms, sampler.normals)]
        halves = [part(z) for z in both for part in (jnp.real, jnp.imag)]
        return [*sampler.words(counter, sampler.RULE, pairs), *halves]

    for a, b in zip(found, expected(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("held", [gpu.HELD, STREAMED])
def test_weights_are_those_of_the_cpu_kernel_and_chunks_do_not_matter(held):
    check(R1, 100, held, first=2**32 + 57)


@pytest.mark.parametrize(
    ("problem", "held", "spread"),
    [
        (MANY, STREAMED, True),
        (LATTICE, gpu.HELD, False),
        (MEMORY, STREAMED, False),
        pytest.param(MEMORY, gpu.HELD, False, marks=pytest.mark.slow),
    ],
    ids=["many", "lattice", "memory", "memory held"],
)
def test_all_features_agree_with_the_cpu_kernel(problem, held, spread):
    check(problem, 75, held, spread)


@pytest.mark.slow
@pytest.mark.parametrize("held", [gpu.HELD, STREAMED])
@pytest.mark.parametrize("dim", [2, 30, 64, 129, 1030])
def test_every_dimension_agrees(dim, held):
    check(R1, dim, held)


@pytest.mark.slow
@pytest.mark.parametrize("held", [gpu.HELD, STREAMED])
@pytest.mark.parametrize("name", [*OTHERS, "many", "lattice"])
def test_every_kind_agrees(name, held):
    problem = (OTHERS | {"many": MANY, "lattice": LATTICE})[name]
    if gpu.why_not(model_of(problem, 75), 40, held) is not None:
        assert (name, held) == ("mini-batch", STREAMED)
        return
    check(problem, 75, held, spread=name in ("mini-batch", "many"))


@pytest.mark.slow
def test_many_configurations_at_once():
    model, *rest = arguments(R1, 64)

    def run(lr):
        return gpu.advance(eqx.tree_at(lambda m: m.rule.lr, model, lr), *rest, interpret=True)

    lrs = jnp.array([0.1, 0.3], jnp.float32)
    for one, many in zip(*map(jax.tree.leaves, (run(lrs[1]), jax.vmap(run)(lrs))), strict=True):
        np.testing.assert_allclose(one, many[1], rtol=0, atol=1e-6)
        assert np.abs(many[0] - many[1]).max() > 1e-2


@pytest.mark.slow
def test_a_whole_simulation(monkeypatch):
    plain = simulate(R1, dim=64, seeds=2, taus=[0.1, 0.3])
    flips = programs.programs("cpu").flips

    def advance(*args):
        return gpu.advance(*args, interpret=True)

    monkeypatch.setattr(programs, "programs", lambda *_: programs.Programs(advance, flips))
    found = simulate(R1, dim=64, seeds=2, taus=[0.1, 0.3])
    np.testing.assert_allclose(found.error, plain.error, rtol=1e-5)
    np.testing.assert_allclose(found.m, plain.m, rtol=1e-5)


# ---- translation


@contextlib.contextmanager
def an_h100():
    """Newer JAX asks for which GPU; this says so without one."""
    try:
        from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
    except ImportError:  # JAX 0.10 takes an H100 for granted where there is none
        yield
        return
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100", 132, "gpu"))):
        yield


def lowered(problem, dim, held=gpu.HELD):
    with an_h100():
        traced = gpu.advance.trace(*arguments(problem, dim, spread=True), held=held)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


backend = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")


@backend
@pytest.mark.parametrize(
    ("problem", "held"),
    [(R1, gpu.HELD), (R1, STREAMED), (MANY, STREAMED), (LATTICE, gpu.HELD), (MEMORY, gpu.HELD)],
    ids=["R1", "R1 streamed", "many", "lattice", "memory"],
)
def test_translates_for_a_gpu(problem, held):
    assert "__gpu$xla.gpu.triton" in lowered(problem, 100, held)


@backend
@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_translates_for_a_gpu(name):
    assert "__gpu$xla.gpu.triton" in lowered(OTHERS[name], 100)
    if name != "mini-batch":
        assert "__gpu$xla.gpu.triton" in lowered(OTHERS[name], 100, STREAMED)


@backend
def test_translation_of_an_operation_that_triton_lacks_fails():
    with pytest.raises(Exception, match="sort"):
        lowered(Problem(rule=Sorted()), 100)


# ---- coverage


@pytest.mark.parametrize("dim", [2, 100, 129, 1024, 3000, 4096, 8192, 8193, 10**6])
def test_layout_covers_all_pairs_with_few_lanes_to_spare(dim):
    pairs = jax.eval_shape(kernel.halves, jax.ShapeDtypeStruct((1, dim), jnp.float32))[0].shape[1]
    layout = gpu.layout_of(pairs)
    assert layout.tile * (layout.tiles - 1) < pairs <= layout.tile * layout.tiles
    assert layout.tile & (layout.tile - 1) == 0
    assert layout.tile % (32 * layout.warps) == 0
    assert layout.held == (dim <= 8192)
    if dim >= 256:
        assert layout.tile * layout.tiles <= 1.25 * pairs


def test_what_is_not_covered_is_known():
    def reason(problem, dim=100):
        return gpu.why_not(model_of(problem, dim), dim // 2)

    for problem in (R1, MANY, LATTICE, MEMORY, *OTHERS.values()):
        assert reason(problem) is None
    levels = Quantizer(kind="levels", levels=[-1.0, 0.0, 1.0])
    assert "couples" in reason(Problem(rule=Multinomial()))
    assert "levels" in reason(Problem(weights=levels))
    assert "surrogate" in reason(Problem(weights=Quantizer(2, 1.0), ste="triangular"))
    assert "levels" in reason(Problem(inputs=levels))
    assert "arrays" not in str(reason(Problem(rule=QuantizedGradient(0.1, quantizer=TWO_BIT))))
    assert "mini-batches" in reason(Problem(rule=SGD(0.1, batch=2)), 20000)
    eight = Quantizer(8, 1.0)
    assert "int32" in reason(Problem(weights=eight, inputs=eight), 10**8)


def test_the_plain_loop_takes_over(monkeypatch):
    calls, full, plain = [], arguments(R1, 100), programs.programs("cpu").advance

    def counted(name, advance):
        return lambda *args: calls.append((name, int(args[-1]))) or advance(*args)

    run = gpu.or_else(counted("plain", plain))
    with pytest.warns(UserWarning, match=r"the GPU kernel cannot run the rule SGD .*; the plain loop"):
        run(*full)  # there is no GPU to translate for
    run(*full)  # and this is said once
    run(*arguments(Problem(rule=Multinomial()), 100))  # and nothing where it is not meant for
    assert calls == [("plain", 128), *[("plain", 8)] * 3]
    calls.clear()
    interpreted = functools.partial(gpu.advance, held=gpu.HELD, interpret=True)
    monkeypatch.setattr(gpu, "advance", counted("kernel", interpreted))
    run = gpu.or_else(counted("plain", plain))
    run(*full)
    run(*full)
    assert calls == [("plain", 128), ("kernel", 128), *[("kernel", 8)] * 2]
    run(*arguments(R1, 100, first=3))  # other numbers: the same program
    assert calls[4:] == [("kernel", 8)]
    assert isinstance(programs.programs("gpu").advance, trial.Tried)


def lr_off(advance, model, *rest):
    """The learning rate 1 % too high."""
    return advance(eqx.tree_at(lambda m: m.rule.lr, model, model.rule.lr * 1.01), *rest)


def no_noise(advance, model, *rest):
    return advance(eqx.tree_at(lambda m: m.noise_std, model, jnp.float32(0.0)), *rest)


def one_forgotten(advance, model, seeds, fixed, w, *rest):
    """The last weight of the last seed stays where it is."""
    after, last = advance(model, seeds, fixed, w, *rest), (-1, model.dim // 2 - 1)
    return eqx.tree_at(lambda s: s.parts[1].w, after, after.parts[1].w.at[last].set(w.parts[1].w[last]))


def not_a_number(advance, *args):
    after = advance(*args)
    a = after.parts[0].w
    lost = a.at[0, 0].set(2**30 if a.dtype == jnp.int32 else jnp.complex64(np.nan))
    return eqx.tree_at(lambda s: s.parts[0].w, after, lost)


def late(advance, model, seeds, fixed, w, low, high, n):
    """The draws of the step before from step 32 on, where the noise of the first tile ends."""
    rest = model, seeds, fixed
    w = advance(*rest, w, low, high, np.int32(min(n, 32)))
    return advance(*rest, w, low + np.uint32(31), high, np.int32(max(n - 32, 0)))


def fails(*args):
    raise RuntimeError("illegal address\nand more")


BROKEN = {
    lr_off: r"differs from the plain loop \(\d+ of 200 weights by up to [\d.]+ in 128 steps\)",
    no_noise: "differs",
    one_forgotten: "differs from the plain loop \\(1 of 100 weights",
    not_a_number: r"differs .* by up to (nan|5.4e\+07)",  # 2^30 steps of the lattice
    late: "differs",
    fails: r"cannot run the rule SGD \(illegal address\)",
}


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("problem", [R1, LATTICE], ids=["R1", "lattice"])
def test_a_broken_kernel_is_found_and_said_once(monkeypatch, fault, problem):
    full, plain = arguments(problem, 100), programs.programs("cpu").advance
    monkeypatch.setattr(gpu, "advance", functools.partial(fault, plain))
    if fault is not fails:
        assert trial.difference(gpu.advance, plain, full) is not None
    run = gpu.or_else(plain)
    words = BROKEN[fault].replace("SGD", type(problem.rule).__name__)
    with pytest.warns(UserWarning, match=f"the GPU kernel {words}.*; the plain loop") as said:
        first = run(*full)
    assert len(said) == 1
    for found in (first, run(*full)):
        np.testing.assert_array_equal(weights(full[0], found), weights(full[0], plain(*full)))

"""Weights and activations come out of files as they were put in, or one sentence says why not."""

import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from stedyn.files.layers import (
    Layer,
    Skipped,
    input_variances,
    layers_of,
    load_weights,
    read_tensors,
)

RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(0.2, 0.7, (4, 6)).astype(np.float32)
CONV = RNG.normal(size=(2, 3, 3)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "one.npy", WEIGHT)
    np.savez(tmp_path / "two.npz", fc=WEIGHT, bias=WEIGHT[:, 0], count=np.arange(6).reshape(2, 3))
    np.savetxt(tmp_path / "table.csv", WEIGHT, delimiter=",")
    save_file(
        {
            "fc.weight": WEIGHT,
            "fc.bias": WEIGHT[:, 0].copy(),
            "half": CONV.astype(np.float16),
            "brain": WEIGHT.astype(ml_dtypes.bfloat16),
            "ids": np.arange(6).reshape(2, 3),
            "dead": np.vstack([WEIGHT[0], np.zeros(6, np.float32)]),
        },
        tmp_path / "net.safetensors",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "name"),
    [("one.npy", "one"), ("two.npz", "fc"), ("table.csv", "table"), ("net.safetensors", "fc.weight")],
)
def test_every_format_gives_the_same_weights(folder, file, name):
    tensors = read_tensors(folder / file)
    assert name in tensors
    np.testing.assert_allclose(tensors[name], WEIGHT, rtol=1e-7)
    (layer,) = load_weights(folder / file, name if len(tensors) > 1 else None).values()
    assert (layer.name, layer.shape, layer.weights.dtype) == (name, (4, 6), np.float64)
    assert layer.scale == pytest.approx(np.sqrt(np.mean(WEIGHT.astype(float) ** 2)))
    np.testing.assert_allclose(layer.weights * layer.scale, WEIGHT.ravel(), rtol=1e-7)
    assert np.mean(layer.weights**2) == pytest.approx(1.0)


def test_tensors_are_a_mapping_read_when_asked(folder):
    tensors = read_tensors(folder / "two.npz")
    assert list(tensors) == ["fc", "bias", "count"]
    assert len(tensors) == 3
    with pytest.raises(KeyError):
        tensors["fc2"]
    (folder / "two.npz").unlink()
    with pytest.raises(ValueError, match=r"file: expected a file that can be read"):
        tensors["fc"]
    (folder / "row.csv").write_text("1,2,3\n")
    (folder / "column.csv").write_text("1\n2\n3\n")
    for name in ("row", "column"):
        np.testing.assert_array_equal(read_tensors(folder / f"{name}.csv")[name], [1.0, 2.0, 3.0])


def test_half_and_brain_floats(folder):
    tensors = read_tensors(folder / "net.safetensors")
    np.testing.assert_array_equal(tensors["half"], CONV.astype(np.float16))
    assert tensors["brain"].dtype == np.float32
    np.testing.assert_allclose(tensors["brain"], WEIGHT, rtol=2**-8)
    assert np.any(tensors["brain"] != WEIGHT)
    raw = load_weights(folder / "net.safetensors", "brain", normalise="none")["brain"]
    np.testing.assert_array_equal(raw.weights, tensors["brain"].ravel())


def test_channels_and_normalisations(folder):
    columns = load_weights(folder / "one.npy", per_channel=True, axis=-1, normalise="max")
    assert list(columns) == [f"one[{i}]" for i in range(6)]
    for i, layer in enumerate(columns.values()):
        assert layer.scale == np.abs(WEIGHT[:, i]).max()
        assert layer.shape == (4,)
        np.testing.assert_allclose(layer.weights * layer.scale, WEIGHT[:, i], rtol=1e-12)
        assert np.abs(layer.weights).max() == 1.0
    rows = load_weights(folder / "one.npy", per_channel=True, normalise="none")
    np.testing.assert_array_equal(rows["one[2]"].weights, WEIGHT[2])
    assert rows["one[2]"].scale == 1.0
    np.testing.assert_array_equal(
        load_weights(folder / "two.npz", "count", normalise="none")["count"].weights, np.arange(6)
    )
    # sizes whose squares are beyond the floats
    np.save(folder / "huge.npy", np.array([3e200, -4e200]))
    assert load_weights(folder / "huge.npy")["huge"].scale == pytest.approx(np.sqrt(12.5) * 1e200)


def test_layers_of_a_file_and_what_is_skipped(folder):
    found = list(layers_of(folder / "net.safetensors"))
    layers = {item.name: item for item in found if isinstance(item, Layer)}
    skipped = {item.name: item.reason for item in found if isinstance(item, Skipped)}
    assert sorted(layers) == ["brain", "dead", "fc.weight", "half"]
    assert layers["half"].shape == (2, 3, 3)
    assert skipped == {"fc.bias": "1 of 2 dimensions", "ids": "type int64, not floats"}
    channels = list(layers_of(folder / "net.safetensors", per_channel=True))
    assert sum(isinstance(item, Layer) for item in channels) == 4 + 2 + 4 + 1
    (dead,) = (item for item in channels if item.name == "dead[1]")
    assert dead.reason == "expected weights that differ, found '6 times 0'; choose another tensor."
    np.savez(folder / "biases.npz", a=WEIGHT[0], b=WEIGHT[1])
    with pytest.raises(
        ValueError, match=r"expected at least one tensor of floats with two or more dim.*'2 others in"
    ):
        list(layers_of(folder / "biases.npz"))


def test_variances_of_activations(folder):
    activations = RNG.normal([1.0, -2.0, 0.0], [0.5, 1.0, 3.0], (50, 8, 3))
    np.save(folder / "act.npy", activations)
    variances = input_variances(folder / "act.npy")
    flat = activations.reshape(400, 3)
    np.testing.assert_allclose(variances, ((flat - flat.mean(axis=0)) ** 2).sum(axis=0) / 399)
    np.save(folder / "variances.npy", variances)
    np.testing.assert_array_equal(input_variances(folder / "variances.npy"), variances)
    np.testing.assert_array_equal(
        input_variances(folder / "two.npz", "fc"), np.var(WEIGHT.astype(float), axis=0, ddof=1)
    )


BAD = [
    ("no.npy", {}, r"file: expected a file that exists, found '.*no\.npy \(not there\)'; .*\.$"),
    ("folder.npz", {}, r"file: expected a file that exists, found '.*\(a folder\)'"),
    ("one.pt", {}, r"file: expected one ending in \.npy, \.npz, \.csv, \.safetensors, found"),
    ("cut.npy", {}, r"file: expected a whole \.npy file of numbers, found"),
    ("text.npy", {}, r"file: expected a whole \.npy file of numbers, found"),
    ("none.npy", {}, r"file: expected a whole \.npy file of numbers, found"),
    ("cut.npz", {}, r"file: expected a whole \.npz file of numbers, found"),
    ("flipped.npz", {"tensor": "fc"}, r"file: expected a whole \.npz file of numbers, found"),
    ("bare.npz", {}, r"found '.*one array without a name"),
    ("objects.npy", {}, r"file: expected a whole \.npy file of numbers"),
    ("cut.safetensors", {}, r"file: expected a whole \.safetensors file of numbers"),
    ("text.safetensors", {}, r"file: expected a whole \.safetensors file of numbers"),
    ("eight.safetensors", {}, r"w: expected a tensor of a type that NumPy has, found 'F8_E4M3'"),
    ("words.csv", {}, r"file: expected numbers only, without a header, found \"'w' on line 1 of"),
    ("bytes.csv", {}, r"file: expected a file that can be read, found '.*\(not text\)'"),
    ("empty.csv", {}, r"empty: expected a tensor with several numbers, found 'shape \(0, 0\)'"),
    ("nothing.npz", {}, r"file: expected a file with a tensor"),
    ("two.npz", {}, r"tensor: expected one of 'fc', 'bias', 'count', found None; name it, as the file has several\."),
    ("two.npz", {"tensor": "fd"}, r"tensor: expected one of 'fc', 'bias', 'count', found 'fd'"),
    ("many.npz", {"tensor": "x"}, r"'t19' and 5 more, found 'x'"),
    ("empty.npy", {}, r"empty: expected a tensor with several numbers, found 'shape \(0, 3\)'"),
    ("number.npy", {}, r"number: expected a tensor with several numbers, found 'a single number'"),
    ("constant.npy", {}, r"constant: expected weights that differ, found '6 times 0\.5'"),
    ("nan.npy", {}, r"nan: expected finite numbers only, found '2 nan or inf of 3'"),
    ("bool.npy", {}, r"bool: expected real numbers, found 'type bool'"),
    ("complex.npy", {}, r"complex: expected real numbers, found 'type complex128'"),
    ("one.npy", {"normalise": "rms"}, r"normalise: expected one of 'none', 'std', 'max', found 'rms'"),
    ("one.npy", {"per_channel": True, "axis": 2}, r"one: axis: expected a whole number from -2 to 1, found 2"),
    ("list.npy", {"per_channel": True}, r"list: expected two or more dimensions for weights per channel, found 'shape \(3,\)'"),
    ("net.safetensors", {"tensor": "dead", "per_channel": True}, r"dead\[1\]: expected weights that differ, found '6 times 0'"),
]  # fmt: skip


def spoil(folder):
    (folder / "folder.npz").mkdir()
    (folder / "one.pt").write_bytes(b"")
    for suffix in ("npy", "npz", "safetensors"):
        whole = (
            folder / {"npy": "one.npy", "npz": "two.npz", "safetensors": "net.safetensors"}[suffix]
        ).read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[:-9])
        (folder / f"text.{suffix}").write_text("these are no numbers")
    (folder / "none.npy").write_bytes(b"")
    with zipfile.ZipFile(folder / "two.npz") as archive:
        offset = archive.getinfo("fc.npy").header_offset + 180
    flipped = bytearray((folder / "two.npz").read_bytes())
    flipped[offset] ^= 255
    (folder / "flipped.npz").write_bytes(flipped)
    (folder / "bare.npz").write_bytes((folder / "one.npy").read_bytes())
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    save_file({"w": WEIGHT.astype(ml_dtypes.float8_e4m3fn)}, folder / "eight.safetensors")
    (folder / "words.csv").write_text("w\n1\n")
    (folder / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    (folder / "empty.csv").write_text("\n")
    np.savez(folder / "nothing.npz")
    np.savez(folder / "many.npz", **{f"t{i}": WEIGHT for i in range(25)})
    arrays = {
        "empty": np.zeros((0, 3)), "number": np.array(2.0), "constant": np.full((2, 3), 0.5), "nan": [1.0, np.nan, -np.inf],
        "bool": [True, False], "complex": [1j, 2.0], "list": [1.0, 2.0, 3.0],
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_one_sentence_for_every_bad_file(folder):
    spoil(folder)
    for file, options, sentence in BAD:
        with pytest.raises(ValueError, match=sentence) as caught:
            load_weights(folder / file, **options)
        assert "\n" not in str(caught.value), file


def test_one_sentence_for_bad_activations(folder):
    stuck = np.array([[1.0, 0.1, 3.0, 0.1], [2.0, 0.1, 1.0, 0.1], [0.0, 0.1, 1.0, 0.1]])
    for name, array, sentence in [
        ("stuck", stuck, r"stuck: expected positive variances, found '2 of 4, the first is input 1 with 0'"),
        ("minus", np.array([1.0, -2.0]), r"'1 of 2, the first is input 1 with -2'"),
        ("single", stuck[:1], r"single: expected two samples or more, found 'shape \(1, 4\)'"),
        ("nan", np.array([1.0, np.nan]), r"nan: expected finite numbers only, found '1 nan or inf of 2'"),
    ]:
        np.save(folder / f"{name}.npy", array)
        with pytest.raises(ValueError, match=sentence):
            input_variances(folder / f"{name}.npy")

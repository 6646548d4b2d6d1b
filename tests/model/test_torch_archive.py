"""Files of torch.save, read without PyTorch: the arrays of torch.load, and no code of the file ever runs."""

import argparse
import datetime
import io
import os
import pickle
import random
import struct
import time
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from oracles import assert_close

from csn_jax.model.torch_archive import LEGACY_MAGIC, LEGACY_PROTOCOL, read_tensors
from csn_jax.model.torch_pickle import MAX_PICKLE, Refused

FORMATS = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}}


@pytest.fixture(params=FORMATS)
def save(request):
    """save(value) -> bytes, in each of the two formats."""

    def write(value, **options):
        file = io.BytesIO()
        torch.save(value, file, **FORMATS[request.param], **options)
        return file.getvalue()

    return write


def refused(data, *words):
    """Assert that data is refused in one sentence with these words."""
    with pytest.raises(Refused) as caught:
        read_tensors(data)
    message = str(caught.value)
    assert tiny.is_one_sentence(message) and all(word in message for word in words), message


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, bias=False), torch.nn.BatchNorm2d(5), torch.nn.Linear(5, 2))


def arrays(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_state_dict_is_read_bit_for_bit(save, protocol):
    state = network().state_dict()
    assert_close(read_tensors(save(state, pickle_protocol=protocol)), arrays(state), 0)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_the_state_dict_of_a_training_checkpoint_is_read(save, wrapper):
    """Beside it are an epoch, a score and the optimizer's state."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    checkpoint = {
        "epoch": 2**40,
        "best_prec1": 0.89,
        "optimizer": optimizer.state_dict(),
        wrapper: model.state_dict(),
        "args": [None, True, False, ("a", -1, 300, 70_000)],
    }
    assert_close(read_tensors(save(checkpoint)), arrays(model.state_dict()), 0)


def test_every_kind_of_tensor(save):
    """Types, views of one storage, transposed and empty ones, scalars, parameters."""
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "double": torch.linspace(0, 1, 5, dtype=torch.float64),
        "half": torch.linspace(0, 1, 5, dtype=torch.float16),
        "long": torch.tensor([2**40, -1]),
        "int": torch.tensor([[7, -7]], dtype=torch.int32),
        "byte": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "slice": base[3:9],
        "transposed": base.reshape(4, 6).T,
        "every other": base[::2].reshape(3, 4)[:, 1],
        "repeated": torch.ones(1, 3).expand(1, 3),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(1.5),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }
    found = read_tensors(save(OrderedDict(tensors)))
    assert found["bool"].dtype == bool and found.pop("bool").tolist() == tensors.pop("bool").tolist()
    assert_close(found, arrays(tensors), 0)
    assert found["slice"].base is not None and not found["slice"].flags.writeable  # views: nothing is copied


def test_files_of_python_2_and_pytorch_0_3_are_read():
    """The one writes names as bytes, the other rebuilds a tensor from four arguments."""
    pid = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x06cuda:0K\x03Ntq\x01Q"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + pid + b"K\x00(K\x03t(K\x01ttR"
    tree = b"\x80\x02ccollections\nOrderedDict\n(](]q\x02(U\x01w" + tensor + b"eetR."
    parts = [
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        pickle.dumps(1001, 2),
        pickle.dumps({"little_endian": True}, 2),
    ]
    data = b"".join(parts) + tree + pickle.dumps(["0"], 2) + struct.pack("<q3f", 3, 1, 2, 3)
    assert_close(read_tensors(data), {"w": np.array([1, 2, 3], np.float32)}, 0)


class Reduce:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zipped(instructions):
    """A zip archive with this pickle and nothing else."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", instructions)
    return file.getvalue()


class Inside(dict):
    pass


def attacks(path):
    """By name: what to save, and the global that the refusal names."""
    touch = f"touch {path}"
    return {
        "os.system": (Reduce(os.system, touch), "posix.system"),
        "eval": (Reduce(eval, f"open({str(path)!r}, 'w')"), ".eval"),
        "exec": (Reduce(exec, f"open({str(path)!r}, 'w')"), ".exec"),
        "open": (Reduce(open, str(path), "w"), "io.open"),
        "in a state dict": ({"state_dict": OrderedDict(a=torch.ones(2), b=Reduce(os.system, touch))}, "posix.system"),
        "as a key": ({Reduce(os.system, touch): 1}, "posix.system"),
        "in an argument": (OrderedDict(a=[({"b": (Reduce(os.system, touch),)},)]), "posix.system"),
        "a call of a call": (Reduce(getattr, Reduce(__import__, "os"), "system"), ".getattr"),
        "a subclass": (Inside(a=torch.ones(2)), f"{__name__}.Inside"),
        "a whole model": (network(), "torch.nn.modules.container.Sequential"),
    }


@pytest.mark.parametrize("name", attacks("x"))
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_by_its_name_and_never_run(name, protocol, save, tmp_path):
    """torch.load without weights_only runs it."""
    sentinel = tmp_path / "run"
    value, offender = attacks(sentinel)[name]
    data = save(value, pickle_protocol=protocol)
    refused(data, f"{offender}, which", "could run code", "not loaded")
    assert not sentinel.exists()
    if "touch" in str(value.__dict__ if isinstance(value, Reduce) else ""):
        torch.load(io.BytesIO(data), weights_only=False)
        assert sentinel.exists()


def test_unsupported_numbers_are_not_called_code(save):
    with pytest.raises(Refused, match="torch.ComplexFloatStorage, .* save it as float32") as caught:
        read_tensors(save({"w": torch.ones(2).to(torch.complex64)}))
    assert "code" not in str(caught.value)


@pytest.mark.parametrize("name", ["a whole model", "a subclass"])
def test_what_needs_its_own_code_is_refused_with_the_way_out(name, save, tmp_path):
    refused(save(attacks(tmp_path / "run")[name][0]), "save model.state_dict()")
    with pytest.raises(Refused, match="source you trust"):
        read_tensors(save(attacks(tmp_path / "run")["os.system"][0]))


def test_a_torchscript_archive_is_refused_by_its_name():
    """It has these members beside the pickle of its module."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02c__torch__\nNet\n)\x81.")
        archive.writestr("x/code/__torch__.py", "class Net(Module): pass", zipfile.ZIP_DEFLATED)
        archive.writestr("x/constants.pkl", b"\x80\x02).")
    refused(file.getvalue(), "TorchScript", "save model.state_dict()")


def test_bfloat16_becomes_float32(save):
    """Bit for bit, also views of one storage."""
    base = torch.tensor([1.0, -2.5, 3e38, 1e-40, -0.0, 0.1]).bfloat16()
    views = {"a": base, "b": base.reshape(2, 3).T, "c": base[2:4], "d": torch.zeros(0, 3).bfloat16()}
    assert_close(read_tensors(save(views)), arrays({name: tensor.float() for name, tensor in views.items()}), 0)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_settings_and_scores_beside_the_tensors_are_skipped(save, protocol):
    """Of NumPy, argparse, pathlib and the like, wherever they stand."""
    model = network()
    args = argparse.Namespace(lr=0.1, out=Path("runs"), betas=(0.9, 0.99), seen={"a", "b"}, device=torch.device("cpu"))
    checkpoint = {
        "best": np.float64(0.89),
        "epoch": np.int64(3),
        "history": np.arange(6.0).reshape(2, 3),
        "args": args,
        "hyper_parameters": {"nested": [argparse.Namespace(inner=args)], "when": datetime.datetime(2020, 1, 1)},
        "frozen": frozenset([1, "a"]),
        "counts": Counter("aab"),
        "rows": defaultdict(list, a=[np.float32(1)]),
        "recent": deque([1, 2]),
        "size": torch.Size([1, 2]),
        "type": torch.bfloat16,
        "rng": torch.get_rng_state(),
        "state_dict": model.state_dict() | {"scale": np.float32(2)},
    }
    assert_close(read_tensors(save(checkpoint, pickle_protocol=protocol)), arrays(model.state_dict()), 0)


@pytest.mark.parametrize("path", ["a.pth", "never"])
def test_nothing_skipped_is_called(path, save, tmp_path):
    """A call inside what is skipped is refused all the same."""
    evil = Reduce(os.system, f"touch {tmp_path / path}")
    for value in (argparse.Namespace(a=evil), defaultdict(list, a=[evil]), {evil}, deque([evil])):
        refused(save({"args": value, "w": torch.ones(2)}), "posix.system, which", "not loaded")
    assert not list(tmp_path.iterdir())


def nests():
    """By name: what a training program saves, around the state dict s."""
    s, other = network().state_dict(), {"fc.weight": torch.zeros(2, 2)}
    other = {**other, "fc.bias": torch.zeros(2)}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    return s, {
        "model_state_dict": {"epoch": 1, "model_state_dict": s, "optimizer_state_dict": optimizer},
        "net": {"net": s, "acc": 93.1},
        "nested": {"checkpoint": {"model": s, "optimizer": optimizer}},
        "deeper": {"a": {"b": {"weights": s}}},
        "an average alone": {"ema": s, "optimizer": optimizer},
        "an average beside": {"state_dict_ema": other, "state_dict": s},
        "another word": {"generator": s, "lr": 0.1},
        "optimizer by name": {"optimizer": {"fc.weight": torch.ones(2)}, "student": s},
        "shared": {"model": s, "state_dict": s},
    }


@pytest.mark.parametrize("name", nests()[1])
def test_networks_are_found_in_their_nests(name, save):
    state, checkpoints = nests()
    assert_close(read_tensors(save(checkpoints[name])), arrays(state), 0)


def test_several_networks_are_refused_by_their_names(save):
    one, two = network().state_dict(), network().state_dict()
    refused(
        save({"generator": one, "critic": two, "n": 1}), "several networks, generator, critic", "save the state_dict"
    )


def test_dictionaries_that_hold_each_other_take_no_time():
    """A dictionary that holds the one before it 60 times, 30 times over: paths without number."""
    code = b"\x80\x02}q\x00"
    for level in range(1, 40):
        items = b"".join(b"X\x02\x00\x00\x00%02dh" % i + bytes([level - 1]) for i in range(60))
        code += b"}(" + items + b"uq" + bytes([level])
    began = time.perf_counter()
    refused(zipped(code + b"."), "no named tensors")
    refused(zipped(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."), "no named tensors")  # itself
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
        (b"\x80\x02ctorch\nFloatStorage\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x02(S'id'\nios\nsystem\n.", "instruction STRING"),
        (b"\x80\x02(ios\nsystem\n.", "instruction INST"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02(K\x01ccollections\nOrderedDict\no.", "instruction OBJ"),
        (b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.", "a Global stands where a dict should"),
        (b"\x80\x02K\x01)R.", "a int stands where a Global should"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "is damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "is damaged"),
        (b"\x80\x02}N", "is damaged"),
        (b"\x80\x02.", "is damaged"),
        (b"\x80\x02t.", "is damaged"),
        (b"\x80\x02h\x07.", "is damaged"),
        (b"\x80\x02]q\x00h\x00a.", "a list"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "no named tensors"),
        (b"\x80\x02}(K\x01tK\x01s.", "with keys other than"),
        (b"\x80\x02ccollections\nOrderedDict\n]](K\x01ea\x85R.", "is damaged"),
        (b"\x80\x02" + b"]" * (MAX_PICKLE + 1) + b".", "bytes of pickle"),
        (b"\x80\x02c" + b"a" * 5000 + b"\nb\x1b[31m. c\n.", "aaa..., which"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_other_instructions_are_refused(instructions, words):
    refused(zipped(instructions), words)


def test_nested_tuples_take_no_time():
    """Python would need years for the hash or the text of a tuple doubled 60 times."""
    doubled = b")" + b"q\x00h\x00\x86" * 60
    head = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}, {})]
    for data, part in (
        (zipped(b"\x80\x02}(" + doubled + b"K\x01u."), "with keys other than"),
        (zipped(b"\x80\x04" + doubled + b"X\x01\x00\x00\x00a\x93."), "a tuple stands where a str should"),
        (zipped(b"\x80\x02" + doubled + b"Q."), "a tuple stands where a Global should|is damaged"),
        (zipped(b"\x80\x02" + doubled + b"."), "a tuple"),
        (b"".join(head) + b"\x80\x02]" + doubled + b"a.", "a tuple stands where a str should"),
    ):
        with pytest.raises(Refused, match=part):
            read_tensors(data)


class Part:
    """A storage in `lying`."""

    def __init__(self, *reference):
        self.reference = reference


def lying(offset=0, size=(2, 3), stride=(3, 1), n=6, kind=torch.FloatStorage, stored=24, key="0", **more):
    """A zip archive with one tensor [2, 3] whose description may be false."""
    file, pickled = io.BytesIO(), io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.reference if isinstance(value, Part) else None

    part = Part(*more.get("reference", ("storage", kind, key, "cpu", n)))
    rebuild = Reduce(torch._utils._rebuild_tensor_v2, part, offset, size, stride, False, OrderedDict())
    Pickler(pickled, 2).dump({"w": rebuild})
    with zipfile.ZipFile(file, "w", more.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("x/data.pkl", pickled.getvalue())
        archive.writestr("x/data/0", np.arange(6, dtype=np.float32).tobytes()[:stored].ljust(stored, b"\0"))
        for name, content in more.get("members", {}).items():
            archive.writestr(name, content)
    return file.getvalue()


def test_the_same_archive_with_a_true_description_is_read():
    expected = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert_close(read_tensors(lying()), expected, 0)
    assert_close(read_tensors(lying(members={"x/byteorder": "little", "x/version": "3"})), expected, 0)


LIES = {
    "storage too short": ({"stored": 20}, "storage 0 has 20 bytes, not 6 values"),
    "storage too long": ({"stored": 28}, "storage 0 has 28 bytes"),
    "storage of another type": ({"kind": torch.DoubleStorage}, "24 bytes, not 6 values"),
    "storage not there": ({"key": "7"}, "storage 7 is missing"),
    "storage outside": ({"key": "../data.pkl"}, "is missing"),
    "past the end": ({"size": (2, 4)}, "reaches past its storage"),
    "offset": ({"offset": 1}, "reaches past its storage"),
    "negative offset": ({"offset": -1}, "impossible shape"),
    "negative stride": ({"stride": (-3, 1), "offset": 3}, "impossible shape"),
    "negative size": ({"size": (-2, 3)}, "impossible shape"),
    "stride of 0": ({"size": (2**30, 2**9), "stride": (0, 0)}, "reaches past its storage"),
    "huge": ({"size": (2**62, 3)}, "impossible shape"),
    "huge and empty": ({"size": (2**39, 2**39, 0), "stride": (0, 0, 0)}, "is damaged"),
    "more strides": ({"stride": (3, 1, 1)}, "impossible shape"),
    "many axes": ({"size": (1,) * 9, "stride": (1,) * 9}, "impossible shape"),
    "floats": ({"size": (2.0, 3.0)}, "impossible shape"),
    "truth": ({"size": (True, 3)}, "impossible shape"),
    "list": ({"size": [2, 3]}, "a list stands where a tuple should"),
    "huge storage": ({"n": 2**62}, "a description that torch.save does not write"),
    "no storage": ({"reference": ("module", torch.FloatStorage, "0", "cpu", 6)}, "a description that"),
    "short reference": ({"reference": ("storage",)}, "is damaged"),
    "view of a storage": ({"reference": ("storage", torch.FloatStorage, "0", "cpu", 6, ("1", 0, 3))}, "holds a view"),
    "compressed": ({"compression": zipfile.ZIP_DEFLATED, "stored": 10**6, "n": 250_000}, "is compressed"),
    "big-endian": ({"members": {"x/byteorder": "big"}}, "big-endian"),
    "two pickles": ({"members": {"y/data.pkl": "x"}}, "2 data.pkl"),
}


@pytest.mark.parametrize("name", LIES)
def test_an_archive_with_a_false_description_is_refused(name):
    options, words = LIES[name]
    refused(lying(**options), words)


def test_other_and_damaged_files_are_refused(save):
    whole = save(network().state_dict())
    empty_zip = io.BytesIO()
    zipfile.ZipFile(empty_zip, "w").close()
    for data, words in (
        (b"", "not a PyTorch checkpoint"),
        (b"just text", "not a PyTorch checkpoint"),
        (pickle.dumps({"a": 1}), "not a PyTorch checkpoint"),
        (empty_zip.getvalue(), "0 data.pkl"),
        (whole[: len(whole) // 2], "is damaged"),
        (whole[:-40], "is damaged"),
        (whole[:30], "is damaged"),
        (save([torch.ones(2)]), "a list"),
        (save(torch.ones(2)), "a Tensor"),
        (save({"a": 1}), "no named tensors"),
    ):
        refused(data, words)


def test_flipped_bytes_are_refused_or_harmless(save):
    """2,000 seeded files with one to three changed bytes. The checksums of the zip format detect changed values too."""
    whole, rng = save({"epoch": 3, "state_dict": network().state_dict()}), random.Random(0)
    state, loaded, slowest = arrays(network().state_dict()), 0, 0.0
    for _ in range(2_000):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        began = time.perf_counter()
        try:
            tensors = read_tensors(bytes(changed))
        except Refused as refusal:
            assert tiny.is_one_sentence(str(refusal)), refusal
            continue
        finally:
            slowest = max(slowest, time.perf_counter() - began)
        loaded += 1
        assert all(isinstance(tensor, np.ndarray) and tensor.size <= len(whole) for tensor in tensors.values())
        if whole.startswith(b"PK"):
            assert all(np.array_equal(tensors[name], state[name]) for name in tensors.keys() & state.keys())
    assert 0 < loaded < 2_000
    assert slowest < 2

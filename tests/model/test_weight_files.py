"""Weight files by path and from the hub: what is read, and one sentence for each file that is not what it claims."""

import hashlib
import io
import json
import random
import re
import subprocess
import sys
import time
import types
import zipfile

import numpy as np
import pytest
import tiny
import torch
from oracles import assert_close
from safetensors.torch import save as torch_save

from csn_jax.errors import UserError
from csn_jax.model.weight_files import read_weights, to_safetensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.zeros(0, 2)}
ARRAYS = {name: tensor.numpy() for name, tensor in TENSORS.items()}


def told(source, place="config.backbone.init"):
    with pytest.raises(UserError) as caught:
        read_weights(str(source), place)
    assert tiny.is_one_sentence(str(caught.value).removesuffix(".")), caught.value
    return str(caught.value)


def test_safetensors_of_pytorch_are_read_bit_for_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(torch_save(TENSORS, {"step": "7"}))
    weights = read_weights(str(path), "x")
    assert_close(weights.tensors, ARRAYS, 0)
    assert weights.metadata == {"step": "7"}
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(torch_save({"half": torch.ones(2).half(), "double": torch.ones(2).double(), "no": torch.ones(0)}))
    assert [read_weights(str(path), "x").tensors[name].dtype for name in ("half", "double")] == [np.float16, np.float64]


def test_what_is_written_is_read_again_and_by_pytorch(tmp_path):
    """Also views that are not contiguous, whose memory is not in the order of their values."""
    from safetensors.torch import load

    arrays = {"turned": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.float32(3).reshape(())}
    data = to_safetensors(arrays, {"step": "3"})
    assert data == to_safetensors(dict(reversed(arrays.items())), {"step": "3"})
    assert_close({name: tensor.numpy() for name, tensor in load(data).items()}, arrays, 0)
    (tmp_path / "x.safetensors").write_bytes(data)
    assert_close(read_weights(str(tmp_path / "x.safetensors"), "x").tensors, arrays, 0)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".PTH"])
def test_torch_files_by_their_suffixes(suffix, tmp_path):
    torch.save(TENSORS, tmp_path / f"x{suffix}")
    assert_close(read_weights(str(tmp_path / f"x{suffix}"), "x").tensors, ARRAYS, 0)


def header(text, data=b""):
    text = text.encode() if isinstance(text, str) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NO_SAFETENSORS = {
    "empty": (b"", "no whole .safetensors"),
    "text": (b"just a text that is long enough", "no whole .safetensors"),
    "torch": (b"PK\x03\x04" + bytes(100), "no whole .safetensors"),
    "no JSON": (header("{nonsense"), "no whole .safetensors"),
    "cut": (header({"a": F32}, bytes(4)), "no whole .safetensors"),
    "too long": (header({"a": F32}, bytes(12)), "no whole .safetensors"),
    "shape lies": (header({"a": F32 | {"shape": [2**40]}}, bytes(8)), "no whole .safetensors"),
    "shape overflows": (header({"a": F32 | {"shape": [2**62, 4]}}, bytes(8)), "no whole .safetensors"),
    "offsets lie": (header({"a": F32 | {"data_offsets": [0, 2**40]}}, bytes(8)), "no whole .safetensors"),
    "offsets turn": (header({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)), "no whole .safetensors"),
    "overlap": (header({"a": F32, "b": F32}, bytes(8)), "no whole .safetensors"),
    "header lies": ((2**62).to_bytes(8, "little") + b"{}", "no whole .safetensors"),
    "dtype": (header({"a": F32 | {"dtype": "F99"}}, bytes(8)), "no whole .safetensors"),
    "bfloat16": (header({"a": F32 | {"dtype": "BF16", "shape": [4]}}, bytes(8)), "holds a as BF16"),
    "metadata": (header({"__metadata__": {"a": 1}}), "no whole .safetensors"),
    "name": (header({"a\n\x1b[31m. b": F32}, bytes(8)), "whose name no network gives"),
}


@pytest.mark.parametrize("name", NO_SAFETENSORS)
def test_a_safetensors_file_that_is_none(name, tmp_path):
    data, part = NO_SAFETENSORS[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert told(path).startswith(f"{path} ") and part in told(path)


def test_other_files_that_are_not_what_they_claim(tmp_path):
    torch.save(TENSORS, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for name, data, part in (
        ("text.pth", b"just text", "is no PyTorch checkpoint"),
        ("cut.pth", whole[:-100], "is damaged"),
        ("cut.pt", whole[:100], "is damaged"),
        ("other.pth.tar", torch_save(TENSORS), "is no PyTorch checkpoint"),
    ):
        (tmp_path / name).write_bytes(data)
        assert told(tmp_path / name).startswith(f"{tmp_path / name} {part}")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("a.txt", "text")
    assert "0 data.pkl" in told(tmp_path / "zip.pth")
    assert "config.backbone.init=/no/such.pth: there is no such file" in told("/no/such.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "there is no such file" in told(tmp_path / "folder.pth")
    for name in ("x.bin", "x", "x.pth.gz", ""):
        assert f"config.backbone.init={name} is no weight file; give one of .safetensors, .pth," in told(name)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(bytes(100))
    monkeypatch.setattr("csn_jax.model.weight_files.MAX_FILE", 99)
    assert "has 100 bytes" in told(tmp_path / "x.pth")


def test_flipped_bytes_of_safetensors_raise_nothing_but_one_sentence(tmp_path):
    """2,000 seeded files with one to three changed bytes, most of them in the header."""
    whole, rng, path, outcomes = torch_save(TENSORS), random.Random(0), tmp_path / "x.safetensors", []
    began = time.perf_counter()
    for _ in range(2_000):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            read_weights(str(path), "x")
        except UserError as error:
            assert tiny.is_one_sentence(str(error).removesuffix(".")), error
            outcomes.append("refused")
        else:
            outcomes.append("read")
    assert {*outcomes} == {"read", "refused"}
    assert time.perf_counter() - began < 30


def test_the_hub_is_asked_for_the_repository_s_safetensors(tmp_path, monkeypatch):
    """By a module of that name that serves a file from here."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(torch_save(TENSORS))
    asked = []
    hub = types.SimpleNamespace(hf_hub_download=lambda *arguments: asked.append(arguments) or str(path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert_close(read_weights("hf:timm/resnet18.a1_in1k", "x").tensors, ARRAYS, 0)
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]


def test_the_hub_without_its_package_or_its_answer(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs huggingface_hub; install it with pip install huggingface_hub" in told("hf:timm/resnet18.a1_in1k")

    def fail(*_):
        raise RuntimeError("404 Client Error. (Request ID: x)\n\nRepository Not Found")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=fail))
    assert re.search(r"hf:timm/resnet cannot be fetched \(RuntimeError: 404 Client Error\)", told("hf:timm/resnet"))
    for name in ("hf:resnet18", "hf:a/b/c", "hf:../x", "hf:", "hf:a b/c"):
        assert f"{name}: give a repository as hf:OWNER/NAME" in told(name)


def test_reading_weights_imports_neither_torch_nor_jax(tmp_path):
    """What reads untrusted files stays small."""
    file = io.BytesIO()
    torch.save(TENSORS, file)
    (tmp_path / "x.pth").write_bytes(file.getvalue())
    code = (
        "import sys; from csn_jax.runtime.weights import read_weights;"
        f"print(len(read_weights({str(tmp_path / 'x.pth')!r}, 'x').tensors), {{'torch', 'jax'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "3 set()\n"

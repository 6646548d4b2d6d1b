"""Weight files by path and from the hub, and the refusals of other and damaged files."""

import hashlib
import io
import json
import random
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


def refused(source, *words):
    """Assert that a source is refused in one sentence that names it and has these words."""
    with pytest.raises(UserError) as caught:
        read_weights(str(source), "config.backbone.init")
    message = str(caught.value)
    assert tiny.is_one_sentence(message.removesuffix(".")), message
    assert all(word in message for word in (str(source), *words)), message


def test_safetensors_of_pytorch_are_read_bit_for_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(torch_save(TENSORS, {"step": "7"}))
    weights = read_weights(str(path), "x")
    assert_close(weights.tensors, ARRAYS, 0)
    assert weights.metadata == {"step": "7"}
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(torch_save({"half": torch.ones(2).half(), "double": torch.ones(2).double(), "no": torch.ones(0)}))
    assert [read_weights(str(path), "x").tensors[name].dtype for name in ("half", "double")] == [np.float16, np.float64]


def test_written_files_are_read_again_and_by_pytorch(tmp_path):
    """Also a view that is not contiguous."""
    from safetensors.torch import load

    arrays = {"transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T, "scalar": np.float32(3).reshape(())}
    data = to_safetensors(arrays, {"step": "3"})
    assert data == to_safetensors(dict(reversed(arrays.items())), {"step": "3"})
    assert_close({name: tensor.numpy() for name, tensor in load(data).items()}, arrays, 0)
    (tmp_path / "x.safetensors").write_bytes(data)
    assert_close(read_weights(str(tmp_path / "x.safetensors"), "x").tensors, arrays, 0)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".PTH", ".ckpt", ".bin", ".tar"])
def test_torch_files_by_their_suffixes(suffix, tmp_path):
    torch.save(TENSORS, tmp_path / f"x{suffix}")
    assert_close(read_weights(str(tmp_path / f"x{suffix}"), "x").tensors, ARRAYS, 0)


def header(text, data=b""):
    text = text.encode() if isinstance(text, str) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {  # all are refused as incomplete
    "empty": b"",
    "text": b"just a text that is long enough",
    "torch": b"PK\x03\x04" + bytes(100),
    "no JSON": header("{nonsense"),
    "cut": header({"a": F32}, bytes(4)),
    "too long": header({"a": F32}, bytes(12)),
    "shape lies": header({"a": F32 | {"shape": [2**40]}}, bytes(8)),
    "shape overflows": header({"a": F32 | {"shape": [2**62, 4]}}, bytes(8)),
    "offsets lie": header({"a": F32 | {"data_offsets": [0, 2**40]}}, bytes(8)),
    "offsets turn": header({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)),
    "overlap": header({"a": F32, "b": F32}, bytes(8)),
    "header lies": (2**62).to_bytes(8, "little") + b"{}",
    "dtype": header({"a": F32 | {"dtype": "F99"}}, bytes(8)),
    "metadata": header({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_safetensors_file_is_refused(name, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[name])
    refused(path, "complete .safetensors file")


def test_other_files_are_refused(tmp_path):
    """Each row: a name, the content (None: no file), the words of the refusal."""
    torch.save(TENSORS, tmp_path / "whole.pth")
    whole, archive = (tmp_path / "whole.pth").read_bytes(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("a.txt", "text")
    (tmp_path / "folder.pth").mkdir()
    for name, data, words in (
        ("f8.safetensors", header({"a": F32 | {"dtype": "F8_E5M2", "shape": [8]}}, bytes(8)), ["tensor a in F8_E5M2"]),
        ("name.safetensors", header({"a\n\x1b[31m. b": F32}, bytes(8)), ["name", "visible ASCII"]),
        ("both.safetensors", header({"a\n. b": F32 | {"dtype": "BF16", "shape": [4]}}, bytes(8)), ["visible ASCII"]),
        ("text.pth", b"just text", ["PyTorch checkpoint"]),
        ("cut.pth", whole[:-100], ["damaged"]),
        ("cut.pt", whole[:100], ["damaged"]),
        ("other.pth.tar", torch_save(TENSORS), ["PyTorch checkpoint"]),
        ("zip.pth", archive.getvalue(), ["0 data.pkl"]),
        ("absent.pth", None, ["config.backbone.init=", "no such file"]),
        ("folder.pth", None, ["no such file"]),
        ("model.onnx", b"onnx", ["not a weight file", "model.safetensors.index.json"]),
        *((name, None, ["config.backbone.init=", ".safetensors, .pth"]) for name in ("x.h5", "x", "x.pth.gz", "")),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        refused(tmp_path / name if name else name, *words)


def test_bfloat16_and_float16_are_read(tmp_path):
    values = torch.tensor([1.0, -2.5, 3e38, 1e-40, 0.1, -0.0])
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        torch_save({"b": values.bfloat16().reshape(2, 3), "h": values[:2].half(), "z": values[:0].bfloat16()})
    )
    tensors = read_weights(str(path), "x").tensors
    assert_close(tensors, {"b": values.bfloat16().float().reshape(2, 3).numpy(), "h": values[:2].half().numpy(),
                           "z": np.zeros(0, np.float32)}, 0)  # fmt: skip


def sharded(folder, suffix=".safetensors", **change):
    """A model in two files with its index, as Hugging Face writes it: the index."""
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    names, parts = {}, {f"{stem}-0000{i}-of-00002{suffix}": {} for i in (1, 2)}
    for (name, tensor), part in zip(TENSORS.items(), [*parts, list(parts)[0]], strict=True):
        parts[part][name], names[name] = tensor, part
    for part, tensors in parts.items():
        if suffix == ".bin":
            torch.save(tensors, folder / part)
        else:
            (folder / part).write_bytes(torch_save(tensors, {"format": "pt"}))
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": names | change}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_model_in_several_files_is_read_by_its_index_or_folder(suffix, tmp_path, monkeypatch):
    index = sharded(tmp_path, suffix)
    weights = read_weights(str(index), "x")
    assert_close(weights.tensors, ARRAYS, 0)
    again = read_weights(str(tmp_path), "x")
    assert_close(again.tensors, ARRAYS, 0)
    assert again.sha256 == weights.sha256
    part = tmp_path / json.loads(index.read_text())["weight_map"]["b"]
    part.write_bytes(torch_save({"b": torch.zeros(2)})) if suffix == ".safetensors" else torch.save(
        {"b": torch.zeros(2)}, part
    )
    assert read_weights(str(tmp_path), "x").sha256 != weights.sha256


def test_an_index_that_lies_is_refused(tmp_path):
    """Each row: the content of the index, the words of the refusal."""
    index = sharded(tmp_path)
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(torch_save({"a.weight": torch.ones(1)}))
    (tmp_path / "sub").mkdir()
    for change, words in (
        ({"b": "../secret.safetensors"}, ["../secret.safetensors", "cannot be a weight file beside it"]),
        ({"b": "/etc/passwd"}, ["cannot be a weight file"]),
        ({"b": "sub"}, ["cannot be a weight file"]),
        ({"b": 3}, ["is not an index"]),
        ({"b": {}}, ["is not an index"]),
        ({"b": "x" * 5000 + ".safetensors"}, ["cannot be a weight file"]),
        ({"b": "gone.safetensors"}, ["names gone.safetensors, which is not beside it", "put all files"]),
        ({"d": "secret.safetensors"}, ["same tensor twice"]),
    ):
        sharded(tmp_path, **change)
        refused(index, *words)
    maps = (f'{{"weight_map": {part}}}' for part in ("[]", "{}", '{"a": []}'))
    for content in ("", "[]", "{}", "[" * 100_000, *maps):
        index.write_text(content)
        refused(index, "is not an index of weight files")


def test_a_repository_of_several_files_is_downloaded(tmp_path, monkeypatch):
    index, downloads = sharded(tmp_path), []

    def download(_, name):
        downloads.append(name)
        if not (tmp_path / name).is_file():
            raise RuntimeError("404 Client Error.")
        return str(tmp_path / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    assert_close(read_weights("hf:o/n", "x").tensors, ARRAYS, 0)
    assert downloads == ["model.safetensors", index.name, *sorted(path.name for path in tmp_path.glob("*-of-*"))]


def test_a_file_larger_than_the_limit_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(bytes(100))
    monkeypatch.setattr("csn_jax.model.weight_files.MAX_FILE", 99)
    refused(tmp_path / "x.pth", "has 100 bytes")


def test_flipped_bytes_of_safetensors_are_refused_or_harmless(tmp_path):
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


def test_a_repository_s_safetensors_is_downloaded(tmp_path, monkeypatch):
    """By a fake huggingface_hub that serves a local file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(torch_save(TENSORS))
    downloads = []
    hub = types.SimpleNamespace(hf_hub_download=lambda *arguments: downloads.append(arguments) or str(path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert_close(read_weights("hf:timm/resnet18.a1_in1k", "x").tensors, ARRAYS, 0)
    assert downloads == [("timm/resnet18.a1_in1k", "model.safetensors")]


def test_a_repository_that_cannot_be_downloaded_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf:timm/resnet18.a1_in1k", "pip install huggingface_hub")

    def fail(*_):
        raise RuntimeError("404 Client Error. (Request ID: x)\n\nRepository Not Found")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=fail))
    refused("hf:timm/resnet", "cannot be downloaded", "(RuntimeError: 404 Client Error)")
    for name in ("hf:resnet18", "hf:a/b/c", "hf:../x", "hf:", "hf:a b/c"):
        refused(name, "hf:OWNER/NAME")


def test_reading_weights_imports_neither_torch_nor_jax(tmp_path):
    file = io.BytesIO()
    torch.save(TENSORS, file)
    (tmp_path / "x.pth").write_bytes(file.getvalue())
    code = (
        "import sys; from csn_jax.model.weight_files import read_weights;"
        f"print(len(read_weights({str(tmp_path / 'x.pth')!r}, 'x').tensors), {{'torch', 'jax'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "3 set()\n"

"""The layers hold: imports go down, heavy packages have one home each, and names do not shadow modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import csn_jax

ROOT = Path(csn_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# From top to bottom. A module imports from layers below its own, and a package's modules from each other.
LAYERS = (
    ("train", "evaluate", "embed", "search", "adapt", "explore", "report", "port", "benchmark"),
    ("suites",),
    ("loop", "answers"),
    ("sheet", "image_map", "report_pictures", "report_text"),
    ("pictures", "deploy", "model_card", "explain", "layout", "qdrant_search"),
    ("qdrant",),
    ("model", "index", "pending"),
    ("network",),
    ("evaluators",),
    ("data",),
    ("runtime",),
    ("core",),
    ("backbones",),
    ("config",),
    ("typed",),
    ("errors", "text"),
)
VERB_TOOL = "cli"  # beside the verbs: imports the lowest layers only


def module_of(path: Path) -> str:
    return ".".join(("csn_jax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Every imported module, also inside functions; `from a import b` counts as a.b where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


MODULES = {module_of(path) for path in FILES}


def layer_of(module: str) -> int | None:
    part = module.split(".")[1] if "." in module else None
    for depth, layer in enumerate(LAYERS):
        if part in layer:
            return depth
    return None


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    """Verbs, loop, pictures, model, evaluators, data, runtime, core, backbones, config, errors and text."""
    module = module_of(path)
    if module == "csn_jax":
        return  # its imports are lazy or for type checkers, tested below
    ours = {name for name in imports_of(path) if name.startswith("csn_jax.")}
    part = module.split(".")[1]
    if part == VERB_TOOL:
        assert ours <= {"csn_jax.config", "csn_jax.errors", "csn_jax.text"}
        return
    depth = layer_of(module)
    assert depth is not None, f"{module} belongs to no layer; add it to LAYERS"
    for name in ours:
        if name == f"csn_jax.{VERB_TOOL}":
            assert depth == 0, f"{module} imports the command line"
            continue
        other = layer_of(name)
        assert other is not None, f"{module} imports {name}, which belongs to no layer"
        assert other > depth or name.split(".")[1] == part, f"{module} imports {name}, which lies above it"


HOMES = {
    "flax": lambda module: module.startswith("csn_jax.backbones"),
    "tensorflow": lambda module: (
        module in ("csn_jax.train.tf_feed", "csn_jax.data.sources.tfds", "csn_jax.data.sources.tfds_builders")
    ),
    "tensorflow_datasets": lambda module: module in ("csn_jax.data.sources.tfds_builders", "csn_jax.data.sources.tfds"),
    "orbax": lambda module: module == "csn_jax.runtime.checkpoint",
    "tyro": lambda module: module == "csn_jax.cli",
    "torch": lambda module: False,
    "pickle": lambda module: False,
    "safetensors": lambda module: module == "csn_jax.model.weight_files",
    "huggingface_hub": lambda module: module == "csn_jax.model.weight_files",
    "onnx": lambda module: module == "csn_jax.port.onnx_graph",
    "onnxruntime": lambda module: False,
    "openTSNE": lambda module: module == "csn_jax.pictures.maps",
    "playwright": lambda module: False,
    "qdrant_client": lambda module: module in ("csn_jax.store.qdrant", "csn_jax.search.qdrant_search"),
    "tensorboardX": lambda module: False,
}


@pytest.mark.parametrize("package", HOMES)
def test_a_package_is_imported_in_its_home_only(package):
    for path in FILES:
        if any(name.split(".")[0] == package for name in imports_of(path)):
            assert HOMES[package](module_of(path)), f"{module_of(path)} imports {package}"


def test_data_imports_jax_in_feeds_only():
    """Reading data needs NumPy alone."""
    users = {module_of(path) for path in FILES if any(name.split(".")[0] == "jax" for name in imports_of(path))}
    assert {name for name in users if name.startswith("csn_jax.data.")} <= {
        "csn_jax.train.feed",
        "csn_jax.train.tf_feed",
    }


@pytest.mark.parametrize(
    "module",
    [
        f"csn_jax{name}"
        for name in ("", ".cli", ".config", *(f".{verb}" for verb in LAYERS[0] if (ROOT / f"{verb}.py").exists()))
    ],
)
def test_importing_is_light(module):
    """Neither JAX nor TensorFlow nor NumPy nor tyro, so that --help answers at once."""
    code = f"import sys, {module}; print(sorted({{'jax', 'tensorflow', 'numpy', 'flax', 'tyro'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_public_names_resolve_and_shadow_no_module():
    """`from .search import search` would replace a module by a function; every name in __all__ is there."""
    modules = {name.split(".")[1] for name in MODULES if name.count(".") == 1}
    for name in csn_jax.__all__:
        assert name not in modules, f"csn_jax.{name} is also a module"
        assert getattr(csn_jax, name) is not None
    assert set(csn_jax._HOMES) | {"__version__"} == set(csn_jax.__all__) == set(dir(csn_jax))
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        csn_jax.serch  # noqa: B018


def test_no_module_is_a_drawer_for_everything():
    for path in FILES:
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), path
        assert len(path.read_text().splitlines()) < 450, f"{path} has grown too long for one subject"
        assert not path.stem.startswith("test")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))

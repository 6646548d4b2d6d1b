"""The layout: one wing per command, imports that go down, one home per heavy package, no name that hides a module."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import csn_jax

ROOT = Path(csn_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
COMMANDS = ("train", "evaluate", "embed", "beam", "search", "adapt", "teach", "explore", "report", "port", "benchmark")
# From top to bottom. A module imports from floors below its own, and from its own package.
FLOORS = (
    ("__main__",),
    COMMANDS,
    ("model", "store"),
    ("pictures",),
    ("data",),
    ("runtime",),
    ("core",),
    ("backbones",),
    ("cli",),
    ("config",),
    ("errors", "text"),
)
# It handles Ctrl-C while everything else is imported, so it imports nothing of ours, and every floor may import it.
GROUND = "csn_jax.runtime.starting"
# Training, adapting and exporting end with a measurement, so evaluate's wing is open to other commands.
# The benchmark measures the other commands' parts: every wing is open to it, and its use alone makes nothing shared.
OPEN_WING, GUEST = "evaluate", "benchmark"


def module_of(path: Path) -> str:
    return ".".join(("csn_jax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def part_of(module: str) -> str:
    """The command or floor that a module lies in; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


@cache
def imports_of(path: Path, *, of_types: bool = True) -> set[str]:
    """Every imported module, also inside functions; `from a import b` counts as a.b where that is a module."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = set()
    if not of_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found


MODULES = {module_of(path) for path in FILES}
GRAPH = {
    module_of(path): {name for name in imports_of(path, of_types=False) if name.startswith("csn_jax.")}
    for path in FILES
}


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a floor that does not lie below, and modules on no floor."""
    depth = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    wrong = []
    for module, names in graph.items():
        if module == "csn_jax":
            continue  # its imports are lazy, tested below
        if part_of(module) not in depth:
            wrong.append(f"{module} lies on no floor")
            continue
        for name in names - {"csn_jax", GROUND}:
            if part_of(name) != part_of(module) and depth.get(part_of(name), -1) <= depth[part_of(module)]:
                if part_of(module) not in COMMANDS or part_of(name) not in COMMANDS:  # wings have a rule of their own
                    wrong.append(f"{module} imports {name}, which does not lie below it")
    return wrong


def in_foreign_wings(graph: dict[str, set[str]]) -> list[str]:
    """Imports from another command's wing."""
    return [
        f"{module} imports {name} out of another command's wing"
        for module, names in graph.items()
        for name in names
        if part_of(name) in COMMANDS
        and part_of(module) not in (part_of(name), "", "__main__")
        and part_of(name) != OPEN_WING
        and part_of(module) != GUEST
    ]


def lonely(graph: dict[str, set[str]]) -> list[str]:
    """Modules of a shared floor that one command alone needs, directly or through other shared modules."""
    users: dict[str, set[str]] = {module: set() for module in graph}
    for module in graph:
        if part_of(module) not in COMMANDS or part_of(module) == GUEST:
            continue
        seen, ahead = set(), [module]
        while ahead:
            for name in graph.get(ahead.pop(), ()):
                if part_of(name) not in (*COMMANDS, "") and name not in seen:
                    seen.add(name)
                    ahead.append(name)
        for name in seen:
            users.setdefault(name, set()).add(part_of(module))
    shared = {name for floor in FLOORS[2:8] for name in floor}
    packages = {module for module in graph if any(other.startswith(f"{module}.") for other in graph)}
    return [
        f"{module} is needed by {' '.join(users[module]) or 'no command'} alone; it belongs into that command's folder"
        for module in graph
        if part_of(module) in shared and module not in packages | DOORS and len(users[module]) < 2
    ]


# What others than commands start: `tfds build`.
DOORS = {"csn_jax.data.sources.tfds_builders"}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle."""
    state: dict[str, int] = {}
    found: list[str] = []

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for name in graph.get(module, ()):
            if state.get(name) == 1:
                found.append(" -> ".join([*path, module, name]))
            elif name not in state:
                visit(name, [*path, module])
        state[module] = 2

    for module in graph:
        if module not in state:
            visit(module, [])
    return found


def test_imports_go_down():
    assert upward(GRAPH) == [] and GRAPH[GROUND] == set()


def test_no_command_imports_another_commands_wing():
    assert in_foreign_wings(GRAPH) == []


def test_what_one_command_needs_lies_in_its_folder():
    assert lonely(GRAPH) == []


def test_no_circle():
    without_package = {module: names - {"csn_jax"} for module, names in GRAPH.items() if module != "csn_jax"}
    assert circles(without_package) == []


def test_the_rules_have_teeth():
    """Each planted fault is reported, and only that."""
    helper = GRAPH | {
        "csn_jax.data.helper": set(),
        "csn_jax.adapt.fit": GRAPH["csn_jax.adapt.fit"] | {"csn_jax.data.helper"},
    }
    assert len(lonely(helper)) == 1 and "csn_jax.data.helper is needed by adapt alone" in lonely(helper)[0]
    # With a second command it may stay.
    second = helper | {"csn_jax.embed": helper["csn_jax.embed"] | {"csn_jax.data.helper"}}
    assert lonely(second) == []
    stolen = GRAPH | {"csn_jax.embed": GRAPH["csn_jax.embed"] | {"csn_jax.search.answers"}}
    assert len(in_foreign_wings(stolen)) == 1
    up = GRAPH | {"csn_jax.data.item_set": GRAPH["csn_jax.data.item_set"] | {"csn_jax.store.index"}}
    assert len(upward(up)) == 1
    assert any("item_set" in circle for circle in circles(up | {"csn_jax.store.index": {"csn_jax.data.item_set"}}))


def test_the_house_has_few_doors():
    """What `ls csn_jax` shows."""
    entries = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 25
    assert {"__main__.py", *COMMANDS} <= entries
    for command in COMMANDS:
        assert len((ROOT / command / "__main__.py").read_text().splitlines()) == 3


def test_modules_are_short():
    """No drawer for everything, and no module over 300 lines but a finished reader of PyTorch archives."""
    for path in FILES:
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), path
        assert not path.stem.startswith("test")
        if path.stem != "torch_archive":
            assert len(path.read_text().splitlines()) <= 300, f"{path} is too long for one subject"


HOMES = {
    "apache_beam": lambda module: module in ("csn_jax.beam.pipeline", "csn_jax.data.sources.tfds_builders"),
    "fsspec": lambda module: module == "csn_jax.beam.storage",
    "flax": lambda module: module.startswith("csn_jax.backbones"),
    "tensorflow": lambda module: (
        module in ("csn_jax.train.tf_feed", "csn_jax.data.sources.tfds", "csn_jax.data.sources.tfds_builders")
    ),
    "tensorflow_datasets": lambda module: module in ("csn_jax.data.sources.tfds_builders", "csn_jax.data.sources.tfds"),
    "orbax": lambda module: module == "csn_jax.runtime.checkpoint",
    "torch": lambda module: False,
    "pickle": lambda module: False,
    "safetensors": lambda module: module == "csn_jax.model.weight_files",
    "huggingface_hub": lambda module: module == "csn_jax.model.weight_files",
    "onnx": lambda module: module == "csn_jax.port.onnx_graph",
    "onnxruntime": lambda module: module == "csn_jax.embed.encoder",
    "openTSNE": lambda module: module == "csn_jax.pictures.maps",
    "psycopg": lambda module: (
        module
        in (
            "csn_jax.store.postgres",
            "csn_jax.embed.to_postgres",
            "csn_jax.search.postgres_search",
            "csn_jax.search.postgres_filters",
        )
    ),
    "playwright": lambda module: False,
    "qdrant_client": lambda module: module in ("csn_jax.store.qdrant", "csn_jax.search.qdrant_search"),
    "tensorboardX": lambda module: False,
}


@pytest.mark.parametrize("package", HOMES)
def test_a_package_is_imported_in_its_home_only(package):
    for path in FILES:
        if any(name.split(".")[0] == package for name in imports_of(path)):
            assert HOMES[package](module_of(path)), f"{module_of(path)} imports {package}"


def test_data_imports_no_jax():
    """Reading data needs NumPy alone."""
    users = {module_of(path) for path in FILES if any(name.split(".")[0] == "jax" for name in imports_of(path))}
    assert {name for name in users if part_of(name) == "data"} == set()


@pytest.mark.parametrize("module", ["csn_jax", *(f"csn_jax.{name}" for name in ("cli", "config", *COMMANDS))])
def test_importing_is_light(module):
    """Neither JAX nor TensorFlow nor NumPy, so that --help answers at once."""
    code = f"import sys, {module}; print(sorted({{'jax', 'tensorflow', 'numpy', 'flax'}} & set(sys.modules)))"
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


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__main__.py"], ids=module_of)
def test_every_module_says_what_it_is(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))

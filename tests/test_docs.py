"""README, the pages of docs/ and launch/README.md: commands parse, tutorials run, flags exist, words are plain."""

import ast
import dataclasses
import functools
import hashlib
import importlib
import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import shop

import csn_jax
from csn_jax import cli
from csn_jax.__main__ import COMMANDS, main
from csn_jax.config import Config
from csn_jax.pictures import sheets

ROOT = Path(__file__).parents[1]
EVIDENCE = ("DIFFERENCES", "PERFORMANCE", "RELIABILITY", "RESULTS", "SCALE")  # hours, other data, other programs
PAGES = sorted([ROOT / "README.md", ROOT / "launch/README.md", *(ROOT / "docs").glob("*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
# README's commands run in test_readme.py and the Python of stores.md in test_stores.py.
TUTORIALS = [path.stem for path in PAGES if path.parent.name == "docs" and path.stem not in (*EVIDENCE, "stores")]
ONLY_PARSED = {
    "--distributed": "needs one process per command; tests of runtime/hosts run pairs of them",
    "--config=tfds": "downloads a data set; the tests of the source make one",
    "table_pretrained": "needs a package of weights; the tests of training make one",
    "runs/pretrained ": "the same",
    "--encoder=efficientnet_lite0": "the same; the tests of embed make one",
    "--config=zappos50k": "needs a data set for academic use only; the tests of the source make one",
    "benchmark --suite": "takes minutes; tests of the benchmark run every suite, tiny",
    "postgresql://": "needs a server of PostgreSQL; the tests of the store start one",
    "beam --workdir": "needs Apache Beam; the tests of the command run it where it is installed",
    "http://localhost": "needs a Qdrant server; the same pages run Qdrant in a folder",
}
START = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:\S*/)?(?:csn_jax(?: +|$)|python3? -m csn_jax(?:[. ]|$))(?P<rest>.*)")
LAUNCH = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:sbatch .*)?launch/\w+\.sh (?P<rest>-.*)")


class Block(NamedTuple):
    """Consecutive lines of code of a page; language: of its fence, `indented` or `inline`."""

    language: str
    text: str


@functools.cache
def blocks(path: Path) -> list[Block]:
    """The code of a page in order, spans inside sentences last."""
    text, found = path.read_text(encoding="utf-8"), []

    def fenced(match: re.Match) -> str:
        found.append((match.start(), Block(match[2], match[3])))
        return re.sub(r"[^\n]", " ", match[0])

    text = re.sub(r"^( *)```(\w*)\n(.*?)^\1```$", fenced, text, flags=re.MULTILINE | re.DOTALL)
    for match in re.finditer(r"(?:^    \S.*\n)+", text, flags=re.MULTILINE):
        found.append((match.start(), Block("indented", match[0])))
    ordered = [block for _, block in sorted(found)]
    return ordered + [Block("inline", " ".join(span.split())) for span in re.findall(r"`([^`]+)`", text)]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of this package in a block, from its name (train, search, ...) on."""
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        for part in line.split(" && "):
            started, launched = START.fullmatch(part.strip()), LAUNCH.fullmatch(part.strip())
            if started:
                yield shlex.split(started["rest"], comments=True)
            elif launched:
                yield ["train", *shlex.split(launched["rest"], comments=True)]


def test_commands_are_found():
    text = "A=1 .venv/bin/csn_jax train \\\n    --x=1  # why\npython -m csn_jax.embed a && csn_jax\ncsn_jax_x\nls\n"
    words = [["train", "--x=1"], ["embed", "a"], []]
    assert list(commands(Block("bash", text))) == words
    assert list(commands(Block("", "P=2 launch/local.sh --config=... --a=b"))) == [["train", "--config=...", "--a=b"]]
    everything = [words for path in PAGES for block in blocks(path) for words in commands(block)]
    assert {words[0] for words in everything if words} >= {*COMMANDS}
    assert len(everything) > 80


class Parsed(Exception):
    """Raised where a command has read its flags, with what it read."""


@pytest.fixture
def parse(monkeypatch):
    """A function that lets a command read its words, and returns its arguments before it does anything."""

    def parse(command: str, words: list[str]) -> Any:
        with monkeypatch.context() as patch:
            patch.chdir(ROOT)  # where configs/ is
            real = cli.parse

            def stop(*args, **options):
                raise Parsed(real(*args, **options))

            patch.setattr(cli, "parse", stop)
            try:
                main([command, *words])
            except Parsed as parsed:
                return parsed.args[0]
        raise AssertionError(f"{command} ended without reading its flags")

    return parse


def is_call(words: list[str]) -> bool:
    """Whether words are a whole command of a wing, and not its name in a sentence."""
    return len(words) > 1 and words[0] in COMMANDS and not {"--help", "--help-all"} & {*words}


@pytest.mark.parametrize("name", NAMES)
def test_commands_parse(name, parse):
    """An unknown command, flag, value or preset fails here, in seconds and without training."""
    for block in blocks(ROOT / name):
        for words in commands(block):
            if not words or words[0].startswith("--"):
                main(words)  # prints the list of commands, the version or a script
            assert not words or words[0] in (*COMMANDS, "COMMAND") or words[0].startswith("-"), words
            if is_call(words):
                words = [word for word in words if not re.fullmatch(r"(\[?--[\w.]+=)?\.\.\.\]?", word)]
                try:
                    parse(words[0], words[1:])
                except csn_jax.UserError as error:
                    pytest.fail(f"{name}: {shlex.join(words)}: {error}")


def test_the_parser_has_teeth(parse):
    for words in (["--stepz=1"], ["--config=tabel"], ["--config.variant=lerned"], ["--config.steps=many"]):
        with pytest.raises(csn_jax.UserError):
            parse("train", words)
    assert parse("train", ["--config.steps=7"]).config.steps == 7


def fields(cls: Any, prefix: str = "") -> Iterator[str]:
    """The flags of a dataclass of arguments, without dashes."""
    for field in dataclasses.fields(cls):
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(field.type):
            yield from fields(field.type, f"{prefix}{field.name}.")


@pytest.fixture
def flags(monkeypatch):
    """{command: its flags}, read from what each command hands to the parser."""
    known = {}
    for command in COMMANDS:
        known[command] = set()
        for words in (["import"], ["export"]) if command == "port" else ([],):
            with monkeypatch.context() as patch:
                patch.setattr(cli, "parse", lambda cls, *_, **__: (_ for _ in ()).throw(Parsed(cls)))
                with pytest.raises(Parsed) as parsed:
                    main([command, *words])
            known[command] |= {*fields(parsed.value.args[0])}
    return known


FRONT = {"help", "help-all", "version", "completion"}
OF_OTHERS = {"--strict", "--test"}  # of mkdocs and of the authors' main.py


@pytest.mark.parametrize("name", [name for name in NAMES if Path(name).stem not in EVIDENCE])
def test_flags_in_sentences_exist(name, flags, parse):
    """Every `--flag` that a page names is a flag of some command; settings with a value are also parsed."""
    known = set().union(FRONT, *flags.values(), (f"config.{field}" for field in fields(Config)))
    for block in blocks(ROOT / name):
        span = re.fullmatch(r"--([\w.-]+)(.*)", block.text)
        if block.language != "inline" or not span or block.text.split()[0] in OF_OTHERS:
            continue
        if span[1] not in ("config.FIELD", "config.x.y"):
            assert span[1] in known, f"{name}: `{block.text}`"
        if span[1].startswith("config") and span[2] and not re.search(r"[A-Z]{2}|\b[A-Z]\b|\.\.\.", block.text):
            parse("train", shlex.split(block.text))


def test_flags_in_the_reference_belong_to_their_command(flags):
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    assert tuple(sections) == COMMANDS
    for command, section in sections.items():
        rows = re.findall(r"^\| `(--.*?) \|", section, re.MULTILINE)
        named = [flag for row in rows for flag in re.findall(r"--([\w.]+)", row)]
        assert len(named) > 1
        assert {*named} - {"config.FIELD"} <= flags[command], command


@pytest.mark.parametrize("name", NAMES)
def test_python_imports_what_exists(name):
    """Also on pages whose Python takes long or needs other data."""
    for block in blocks(ROOT / name):
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "csn_jax":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_begins_with_what_its_reader_can_do(name):
    title, _, first, *_ = (ROOT / name).read_text(encoding="utf-8").split("\n")
    assert title.startswith("# ")
    assert first.startswith("**One embedding" if name == "README.md" else "Read this page to "), first


def test_readme_is_a_first_screen():
    """Its length, and the two blocks that set up and test a checkout."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 900 <= len(text.split()) <= 1_100
    shell = [block.text.strip() for block in blocks(ROOT / "README.md") if block.language == "bash"]
    start = "python3 -m venv .venv && .venv/bin/pip install --quiet -e "
    assert shell == [
        f"{start}. && .venv/bin/python -m csn_jax.train --workdir=runs/quickstart",
        f"{start}'.[test]' && .venv/bin/python -m pytest",
    ]
    for heading, block in zip(("## Train\n", "## Test\n"), shell, strict=True):
        assert text.partition(heading)[2].partition("```bash\n")[2].startswith(block)


def test_the_menu_has_every_page_once():
    menu = re.findall(r"(?:: |- )([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(menu) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "launch/README.md"])
def test_links_outside_the_site_lead_somewhere(name):
    """Files, and headings in them; links between pages of the site are checked by the strict build."""
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target = (ROOT / name).parent / path
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, (
                path,
                anchor,
            )


def test_contributing_lists_every_module():
    """The tree of files has each module of the package once, under the folder that it is in."""
    tree = re.search(r"```\ncsn_jax/\n(.*?)^configs/", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
    listed, parts = [], {}
    for line in filter(str.strip, tree[1].splitlines()):
        depth = len(line) - len(line.lstrip())
        entry = re.match(r"(\w+/)?(?: *\(?(.*))", line.strip())
        folder = "".join(name for indent, name in parts.items() if indent < depth)
        if entry[1]:
            parts = {indent: name for indent, name in parts.items() if indent < depth} | {depth: entry[1]}
            folder += entry[1]
        listed += [f"{folder}{name}" for name in re.findall(r"\b\w+\.py\b", entry[2])]
    package = Path(csn_jax.__file__).parent
    modules = [path.relative_to(package) for path in package.rglob("*.py") if "configs" not in path.parts]
    named = [path.as_posix() for path in modules if path.stem not in ("__init__", "__main__")]
    assert {*listed} ^ {*named, "__main__.py"} == set()
    assert len(listed) == len({*listed})


# The left column of the list of words: (what is meant, pattern, texts it finds, texts it leaves alone).
COUNTED = (
    "vectors?|rows?|masks?|triplets?|images?|columns?|networks?|copy|copies|numbers?|files?|lines?|once|twice|[%)]"
)
UNITS = "item|condition|triplet|query|step|epoch|image|row|file|font|dimension|suite|task|batch|second|minute|hour|line"
WORDS = [
    ("told", r"\btold\b|\btells that\b|\btells of\b", ["is told", "it tells that x"], ["tells each process", "retold"]),
    (
        "is no N",
        r"(?<!\bthere )\b(?:is|are|was|were|be) no (?!longer\b|more\b|less\b|\w+er\b)\w|\b(?:is|are) none of\b",
        ["x is no file", "what is none of these"],
        ["there is no file", "is no longer there", "is no higher than", "finds no file"],
    ),
    (
        "a/an for per",
        rf"\b(?:{COUNTED})\s+(?-i:an?)\s+(?:{UNITS})\b|\d\s*(?:s|ms|MB|kB|%)?\s+(?-i:an?) (?:{UNITS})\b",
        ["one vector an item", "once a condition", "3 MB an image", "20 a second"],
        ["one vector per item", "give the image a name", "in a second", "colour=0.5 A query is"],
    ),
    ("the unlike", r"\bthe unlike\b|\bunlikeness\b", ["asks for the unlike"], ["unlike the others"]),
    (
        "goes on",
        r"\b(?:goes|go|went|going) on (?:where|after|from|there|with|to)\b",
        ["goes on where it stopped", "go on after a kill"],
        ["the masks are better: go on.", "it goes over a line"],
    ),
    ("gives away", r"\bg[ai]ves? \w+ \w* ?away\b", ["gives the negatives away"], ["gives a warning"]),
    ("strangers", r"\bstrangers?\b", ["files of strangers"], ["a stranger's"[:0], "stranger things"[8:]]),
    ("mend", r"\bmend(?:s|ed|ing)?\b", ["all are mended"], ["we recommend", "amend it"]),
    (
        "inverted clause",
        r"\bwherein\b|\b(?:that )?of which\b",
        ["the index, of which each", "that of which"],
        ["which of the two", "most of it"],
    ),
    ("notion", r"\bnotions?\b", ["a notion of yours"], ["one embedding, many notions of similarity"]),
]
TAGLINE = re.compile(r"one embedding, many notions of similarity", re.IGNORECASE)


def prose(path: Path) -> Iterator[str]:
    """The text of a page without its code, and every text of a Python file: messages, help and documentation."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield re.sub(r"^( *)```.*?^\1```$|`[^`]*`", "`code`", text, flags=re.MULTILINE | re.DOTALL)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def findings(text: str) -> list[str]:
    """What the list of words finds in a text, each with its surroundings."""
    text = TAGLINE.sub("", " ".join(text.split()))
    return [
        f"{meant}: ...{text[max(0, match.start() - 30) : match.end() + 30]}..."
        for meant, pattern, *_ in WORDS
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("meant, pattern, found, left", WORDS, ids=[word[0] for word in WORDS])
def test_the_list_of_words_finds_what_it_means(meant, pattern, found, left):
    for text in found:
        assert [one for one in findings(text) if one.startswith(meant)], text
    for text in left:
        assert not findings(text), text


TEXTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_use_plain_words(path):
    assert [finding for text in prose(path) for finding in findings(text)] == []


def test_messages_and_help_use_plain_words():
    """Every text of the package and of the presets: messages, help, documentation."""
    paths = [*(ROOT / "configs").glob("*.py"), *Path(csn_jax.__file__).parent.rglob("*.py")]
    everything = {path.relative_to(ROOT).as_posix(): [*map(findings, prose(path))] for path in sorted(paths)}
    assert {name: sum(found, []) for name, found in everything.items() if any(found)} == {}


SMALL = {
    "steps": 2,
    "batch_size": 16,
    "eval_every": 2,
    "checkpoint_every": 2,
    "data.train_triplets": 100,
    "data.validation_triplets": 60,
    "data.test_triplets": 60,
}


def shortened(words: list[str]) -> list[str]:
    """A command of a page at a size of seconds."""
    small = {
        "train": {f"config.{name}": value for name, value in SMALL.items()},
        "explore": {"max_items": 40},
        "report": {"items": 20},
    }.get(words[0], {})
    if any(word.startswith("--config.preprocess.size=") for word in words):
        small["config.preprocess.size"] = 32
    kept = [word for word in words if word.removeprefix("--").partition("=")[0] not in small]
    return kept + [f"--{name}={value}" for name, value in small.items()]


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """What the pages speak of: a table with pictures, triplets of people, a query, checkpoints, an encoder, fonts."""
    import matplotlib
    import torch
    import torch_reference as reference
    from safetensors.torch import save_file
    from small_encoder import means, network

    folder = tmp_path_factory.mktemp("docs") / "materials"
    folder.mkdir()
    table = shop.columns()
    shop.write(folder / "products.csv", table, pictures=True)
    images, colours = table["image"], table["colour"]
    table["closure"] = [{"red": "lace", "green": "buckle", "blue": "zip"}[colour] for colour in table.pop("colour")]
    table["heel"] = table.pop("size")
    shop.write(folder / "products.csv", table)
    shoes = {
        "image": images,
        "colour": colours,
        "season": [("Summer", "Fall", "Winter")[i % 3] for i in range(len(images))],
    }
    shop.write(folder / "footwear.parquet", shoes, vector=shop.vectors(shop.columns()))
    rows = []
    for a, b, c in itertools.islice(itertools.permutations(range(12), 3), 0, None, 5):
        if colours[a] == colours[b] != colours[c]:
            rows.append((images[a], images[b], images[c], ("style", "comfort")[len(rows) % 2]))
    names = ("anchor", "positive", "negative", "condition")
    triplets = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    shop.write(folder / "people.csv", triplets)
    shop.write(folder / "style.csv", {name: triplets[name] for name in names[:3]})
    names_of = [image.removeprefix("images/") for image in images]
    for name, some in (("labels", slice(None)), ("anna", slice(40)), ("ben", slice(20, None))):
        shop.write(folder / f"{name}.csv", {"id": names_of[some], "colour": colours[some]})
    answers = {name: [image.removeprefix("images/") for image in triplets[name]] for name in names[:3]}
    shop.write(folder / "triplets.csv", answers)
    shop.draw(folder / "query.jpg", 61, "boot", "red")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "parts").mkdir()  # a page makes it by mkdir, which is not run
    (folder / "FONTS").mkdir()
    for path in sorted((Path(matplotlib.get_data_path()) / "fonts/ttf").glob("DejaVuS*.ttf")):
        shutil.copy(path, folder / "FONTS")
    network(folder / "encoder.onnx", **means(("batch", 3, 16, 16), axes=[2, 3], keepdims=0))
    torch.manual_seed(0)
    resnet, masks = reference.ResNet18CSN(64), torch.nn.Embedding(4, 64)
    state = {f"embeddingnet.embeddingnet.{name}": tensor for name, tensor in resnet.state_dict().items()}
    torch.save({"state_dict": state | {"embeddingnet.masks.weight": masks.weight.data}}, folder / "checkpoint.pth.tar")
    save_file(reference.resnet18(10).state_dict(), folder / "resnet18.safetensors")
    return folder


def is_run(words: list[str]) -> bool:
    return is_call(words) and not any(part in shlex.join(words) for part in ONLY_PARSED)


def runs_of(page: str) -> list[Block]:
    return [block for block in blocks(ROOT / f"docs/{page}.md") if block.language in ("bash", "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", [*filter(runs_of, TUTORIALS)])
def test_a_page_runs(page, materials, tmp_path, monkeypatch, capsys):
    """Its commands and its Python, in order, in a folder with what the page speaks of.

    A training that an earlier page has done by the same command is there already, as a user would have it.
    """
    folder, trained = tmp_path / "user", materials.parent / "trained"
    shutil.copytree(materials, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CSN_JAX_CACHE", str(materials.parent / "cache"))
    monkeypatch.setattr(sheets, "QUERIES", 1)
    names: dict[str, Any] = {}
    for block in runs_of(page):
        if block.language == "python":
            exec(block.text.replace("steps=2_000", "steps=2, batch_size=16, eval_every=2"), names)
        for words in filter(is_run, commands(block) if block.language == "bash" else ()):
            workdir = next((word.removeprefix("--workdir=") for word in words if word.startswith("--workdir=")), "")
            kept = trained / hashlib.sha256(shlex.join(words).encode()).hexdigest()
            if kept.is_dir():
                shutil.copytree(kept, workdir)
            try:
                main(shortened(words))
            except csn_jax.UserError as error:
                pytest.fail(f"docs/{page}.md: {shlex.join(words)}: {error}")
            assert capsys.readouterr().out, words
            if words[0] == "train" and Path(workdir, "results.json").is_file() and not kept.is_dir():
                shutil.copytree(workdir, kept)


def test_what_is_only_parsed_is_on_a_page():
    everything = [shlex.join(words) for path in PAGES for block in blocks(path) for words in commands(block)]
    for part in ONLY_PARSED:
        assert any(part in command for command in everything), part

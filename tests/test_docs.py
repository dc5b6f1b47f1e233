"""What the pages name exists: files, links, modules, config fields, flags; the front page is short
and its Python can be imported.
"""

import ast
import importlib
import itertools
import pathlib
import re

import pytest
from absl import flags

from sleep_jax.config import RunConfig, default
from sleep_jax.seeding.transaction import MemoryState
from sleep_jax.settings import every
from sleep_jax.verbs.main import VERBS

ROOT = pathlib.Path(__file__).parents[1]
FIELDS = every(RunConfig)
SECTIONS = {path.rpartition(".")[0] for path in FIELDS} - {""}
FOLDERS = r"sleep_jax|configs|tests|launch|experiments|benchmarks|notebooks|docs"

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "launch/README.md")
}
PRESETS = {
    str(path.relative_to(ROOT)): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    for path in sorted((*ROOT.glob("configs/*.py"), *ROOT.glob("configs/sweeps/*.py")))
}
OTHERS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks/README.md", *sorted(ROOT.glob("experiments/*/README.md")))
}

each_text = pytest.mark.parametrize("name", [*PAGES, *PRESETS])
each_page = pytest.mark.parametrize("name", [*PAGES, *OTHERS])


def code_of(name: str) -> list[str]:
    """The code of a page: what is indented, fenced or between backticks. A docstring is code as a
    whole.
    """
    if name in PRESETS:
        return (PRESETS[name] or "").splitlines()
    code, is_fenced = [], False
    for line in PAGES[name].splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            code.append(line)
        else:
            code += re.findall(r"`([^`]+)`", line)
    return code


def heading_anchors(text: str) -> set[str]:
    """The anchors that a page's headings have: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def defined_flags() -> set[str]:
    """The flags of `launch.py` and those of every script that the pages name."""
    importlib.import_module("sleep_jax.cli.main")  # defines the flags
    names = {"config", "workdir", "debug", "version", "help", *flags.FLAGS}
    scripts = ("sleep_jax/**/*.py", "benchmarks/*.py", "experiments/*/*.py", "tests/fuzz/*.py")
    for path in itertools.chain(*map(ROOT.glob, scripts)):
        source = path.read_text(encoding="utf-8")
        names |= set(re.findall(r"add_argument\(\s*\"--([\w-]+)\"", source))
    return names


def test_front_page_length():
    assert len(PAGES["README.md"].splitlines()) < 90


def test_index_names_every_page():
    links = set(re.findall(r"\]\((\w+\.md)\)", PAGES["docs/README.md"]))
    assert links == {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}


@each_page
def test_links_lead_to_files_and_headings(name):
    text = (PAGES | OTHERS)[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in heading_anchors(file.read_text(encoding="utf-8")), target


@each_text
def test_files_exist(name):
    for line in code_of(name):
        for path in re.findall(rf"(?<![\w./~-])(?:(?:{FOLDERS})/[\w./-]*|launch\.py)", line):
            assert (ROOT / path.rstrip(".")).exists(), line


@each_text
def test_modules_exist(name):
    for line in code_of(name):
        for dotted in re.findall(r"(?<![\w./])sleep_jax((?:\.\w+)+)", line):
            module, *names = resolve(dotted.strip(".").split("."))
            assert len(names) <= 1, line
            assert all(re.search(rf"\b{n}\b", module.read_text(encoding="utf-8")) for n in names)


def resolve(parts: list[str]) -> tuple:
    """The file of a module, and those parts of a dotted name that are names in it."""
    path = ROOT / "sleep_jax"
    while parts and ((path / parts[0]).is_dir() or (path / f"{parts[0]}.py").exists()):
        path, parts = path / parts[0], parts[1:]
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py"), *parts)


@each_text
def test_config_fields_exist(name):
    known = {*FIELDS, *SECTIONS}
    for line in code_of(name):
        given = re.findall(r"--(?:no)?config\.([\w.]+)", line)
        section = rf"(?<![\w./-])(?:{'|'.join(sorted(SECTIONS))})\.[a-z_.]+(?![\w/(])"
        given += [path for path in re.findall(section, line) if not path.endswith((".py", ".md"))]
        for path in given:
            assert path.rstrip(".") in known, line


@each_text
def test_flags_exist(name):
    known = defined_flags()
    ours = re.compile(rf"launch\.py|-m sleep_jax |sleep-jax |(?:{FOLDERS})/\S+\.(?:py|sh)|^--")
    for line in code_of(name):
        if match := ours.search(line.strip()):
            command = line.strip()[match.start() :].split("#")[0]
            for flag in re.findall(r"(?<!\S)'?--([\w-]+)(?=[=\s'.]|$)", command):
                assert flag == "config" or flag.removeprefix("no") in known or flag in known, line


@each_page
def test_verbs_exist(name):
    for verb in re.findall(r"(?:-m sleep_jax|sleep-jax) ([a-z]+)", (PAGES | OTHERS)[name]):
        assert verb in VERBS, verb


def test_python_of_the_front_page_can_be_imported():
    [source] = re.findall(r"^```python\n(.*?)^```", PAGES["README.md"], re.MULTILINE | re.DOTALL)
    settings, names = default(), {}
    for method in re.findall(r"state\.current\.(\w+)", source):
        assert hasattr(MemoryState, method), method
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = importlib.import_module(node.module)
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                names[alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {"settings": settings, **names}.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr), ast.unparse(node)

"""The shape of the package: which way rooms import, what they export, which commands there are."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import typer.main

import cryomend
from cryomend.cli import app

ROOT = Path(cryomend.__file__).resolve().parent
SOURCES = sorted(ROOT.rglob("*.py"))
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "cryomend."))
ROOMS = [name for name in MODULES if (ROOT / name.split(".")[1]).is_dir() and name.count(".") == 1]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_rooms_import_one_way(monkeypatch, capsys):
    cli = pytest.importorskip("importlinter.cli")
    repository = ROOT.parent.parent
    if not (repository / "pyproject.toml").is_file():
        pytest.skip("the contract stands in the repository")
    monkeypatch.chdir(repository)
    assert cli.lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_the_rooms_are_those_of_the_pipeline():
    assert {name.split(".")[1] for name in ROOMS} == {
        "specimen", "acquisition", "noise", "reconstruction", "network", "training", "restoration",
        "evaluation", "benchmark", "io",
    }  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_data_or_reaches_for_the_network(path):
    forbidden = {"pickle", "dill", "joblib", "shelve", "marshal"}
    if path != ROOT / "io" / "fetch.py":  # fetches what the user names, and nothing else does
        forbidden |= {
            "urllib",
            "urllib3",
            "requests",
            "pooch",
            "socket",
            "http",
            "ftplib",
            "aiohttp",
            "httpx",
        }
    assert not {name.split(".")[0] for name in imported(path)} & forbidden
    calls = {dotted(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    assert not calls & {
        "eval",
        "exec",
        "compile",
        "__import__",
        "torch.load",
        "torch.save",
        "yaml.load",
        "os.system",
    }
    unpickling = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
    ]
    assert not unpickling


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_say_what_they_are(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    for public in getattr(module, "__all__", []):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            # A dataclass without a docstring gets its signature for one.
            assert inspect.getdoc(value) and not inspect.getdoc(value).startswith(f"{public}("), public


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_say_what_is_public(name):
    assert importlib.import_module(name).__all__


def test_every_random_draw_has_an_explicit_source():
    for path in SOURCES:
        calls = {dotted(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}
        legacy = {c for c in calls if c.startswith("np.random.") and c != "np.random.default_rng"}
        assert not legacy, path


def test_the_commands_are_exactly_these():
    group = typer.main.get_command(app)
    assert list(group.commands["noise"].commands) == ["extract", "fit", "sample", "check"]
    assert set(group.commands) == {
        "specimen", "acquire", "simulate", "reconstruct", "train", "noise", "info", "restore", "sample",
        "evaluate", "areas", "report", "benchmark",
    }  # fmt: skip


def test_every_command_and_option_has_help():
    group = typer.main.get_command(app)
    groups = ("noise", "areas")
    commands = [c for c in group.commands.values() if c.name not in groups]
    commands += [c for name in groups for c in group.commands[name].commands.values()]
    assert len(commands) == 16
    for command in commands:
        assert command.help, command.name
        without = [p.name for p in command.params if not getattr(p, "help", None)]
        assert without == [], command.name


def test_commands_hold_no_more_than_fifteen_lines():
    functions = [n for n in tree(ROOT / "cli.py").body if isinstance(n, ast.FunctionDef) and n.decorator_list]
    commands = [f for f in functions if any("command" in ast.unparse(d) for d in f.decorator_list)]
    assert len(commands) == 16
    lines = {f.name: (f.body[-1].end_lineno or 0) - (f.body[0].end_lineno or 0) for f in commands}
    assert {name: n for name, n in lines.items() if n > 15} == {}


def test_commands_are_parsed_without_loading_torch():
    """Help and usage errors must come at once; torch alone takes seconds."""
    imports = {n for node in tree(ROOT / "cli.py").body for n in top_level_import(node)}
    assert not {name.split(".")[0] for name in imports} & {"torch", "numpy", "cryomend"}


def top_level_import(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []

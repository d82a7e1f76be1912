"""The script `run`: readable by old Pythons, makes and mends `.venv`, and finds what must not be committed."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "run"


def load(script: Path) -> ModuleType:
    """The script as a module; it takes the folder that it lies in for the repository."""
    loader = SourceFileLoader("run_script", str(script))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), vars(module))  # leaves no __pycache__
    return module


@pytest.fixture
def run(tmp_path: Path) -> ModuleType:
    (tmp_path / "app").mkdir()
    for name in ("pyproject.toml", "app/pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    copy = tmp_path / "run"
    copy.write_bytes(SCRIPT.read_bytes())
    return load(copy)


class Steps:
    """Stands in for the programs that the set-up starts: records them and makes what they would make."""

    def __init__(self, run: ModuleType, *, failing: Sequence[str] = ()) -> None:
        self.run = run
        self.failing = failing
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str]) -> str:
        self.commands.append(command)
        if any(word in command for word in self.failing):
            raise self.run.Failed("it did not work")
        if "venv" in command:
            python = Path(self.run.PYTHON)
            python.parent.mkdir(parents=True)
            python.touch(mode=0o755)
        return ""

    @property
    def made(self) -> int:
        """How often a virtual environment was made from scratch."""
        return sum("venv" in command for command in self.commands)


@pytest.fixture
def steps(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps(run)
    monkeypatch.setattr(run, "call", steps)
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    return steps


# -- readable by old Pythons ------------------------------------------------------------------------------------------


def test_script_has_no_syntax_that_an_old_python_cannot_read() -> None:
    newer = (ast.JoinedStr, ast.AnnAssign, ast.AsyncFunctionDef, ast.Await, ast.NamedExpr, ast.Nonlocal, ast.Starred)
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not isinstance(node, newer), f"line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            assert not node.args.kwonlyargs, node.name
            assert node.returns is None, node.name
            assert all(argument.annotation is None for argument in arguments), node.name
        if isinstance(node, ast.Raise):
            assert node.cause is None, f"line {node.lineno}"


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 10, 13)])
def test_old_python_is_told_which_were_found_when_there_is_no_newer(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(run, "sys", SimpleNamespace(version_info=version, executable="/opt/old", stderr=sys.stderr))
    monkeypatch.setenv("PATH", "")
    assert run.main(["demo"]) == 1
    said = capsys.readouterr().err
    assert "needs Python 3.11 or newer" in said
    assert "/opt/old is {}.{}.{}".format(*version) in said


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX scripts")
def test_old_python_hands_over_to_a_newer_one_on_path(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken, good = tmp_path / "python3.14", tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 127\n")
    good.write_text("#!/bin/sh\necho '(3, 12, 1)'\n")
    for program in (broken, good):
        program.chmod(0o755)
    became: list[list[str]] = []
    monkeypatch.setattr(run, "become", lambda command, *_: became.append(command))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(run.Failed):  # `become` does not return, but for this test
        run.restart_with_newer_python(["test", "-x"])
    assert became[0] == [str(good), str(tmp_path / "run"), "test", "-x"]


def test_script_does_not_hand_over_twice(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run.RESTARTED, "1")
    monkeypatch.setattr(run, "become", lambda *_: pytest.fail("handed over again"))
    with pytest.raises(run.Failed, match="needs Python"):
        run.restart_with_newer_python(["test"])


# -- the command line -------------------------------------------------------------------------------------------------


def call_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_help_names_every_command() -> None:
    done = call_script("--help")
    assert done.returncode == 0
    assert all(f"python3 run {name}" in done.stdout for name in ("demo", "test", "check", "bench", "setup"))


@pytest.mark.parametrize("arguments", [["nope"], []])
def test_unknown_command_ends_with_2_and_the_list(arguments: list[str]) -> None:
    done = call_script(*arguments)
    assert done.returncode == 2
    assert "demo, guide, test, check, bench, setup" in done.stderr


def test_unknown_check_ends_with_2_and_the_list() -> None:
    done = call_script("check", "nope")
    assert done.returncode == 2
    assert "format, lint, types, layers, tracked, lock" in done.stdout


# -- set-up -----------------------------------------------------------------------------------------------------------


def test_setup_does_nothing_when_it_was_done(run: ModuleType, steps: Steps) -> None:
    run.setup()
    first = len(steps.commands)
    run.setup()
    assert first > 0
    assert len(steps.commands) == first


def test_setup_installs_with_hashes_and_the_project_without_dependencies(run: ModuleType, steps: Steps) -> None:
    run.setup()
    _, lock, project = steps.commands
    assert "--require-hashes" in lock
    assert run.LOCK in lock
    assert {"--no-deps", "--no-build-isolation", "--editable"} <= set(project)


def test_setup_mends_in_place_when_the_lock_changed(run: ModuleType, steps: Steps) -> None:
    run.setup()
    with open(run.LOCK, "a") as lock:
        lock.write("# changed\n")
    before = len(steps.commands)
    run.setup()
    assert len(steps.commands) > before
    assert steps.made == 1


def test_setup_starts_over_when_the_last_one_was_interrupted(run: ModuleType, steps: Steps) -> None:
    run.setup()
    left_over = Path(run.VENV) / "left-over"
    left_over.touch()
    Path(run.UNFINISHED).touch()
    run.setup()
    assert steps.made == 2
    assert not left_over.exists()


def test_setup_starts_over_when_the_interpreter_is_gone(run: ModuleType, steps: Steps) -> None:
    run.setup()
    Path(run.PYTHON).unlink()
    run.setup()
    assert steps.made == 2
    assert Path(run.PYTHON).exists()


def test_setup_starts_over_when_the_folder_was_moved(
    run: ModuleType, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.setup()
    monkeypatch.setattr(run, "ROOT", run.ROOT + "-before")
    assert not run.is_ready()


def test_setup_fails_and_is_not_taken_for_done_when_packages_cannot_be_fetched(run: ModuleType, steps: Steps) -> None:
    steps.failing = ["--require-hashes"]
    with pytest.raises(run.Failed):
        run.setup()
    assert not run.is_ready()
    steps.failing = []
    run.setup()
    assert run.is_ready()
    assert steps.made == 2


def test_setup_starts_over_once_when_mending_fails(run: ModuleType, steps: Steps) -> None:
    run.setup()
    with open(run.PYPROJECT, "a") as file:
        file.write("# changed\n")
    steps.failing = ["--require-hashes"]
    with pytest.raises(run.Failed):
        run.setup()
    assert steps.made == 2


def test_setup_takes_pip_when_uv_fails(
    run: ModuleType, steps: Steps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run.shutil, "which", lambda name: "/opt/uv" if name == "uv" else None)
    steps.failing = ["/opt/uv"]
    run.setup()
    assert run.is_ready()
    assert any("pip" in command and run.PYTHON in command for command in steps.commands)
    assert "uv did not do it" in capsys.readouterr().out


def test_setup_uses_uv_alone_when_there_is_one(run: ModuleType, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.shutil, "which", lambda name: "/opt/uv" if name == "uv" else None)
    run.setup()
    assert run.is_ready()
    assert all(command[0] == "/opt/uv" for command in steps.commands)


def test_missing_venv_module_is_explained(
    run: ModuleType, steps: Steps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else found(name))
    assert run.main(["setup"]) == 1
    said = capsys.readouterr().err
    assert "ensurepip" in said
    assert "apt install python3-venv" in said


def test_programs_get_the_venv_first_and_no_stray_pythonpath(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = run.child_environment()
    assert "PYTHONPATH" not in environment
    assert environment["PATH"].split(os.pathsep)[0] == run.BIN


# -- the checks of its own --------------------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str = "") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_tracked_check_passes_when_nothing_is_wrong(run: ModuleType) -> None:
    assert run.check_tracked() == []


@pytest.mark.parametrize(
    "name", ["uv.lock", "app/uv.lock", ".env", "server.key", "data/dump.rdb", "src/a.pyc", ".npmrc"]
)
def test_tracked_check_names_a_file_that_must_not_be_committed(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    write(tmp_path, name)
    monkeypatch.setattr(run, "tracked_files", lambda: [name])
    assert len(run.check_tracked()) == 1
    assert name in run.check_tracked()[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("package-lock.json", '{"resolved": "somewhere"}'),
        ("requirements.lock", "--index-url somewhere\n"),
        ("requirements-dev.txt", "--find-links somewhere\n"),
        ("pyproject.toml", '[[tool.uv.index]]\nurl = "somewhere"\n'),
    ],
)
def test_tracked_check_names_a_registry_address(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str
) -> None:
    write(tmp_path, name, text)
    monkeypatch.setattr(run, "tracked_files", lambda: [name])
    assert "registry" in run.check_tracked()[0]


def test_lock_is_in_step_with_the_project() -> None:
    assert load(SCRIPT).check_lock() == []


def test_lock_check_fails_when_a_requirement_changed(run: ModuleType, tmp_path: Path) -> None:
    assert run.check_lock() == []
    project = tmp_path / "pyproject.toml"
    project.write_text(
        project.read_text(encoding="utf-8").replace("starlette>=1.3.1", "starlette>=1.4"), encoding="utf-8"
    )
    assert "setup --relock" in run.check_lock()[0]


def test_lock_holds_nothing_below_the_security_floor() -> None:
    pinned = dict(
        line.split(" ")[0].split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line[:60]
    )

    def release(name: str) -> tuple[int, ...]:
        return tuple(int(part) for part in pinned[name].split(".") if part.isdigit())

    assert release("starlette") >= (1, 3, 1)
    assert release("uvicorn") >= (0, 53)


# -- nothing is skipped in CI -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["pytest.skip('no server')", "pytest.xfail('not yet')"])
def test_skip_is_a_failure_in_ci(tmp_path: Path, body: str) -> None:
    write(tmp_path, "test_one.py", f"import pytest\n\ndef test_one():\n    {body}\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.no_skips", "--rootdir", str(tmp_path), "-c", os.devnull]
    for value, expected in (("1", 1), ("", 0)):
        environment = dict(os.environ, ANTIPHON_CI=value, PYTHONPATH=str(ROOT))
        done = subprocess.run(
            [*command, "test_one.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, done.stdout
        assert ("nothing may be skipped" in done.stdout) is bool(value)

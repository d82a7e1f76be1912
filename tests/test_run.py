"""The script `run`: readable by old Pythons, makes and mends `.venv`, and finds what must not be committed."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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


# -- all tests --------------------------------------------------------------------------------------------------------

DRIVER = """
import importlib.util, sys
from importlib.machinery import SourceFileLoader

sys.dont_write_bytecode = True
loader = SourceFileLoader("run_script", sys.argv[1])
run = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
loader.exec_module(run)
run.PYTHON, run.setup = sys.argv[2], lambda: None
sys.exit(run.main(["test"]))
"""
# Stands in for pytest: each part waits until the other one has begun, then for Ctrl-C if the test is about that.
PART = """#!{python}
import os, signal, sys, time

number = 0 if any(argument.startswith("--ignore") for argument in sys.argv) else 1
here = {folder!r} + "/part"
with open(here + str(number), "w") as file:
    file.write(repr(sys.argv[1:]))
while not os.path.exists(here + str(1 - number)):
    time.sleep(0.01)
print("this is part", number)
sys.stdout.flush()
if {waits}:
    try:
        open(here + str(number) + "-waits", "w").close()
        time.sleep(600)
    except KeyboardInterrupt:
        print("part", number, "was interrupted")
        sys.exit(2)
sys.exit({statuses}[number])
"""


@pytest.fixture
def start_parts(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `run test` with stand-ins for both parts, which end with these statuses."""
    started: list[subprocess.Popen[str]] = []

    def start(*statuses: int, waits: bool = False) -> subprocess.Popen[str]:
        part = tmp_path / "python"
        part.write_text(PART.format(python=sys.executable, folder=str(tmp_path), waits=waits, statuses=statuses))
        part.chmod(0o755)
        command = [sys.executable, "-c", DRIVER, str(SCRIPT), str(part)]
        # Its own session: what the test sends to the group of processes does not reach pytest.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX scripts and groups of processes")


@needs_posix
def test_all_tests_run_in_two_parts_at_once_and_the_second_is_shown_behind_the_first(
    start_parts: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_parts(0, 0)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    ignored, chosen = [ast.literal_eval((tmp_path / f"part{number}").read_text()) for number in (0, 1)]
    assert ignored[:2] == chosen[:2] == ["-m", "pytest"]
    # Nothing is left out, nothing is run twice, and they do not write over one another's cache.
    assert [f"--ignore={path}" for path in chosen[4:]] == ignored[4:]
    assert all((ROOT / path).is_dir() for path in chosen[4:])
    assert ignored[3] != chosen[3]
    lines = [line for line in output.splitlines() if line]
    assert lines == ["this is part 0", "=== tests/attacks and tests/replicas", "this is part 1", *lines[-1:]]
    assert lines[-1] == "run test: both parts passed"


@needs_posix
@pytest.mark.parametrize(
    ("statuses", "failed"),
    [
        ((1, 0), "all other tests"),
        ((0, 1), "tests/attacks and tests/replicas"),
        ((2, 5), "all other tests, tests/attacks and tests/replicas"),
    ],
)
def test_the_status_is_1_and_the_part_is_named_when_one_of_the_two_fails(
    start_parts: Callable[..., subprocess.Popen[str]], statuses: tuple[int, int], failed: str
) -> None:
    process = start_parts(*statuses)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.endswith(f"run test: failed: {failed}\n")


@needs_posix
def test_both_parts_end_and_the_status_is_not_0_when_ctrl_c_is_pressed(
    start_parts: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_parts(0, 0, waits=True)
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"part{number}-waits").exists() for number in (0, 1)):
        assert time.monotonic() < deadline, "the parts did not begin"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "part 0 was interrupted" in output
    assert "part 1 was interrupted" in output


def test_tests_run_in_one_process_when_some_are_named(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []

    class Become(Exception):
        pass

    def become(command: list[str], *_: object) -> None:
        became.append(command)
        raise Become

    monkeypatch.setattr(run, "setup", lambda: None)
    monkeypatch.setattr(run, "become", become)
    with pytest.raises(Become):
        run.main(["test", "tests/unit", "-x"])
    assert became == [[run.PYTHON, "-m", "pytest", "tests/unit", "-x"]]


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

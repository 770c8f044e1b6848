"""Checks that need an environment of their own, made afresh. Each ends with code 0 where all is well.

    python tools/fresh.py package [EXTRA ...]   builds wheel and sdist, installs each into a bare environment and runs
                                                `mallowspo quickstart --fast` from there; prints the seconds
    python tools/fresh.py test oldest           the whole suite with the lowest version of every library that
                                                pyproject.toml allows and PyTorch as constraints.txt has it
    python tools/fresh.py test newest           the same with the newest ones
    python tools/fresh.py trl VERSION           lays another version of TRL over this environment, names every private
                                                name that moved, and runs the tests of the seam

`test` takes further arguments for pytest. Environments lie in `.venv-oldest`, `.venv-newest` and are used again as
long as pyproject.toml and constraints.txt stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# Libraries whose versions a run of `test` is about; the others (tools, PyTorch) stay as constraints.txt has them.
FREED = ("transformers", "accelerate", "peft", "datasets")
# A tool of the tests wants a newer one than the package does.
HELD_BY_TOOLS = ("rich",)


def call(*command: object, **variables: str) -> None:
    """Run a command in the project's folder; what it says goes on."""
    sys.stderr.write(f"+ {' '.join(map(str, command))}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, env=environment | OFFLINE | variables)


def new_environment(folder: Path) -> Path:
    """Make an environment with nothing but pip; its interpreter."""
    call(sys.executable, "-m", "venv", "--clear", folder)
    return folder / "bin" / "python"


def lowest_versions() -> list[str]:
    """The lowest version of each library that the package allows, PyTorch and what the tools hold left out."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    found = [re.match(r"([\w-]+)>=([\w.]+)", text) for text in needed]
    return [f"{one[1]}=={one[2]}" for one in found if one is not None and one[1] not in ("torch", *HELD_BY_TOOLS)]


def pinned() -> list[str]:
    """The lines of constraints.txt that hold in a run of `test`."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "==" in line and line.split("==")[0] not in FREED]


def test(which: str, arguments: Sequence[str]) -> None:
    """Install what a run is about, unless it is there, and run the suite."""
    folder = ROOT / f".venv-{which}"
    constraints = [*pinned(), *(lowest_versions() if which == "oldest" else [])]
    with (ROOT / "pyproject.toml").open("rb") as file:
        stamp = hashlib.sha256(file.read() + "\n".join(constraints).encode()).hexdigest()
    mark, python = folder / "made-of", folder / "bin" / "python"
    if not mark.is_file() or mark.read_text() != stamp:
        new_environment(folder)
        held = folder / "constraints.txt"
        held.write_text("\n".join([*constraints, ""]))
        newest = ["--upgrade", *FREED] if which == "newest" else []
        call(python, "-m", "pip", "install", "--quiet", "-c", held, *newest, "-e", ".[dev,docs]")
        mark.write_text(stamp)
    call(python, "-m", "pip", "list")
    call(python, "-m", "pytest", "-q", *arguments)


def package(extras: Sequence[str]) -> None:
    """Build, install into bare environments and run the quick start from there."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | OFFLINE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = new_environment(folder / "tools")
        call(tools, "-m", "pip", "install", "--quiet", "build")
        call(tools, "-m", "build", "--outdir", folder / "dist", ROOT)
        built = sorted((folder / "dist").iterdir())
        if [path.suffix for path in built] != [".whl", ".gz"]:
            raise SystemExit(f"package: expected a wheel and an sdist, got {', '.join(path.name for path in built)}")
        wanted = f"[{','.join(extras)}]" if extras else ""
        for path in built:
            start = time.monotonic()
            python = new_environment(folder / "bare")
            call(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{path}{wanted}")
            installed = time.monotonic()
            program = python.with_name("mallowspo")
            out = folder / "out"
            # From a folder that is not the project's, so that nothing of it can be found by chance.
            for arguments in (["--version"], ["quickstart", "--fast", "--output_dir", out]):
                subprocess.run([program, *arguments], check=True, cwd=folder, env=ours)
            if not (out / "report.html").is_file():
                raise SystemExit("package: the quick start wrote no report.html")
            done = time.monotonic()
            sys.stdout.write(
                f"{path.name}{wanted}, Python {'.'.join(map(str, sys.version_info[:3]))}: installed in "
                f"{installed - start:.0f} s, `mallowspo quickstart --fast` ran in {done - installed:.0f} s\n"
            )


def trl(version: str) -> None:
    """Hold the seam against another version of TRL."""
    with tempfile.TemporaryDirectory() as name:
        target = f"trl=={version}"
        call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", name, target)
        paths = os.pathsep.join([name, str(ROOT / "src"), str(ROOT / "tests")])
        commands = {
            "private names": [ROOT / "tests" / "trl_names.py"],
            "tests of the seam": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_compat.py"],
        }
        failed = []
        for what, command in commands.items():
            try:
                call(sys.executable, *command, PYTHONPATH=paths)
            except subprocess.CalledProcessError:
                failed.append(what)
        if failed:
            raise SystemExit(f"TRL {version}: {' and '.join(failed)} do not hold, see above")
        sys.stdout.write(f"TRL {version}: every private name is where it was, and the tests of the seam pass\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("package").add_argument("extras", nargs="*", metavar="EXTRA")
    tests = commands.add_parser("test")
    tests.add_argument("which", choices=("oldest", "newest"))
    commands.add_parser("trl").add_argument("version")
    given, rest = parser.parse_known_args()
    if rest and given.command != "test":
        parser.error(f"unknown: {' '.join(rest)}")
    if given.command == "package":
        package(given.extras)
    elif given.command == "test":
        test(given.which, rest)
    else:
        trl(given.version)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)

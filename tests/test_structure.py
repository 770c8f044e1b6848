"""The shape of the code: light import, short files, layers that hold."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "trl", "datasets", "matplotlib", "pandas", "scipy")


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_the_package_is_light():
    assert not loaded_by("import mallowspo") & set(HEAVY)


def test_the_check_of_lightness_can_fail():
    assert "scipy" in loaded_by("import scipy")


def test_help_of_the_program_is_light():
    loaded = loaded_by("import mallowspo.cli.main")
    assert not loaded & {"torch", "transformers", "trl", "matplotlib"}


def test_mathematics_loads_no_language_model_library():
    loaded = loaded_by("import mallowspo.maths, mallowspo.maths.links, mallowspo.maths.mallows")
    assert not loaded & {"transformers", "trl", "datasets", "matplotlib"}


def test_files_and_functions_stay_short():
    long = []
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node, clean=False) or ""
                body = (node.end_lineno or 0) - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
                if body > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {body} lines")
    assert not long


def test_layers_hold():
    command = [Path(sys.executable).with_name("lint-imports")]
    out = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout

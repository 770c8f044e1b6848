"""The shape of the code: light import, layers that hold."""

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


def test_layers_hold():
    command = [Path(sys.executable).with_name("lint-imports")]
    out = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout

"""The package as it is built: one version, whole extras, and checks elsewhere that run what `.ci/run` runs."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import mallowspo
import trl_names

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

sys.path.insert(0, str(ROOT / "tools"))
import fresh  # noqa: E402


def test_the_version_is_written_once_and_the_changelog_and_the_citation_have_it():
    assert "version" in PROJECT["project"]["dynamic"] and "version" not in PROJECT["project"]
    attribute = PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "mallowspo.versions.__version__"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == mallowspo.__version__
    assert f"## [{mallowspo.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    here = [
        path.name
        for path in (ROOT / "src").rglob("*.py")
        if re.search(rf"[\"']{re.escape(mallowspo.__version__)}[\"']", path.read_text(encoding="utf-8"))
    ]
    assert here == ["versions.py"]


def test_all_holds_every_extra_but_the_developers():
    extras = PROJECT["project"]["optional-dependencies"]
    (whole,) = extras["all"]
    named = set(re.fullmatch(r"mallowspo\[([\w,]+)\]", whole)[1].split(","))
    assert named == set(extras) - {"all", "dev", "docs"}


def test_what_the_code_imports_is_asked_for():
    """What comes with another library today may not tomorrow."""
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "mallowspo"}
    extras = [text for listed in PROJECT["project"]["optional-dependencies"].values() for text in listed]
    asked = {re.match(r"[\w-]+", text)[0] for text in [*PROJECT["project"]["dependencies"], *extras]}
    assert {{"yaml": "pyyaml"}.get(name, name) for name in imported} <= asked


def test_the_lowest_versions_are_those_that_the_package_asks_for_and_bear_each_other():
    lowest = dict(line.split("==") for line in fresh.lowest_versions())
    needed = {re.match(r"[\w-]+", text)[0] for text in PROJECT["project"]["dependencies"]}
    assert set(lowest) == needed - {"torch", *fresh.HELD_BY_TOOLS} and lowest["trl"] == "1.16"
    assert {line.split("==")[0] for line in fresh.pinned()}.isdisjoint(fresh.FREED)
    # What TRL asks for is no less than what we say that we bear.
    from importlib.metadata import requires

    from packaging.requirements import Requirement
    from packaging.version import Version

    for text in requires("trl"):
        theirs = Requirement(text)
        for bound in theirs.specifier:
            if theirs.marker is None and theirs.name in lowest and bound.operator == ">=":
                assert Version(lowest[theirs.name]) >= Version(bound.version), text


def test_private_names_of_trl_are_where_they_were():
    source = trl_names.COMPAT.read_text(encoding="utf-8")
    assert len(trl_names.imported_names(source)) > 10 and "_get_output_dir" in trl_names.inherited_names(source)
    assert list(trl_names.moved_names(source)) == []


def test_a_private_name_that_moved_is_named_with_its_place():
    source = (
        "from trl.trainer.dpo_trainer import use_adapter_of_old\n"
        "from trl.models import use_adapter\n"
        "from trl.nowhere import something\n"
        "class T(DPOTrainer):\n"
        "    def f(self):\n"
        "        return self._no_such_name, super()._prepare_dataset(), self._metrics, self.f\n"
    )
    found = list(trl_names.moved_names(source))
    assert len(found) == 4
    for line, name in zip(found, ("use_adapter_of_old", "use_adapter", "trl.nowhere", "_no_such_name"), strict=True):
        assert name in line
    assert "trl.trainer.utils" in found[1]


@pytest.mark.parametrize("name", ["check", "versions"])
def test_workflows_run_commands_that_exist_and_say_that_they_were_not_run(name):
    text = (ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8")
    assert text.startswith("# Not run here")
    made = re.findall(r"^([\w-]+(?: [\w-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for line in made for target in line.split()}
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            command = step.get("run", "")
            if command.startswith("make"):
                assert set(job["strategy"]["matrix"]["target"]) <= targets
            elif command:
                assert command == "bash .ci/run" and (ROOT / ".ci/run").is_file()


def test_the_container_says_that_it_was_not_run_and_installs_as_make_does():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert text.startswith("# Not run here") and "make install-dev" in text
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "Dockerfile" in contributing and ".github/workflows" in contributing and "not run" in contributing

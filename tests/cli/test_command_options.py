"""A command's options are the fields of its dataclass, whether they come from the command line or from a file."""

import subprocess
import sys
import typing
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mallowspo.cli.main import COMMANDS, main
from mallowspo.cli.options import arguments_of, read_options
from mallowspo.cli.reference import ReferenceOptions
from mallowspo.errors import InputError
from tiny import tiny_tokenizer

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-./", min_size=1).filter(lambda text: text[0] not in "-.")
TEXTS = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Cn", "Co")))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def options_of(kind):
    """Any options of a command."""

    def values(item):
        hint = typing.get_type_hints(kind)[item.name]
        low = item.metadata["low"]
        kinds = {
            bool: st.booleans(),
            int: st.integers(-(10**6) if low is None else low, 10**6),
            float: NUMBERS,
            Path: NAMES.map(Path),
            str: NAMES if item.metadata["positional"] else TEXTS,
            tuple[float, float]: st.tuples(NUMBERS, NUMBERS),
            tuple[float, ...]: st.lists(NUMBERS, max_size=3).map(tuple),
            tuple[int, ...]: st.lists(st.integers(0, 99), max_size=3).map(tuple),
            tuple[str, ...]: st.lists(TEXTS, max_size=3).map(tuple),
        }
        parts = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
        found = st.one_of(*(kinds[part] for part in parts if part is not type(None)))
        # Half of the options stand at their default, as in life.
        return found if item.default is MISSING else st.one_of(st.just(item.default), found)

    return st.builds(kind, **{item.name: values(item) for item in fields(kind)})


def write_yaml(folder, options):
    plain = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in asdict(options).items()
    }
    required = {item.name for item in fields(options) if item.default is None and plain[item.name] is None}
    path = folder / "options.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in plain.items() if name not in required}), "utf-8")
    return path


@pytest.mark.parametrize("words", COMMANDS)
@settings(
    max_examples=10,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # three dozen options take minutes to shrink
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_file_and_the_command_line_give_the_same_and_the_latter_wins(words, data, tmp_path):
    kind = COMMANDS[words][0]
    in_file, on_line = data.draw(options_of(kind)), data.draw(options_of(kind))
    file = ["--config", str(write_yaml(tmp_path, in_file))]
    assert read_options(kind, file, words) == in_file
    assert read_options(kind, arguments_of(on_line), words) == on_line
    given = {
        item.name: getattr(on_line, item.name)
        for item in fields(kind)
        if item.default is MISSING or getattr(on_line, item.name) != item.default
    }
    assert read_options(kind, [*file, *arguments_of(on_line)], words) == kind(**asdict(in_file) | given)


def a_field(words):
    return next(item.name for item in fields(COMMANDS[words][0]) if item.name.endswith("_dir"))


MISTAKES = {
    "an unknown key": (lambda words: f"{a_field(words)}y: x", lambda words: f"did you mean {a_field(words)}"),
    "a wrong type": (lambda words: f"{a_field(words)}: {{a: 1}}", a_field),
    "a truth value for text": (lambda words: f"{a_field(words)}: no", a_field),
    "null where a value is needed": (lambda words: f"{a_field(words)}: null", a_field),
    "no mapping": (lambda words: "- a", lambda words: "mapping"),
    "no YAML": (lambda words: "a: [", lambda words: "not YAML"),
    "no file": (None, lambda words: "there is no file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("words", COMMANDS)
def test_a_file_of_options_that_cannot_be_used(words, mistake, tmp_path, capsys):
    text, named = MISTAKES[mistake]
    path = tmp_path / "options.yaml"
    if text is not None:
        path.write_text(text(words))
    with pytest.raises(SystemExit) as end:
        main([*words.split(), "--config", str(path)])
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("mallowspo: ") == 1 and "Traceback" not in told
    assert str(path) in told and named(words) in told


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("seeds: 0", "seeds: got 0, expected at least 2"),
        ("seeds: 2.5", "seeds: got '2.5', expected a whole number"),
        ("seeds: true", "seeds: got True, expected a whole number"),
        ("fast: 1", "fast: got 1, expected true or false"),
        ("phi: [a]", "phi: got 'a', expected a number"),
        ("phi: [[0.1]]", "phi: got [0.1], expected a number"),
        ("seed: 1\nseed: 2", "seed is there twice"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_is_allowed(text, named, tmp_path, capsys):
    (tmp_path / "options.yaml").write_text(text)
    with pytest.raises(SystemExit):
        main(["experiment", "bandit", "--config", str(tmp_path / "options.yaml")])
    assert named in capsys.readouterr().err


def test_what_yaml_has_read_as_something_else_is_the_text_that_was_written(tmp_path):
    (tmp_path / "o.yaml").write_text(
        "betas: [0.5, 1]\npairs: 4\nworkers: 2\nmethods: null\nseeds: '3'\noutput_dir: 2026\nfast: 'yes'"
    )
    found = read_options(COMMANDS["experiment world"][0], ["--config", str(tmp_path / "o.yaml"), "--no_fast"], "x")
    assert (found.betas, found.pairs, found.methods, found.seeds) == ("0.5,1", "4", None, 3)
    assert (found.output_dir, found.fast) == (Path("2026"), False)
    (tmp_path / "o.yaml").write_text("betas: [0.50, 1_0]\nlearning_rate: 1.0e-4\nworkers: 0x2\noutput_dir: 007")
    found = read_options(COMMANDS["experiment world"][0], ["--config", str(tmp_path / "o.yaml")], "x")
    assert (found.betas, found.learning_rate, found.workers) == ("0.50,1_0", 1e-4, 2)
    assert found.output_dir == Path("007")
    (tmp_path / "o.yaml").write_text("dispersion_clip: [0, 3]\nrankings: a.csv\nspread: null")
    found = read_options(COMMANDS["dispersion"][0], [f"--config={tmp_path}/o.yaml"], "x")
    assert (found.dispersion_clip, found.rankings, found.spread) == ((0.0, 3.0), ("a.csv",), None)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["check", "--modle_name_or_path", "x"], "did you mean --model_name_or_path"),
        (["check", "a", "b"], "b: it belongs to no option"),
        (["check", "--html"], "data, model_name_or_path: missing"),
        (["check", "a", "--max_length"], "--max_length"),
        (["check", "--output", "x"], "--output"),  # the beginning of a name is not the name
        (["dispersion", "--dispersion_clip", "1"], "--dispersion_clip"),
        (["quickstart", "--seeds", "0"], "--seeds: got 0, expected at least 1"),
        (["quickstart", "--config", "a.yaml", "--config=b.yaml"], "a.yaml and b.yaml"),
        (["quickstart", "--config"], "--config"),
        (["experiment", "bandt"], "did you mean bandit"),
        (["--versoin"], "did you mean --version"),
        (["quikstart"], "did you mean quickstart"),
    ],
)
def test_a_mistake_on_the_command_line(arguments, named, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1 and named in told


@pytest.mark.parametrize("flag", ["--fast", "--no-fast", "--no_fast"])
def test_a_flag_may_be_given_and_taken_back(flag):
    found = read_options(COMMANDS["quickstart"][0], [*(["--fast"] if flag != "--fast" else []), flag], "x")
    assert found.fast is (flag == "--fast")


def test_a_flag_takes_no_word_that_follows():
    found = read_options(COMMANDS["check"][0], ["--html", "rows.jsonl", "--model_name_or_path=m"], "x")
    assert found.data == "rows.jsonl" and found.html


@pytest.mark.parametrize("words", ["", "experiment"])
def test_a_program_without_a_command_shows_them_all(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        main([*words.split(), "--help"])
    told = capsys.readouterr()
    assert end.value.code == 0 and told.out == told.err
    assert all(one.removeprefix(words).split()[0] in told.out for one in COMMANDS if one.startswith(words))


def test_a_file_for_reference_is_of_its_own_options_or_a_recipe_of_train(tmp_path, capsys):
    path = tmp_path / "o.yaml"
    path.write_text("output_dir: r\nnum_processes: 2")
    own = read_options(ReferenceOptions, ["--config", str(path)], "x")
    assert (own.output_dir, own.num_processes) == (Path("r"), 2)
    path.write_text(
        "output_dir: model\nbeta: 0.1\nbf16: true\nmax_length: null\nprecompute_ref_batch_size: 3\nseed: 1"
    )
    recipe = read_options(ReferenceOptions, ["--config", str(path), "--max_line_mb", "1"], "x")
    assert recipe == ReferenceOptions(mixed_precision="bf16", max_length=0, batch_size=3, max_line_mb=1)
    for text, precision in {
        "bf16: 'false'": "no", "bf16: no": "no", "bf16: null": "auto", "fp16: false": "auto", "fp16: 'true'": "fp16",
        "bf16: false\nfp16: 'yes'": "fp16", "bf16: 'on'": None, "fp16: 2": None,
        "bf16: true\nmixed_precision: no": "no", "load_in_4bit: 'true'": None, "load_in_4bit: false": "auto",
    }.items():  # fmt: skip
        path.write_text(f"beta: 0.1\n{text}")
        if precision is None:
            with pytest.raises(InputError, match=text[:4]):
                read_options(ReferenceOptions, ["--config", str(path)], "x")
        else:
            assert read_options(ReferenceOptions, ["--config", str(path)], "x").mixed_precision == precision, text
    path.write_text("max_length: null")  # alone: what training takes for no limit
    assert read_options(ReferenceOptions, ["--config", str(path)], "x").max_length == 0
    assert (
        read_options(COMMANDS["check"][0], ["a", "--model_name_or_path=m", "--config", str(path)], "x").max_length == 0
    )
    path.write_text("beta: 0.1\nmodel_nam_or_path: x")
    with pytest.raises(SystemExit) as end:
        main(["reference", "--config", str(path)])
    told = capsys.readouterr().err
    assert end.value.code == 2 and "did you mean model_name_or_path" in told and str(path) in told


@pytest.mark.parametrize("text", ["seedz: 1", "seeds: [", "seeds: x", "- a", None])
def test_a_bad_file_ends_the_program_before_anything_heavy_is_imported(text, tmp_path):
    path = tmp_path / "options.yaml"
    if text is not None:
        path.write_text(text)
    command = [sys.executable, "-X", "importtime", "-m", "mallowspo.cli.main", "experiment", "world", "--config", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 2 and done.stdout == "" and len(told) == 1 and str(path) in told[0]
    assert not imported & {"torch", "numpy", "transformers", "trl", "rich", "datasets"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["check", "none.csv", "--model_name_or_path", "MODEL"], "data: "),
        (["check", "there.csv", "--model_name_or_path", "MODEL", "--eval_data", "none.csv"], "eval_data: "),
        (["dispersion", "--votes", "none.csv"], "votes: "),
        (["dispersion", "--votes", "there.csv", "--dataset_train_split", "test"], "dataset_train_split: "),
        (["dispersion", "--rankings", "none.csv"], "rankings: "),
        (["dispersion", "--rankings", "there.csv", "--truth", "none.csv"], "truth: "),
    ],
)
def test_a_missing_file_carries_the_name_of_its_option(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer().save_pretrained("model")
    Path("there.csv").write_text("prompt,chosen,rejected\na?, b, c\n")
    if "--truth" in arguments:
        Path("there.csv").write_text("a,b,c\n1,2,3\n2,1,3\n")
    with pytest.raises(SystemExit) as end:
        main(["./model" if one == "MODEL" else one for one in arguments])
    assert end.value.code == 2 and f"mallowspo: {named}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "--data", "d.jsonl", "--model_name_or_path", "m"], "given by its place"),
        (["evaluate", "--split", "-x"], "--split=VALUE"),
        (["evaluate", "--use_cpu=maybe"], "'maybe', expected true or false"),
        (["evaluate", "--output_dir="], "output_dir"),
        (["evaluate", "--seed", "-1"], "seed"),
        (["dispersion", "--seed", "-1"], "seed"),
        (["evaluate", "-seed", "1"], "did you mean --seed"),
        (["quickstart", "--conf", "a.yaml"], "did you mean --config"),
        (["dispersion", "--rankings", ""], "rankings: "),
    ],
    ids=str,
)
def test_mistakes_of_the_command_line_are_told_in_words_that_help(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = capsys.readouterr().err
    assert end.value.code == 2 and said in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_help_comes_also_beside_a_mistake_and_two_dashes_at_the_end_are_passed_over(capsys):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--seed", "x", "--help"])
    assert end.value.code == 0 and "--rank WHOLE NUMBER" in capsys.readouterr().out
    kind = COMMANDS["quickstart"][0]
    assert read_options(kind, ["--fast", "--"], "mallowspo quickstart") == read_options(kind, ["--fast"], "")


def test_a_file_may_hold_a_mapping_where_an_option_is_json(tmp_path):
    kind = COMMANDS["evaluate"][0]
    path = tmp_path / "options.yaml"
    values = {"model": "m", "prompts": "p", "judge": "j:f", "output_dir": "o"}
    path.write_text(yaml.safe_dump(values | {"judge_parameters": {"temperature": 0.5, "seed": None}}))
    read = read_options(kind, ["--config", str(path)], "mallowspo evaluate")
    assert read.json_object("judge_parameters") == {"temperature": 0.5, "seed": None}

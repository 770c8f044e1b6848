"""A key never reaches a file, a page, a log or a message, whoever sends it back."""

import json
import sys
from pathlib import Path

import pytest
from judge_server import JudgeServer

from mallowspo.cli.main import main
from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import EndpointAddress, api_key_from, check_no_secrets
from mallowspo.redaction import is_secret_name, without_keys, without_secrets

KEY = "Zq7hunter2value91"


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    return stop.value.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"prompt {i}", "good": "long answer", "bad": "short"} for i in range(3)]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def evaluate(judge, *more):
    base = ["--model", "column:good", "--baseline", "column:bad", "--prompts", "p.jsonl", "--resamples", "20"]
    arguments = ["evaluate", *base, "--judge", judge, "--output_dir", "out", "--max_retries", "0", *more]
    return run(*arguments)


def everything(folder, capsys):
    said = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")
    return said.out + said.err + written.decode("utf-8", "replace")


class Echo(JudgeServer):
    """Sends back the key that it was given, in its replies."""

    def reply(self, question):
        return f"Your {self.headers[-1].get('Authorization', self.headers[-1].get('authorization'))}: [[A]]"


def test_what_a_run_writes_holds_no_key_also_where_the_judge_sends_it_back(here, capsys, monkeypatch):
    monkeypatch.setenv("OUR_KEY", f" {KEY}\n")
    monkeypatch.setattr(
        sys, "argv", ["mallowspo", "evaluate", "--hub_token", KEY, "--judge", f"http://a:{KEY}@h/v1#m"]
    )
    with Echo() as server:
        assert evaluate(f"{server.url}#m", "--judge_api_key_env", "OUR_KEY") == 0
        sent = {name.lower(): value for name, value in server.headers[-1].items()}
        assert sent["authorization"] == f"Bearer {KEY}"
    found = everything(here, capsys)
    assert KEY not in found and "[hidden]" in found
    assert json.loads(Path("out/results.json").read_text())["settings"]["judge_api_key_env"] == "OUR_KEY"


def test_a_key_in_the_path_is_hidden_where_its_variable_is_named(here, capsys, monkeypatch):
    """It has no shape to be known by; the variable tells it."""
    monkeypatch.setenv("OUR_KEY", KEY)
    with JudgeServer() as server:
        assert evaluate(f"{server.url.removesuffix('/v1')}/{KEY}/v1#m", "--judge_api_key_env", "OUR_KEY") == 0
    found = everything(here, capsys)
    assert KEY not in found and "/[hidden]/v1" in found


def test_no_option_is_taken_for_a_secret_by_its_name():
    """Else its value would be missing in messages and in `run.json`."""
    from dataclasses import fields

    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

    from mallowspo import MallowsPOConfig
    from mallowspo.cli.evaluate import EvaluateOptions

    groups = (MallowsPOConfig, ModelConfig, ScriptArguments, DatasetMixtureConfig, EvaluateOptions)
    assert {item.name for group in groups for item in fields(group) if is_secret_name(item.name)} == {"hub_token"}


def test_a_variable_of_the_desktop_is_no_secret(monkeypatch):
    monkeypatch.setenv("DESKTOP_SESSION", "ubuntu-xorg")
    assert without_keys("model: ubuntu-xorg") == "model: ubuntu-xorg"


def test_a_refusal_that_echoes_the_key_is_shown_without_it(here, capsys, monkeypatch):
    monkeypatch.setenv("OUR_KEY", KEY)

    class Refusing(JudgeServer):
        def _send(self, handler, status, body, *rest, **more):
            super()._send(handler, 401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}))

    with Refusing() as server:
        assert evaluate(f"{server.url}#m", "--judge_api_key_env", "OUR_KEY") == 2
    found = everything(here, capsys)
    assert "401" in found and "judge_api_key_env" in found and KEY not in found


HOST = "127.0.0.1:9/v1"
BEFORE_THE_HOST = (f"user:{KEY}", KEY, f"user:a/{KEY}")
BEHIND_IT = (
    f"?api_key={KEY}#m",
    f"?x={KEY}#m",
    f"#m?api_key={KEY}",
    f"#m?k={KEY}",
    f"#m&api_key={KEY}",
    f"#m#token={KEY}",
)
PARAMETERS = ({"user": "u", "pw": KEY}, {"auth": [{"user": "u", "value": KEY}]}, {"api_key": KEY},
              {"headers": {"Authorization": KEY}})  # fmt: skip


@pytest.mark.parametrize(
    ("judge", "option", "value"),
    [(f"{place}@{HOST}#m", "judge_api_key_env", None) for place in BEFORE_THE_HOST]
    + [(f"{HOST}{place}", "judge_api_key_env", None) for place in BEHIND_IT]
    + [(f"{HOST}#m", "judge_parameters", json.dumps(fields)) for fields in PARAMETERS]
    + [(f"{HOST}#m", "judge_parameters", f'{{"api_key": "{KEY}"')]
    + [(f"{HOST}#m", "judge_api_key_env", value) for value in (KEY, f"sk-{KEY}")],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(here, capsys, judge, option, value):
    assert evaluate(f"http://{judge}", *([] if value is None else [f"--{option}", value])) == 2
    found = everything(here, capsys)
    assert option in found and KEY not in found and not Path("out/results.json").exists()


@pytest.mark.parametrize(
    "address", ["http://h:99999/v1#m", "http://h:x/v1#m", "http://h h/v1#m", "h/v1#m", "http:///v1#m", "http://h/v1#"]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InputError, match="expected an address such as"):
        EndpointAddress.parse(address, "judge")


SECRET = (
    "pw pass db_pass dbPass pwd pin auth bearer session sessionId sig signature credential credentials cert cookie "
    "cookies jwt passphrase PW proxy-auth apiKey"
).split()


@pytest.mark.parametrize("value", [KEY, 12345678, [KEY], {"value": KEY}], ids=str)
@pytest.mark.parametrize("name", SECRET)
def test_a_name_says_that_a_value_is_secret(name, value):
    assert is_secret_name(name)
    with pytest.raises(InputError, match=f"^judge_parameters: the field 'extra.{name}"):
        check_no_secrets({"extra": {name: value}}, "judge_parameters")
    written = str(without_secrets({"extra": {name: value}}))
    assert KEY not in written and "12345678" not in written and "[hidden]" in written


def test_fields_that_are_no_secret_pass(monkeypatch):
    passed = {"max_tokens": 5, "prompt_cache_key": "a", "stop": ["</s>"], "pad_token": "x", "top_p": 0.9,
              "passages": "p", "pass_rate": 0.5, "author": "a", "signature_version": "2", "session_length": 3,
              "pinned": "y", "max_passes": 2, "certainty": 1.0, "signal": "s", "auth": None}  # fmt: skip
    check_no_secrets(passed, "judge_parameters")
    assert without_secrets(passed) == passed
    monkeypatch.setenv("OUR_KEY", "é" + KEY)
    with pytest.raises(InputError, match="OUR_KEY holds a space or a character") as error:
        api_key_from("OUR_KEY", "judge_api_key_env")
    assert KEY not in str(error.value)


def test_settings_and_messages_lose_what_is_secret_and_nothing_else(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", KEY)
    given = {"hub_token": "x", "eos_token": "</s>", "seed": 1, "model": f"https://u:p@h/{KEY}", "kw": {"token": "y"}}
    assert without_secrets(given) == {
        "hub_token": "[hidden]",
        "eos_token": "</s>",
        "seed": 1,
        "model": "https://[hidden]@h/[hidden]",
        "kw": {"token": "[hidden]"},
    }
    plain = "prompts: row 3 has 5 tokens, expected key: value; task-12345678 of https://h/v1#@cf/m"
    assert without_keys(plain) == plain
    assert without_keys('{"password": "p]]])."}') == '{"password": "[hidden]"}'
    # What closes around a secret stays.
    assert without_keys("(of http://h?api_key=a1.b2). [password=x)y]") == (
        "(of http://h?api_key=[hidden]). [password=[hidden]]"
    )


def test_the_arguments_of_a_training_are_pickled_without_tokens(tmp_path):
    import copy
    import pickle

    from mallowspo import MallowsPOConfig

    config = MallowsPOConfig(str(tmp_path), hub_token=KEY, model_init_kwargs={"token": KEY}, use_cpu=True, bf16=False)
    assert KEY.encode() not in pickle.dumps(config) and copy.deepcopy(config).hub_token == KEY
    assert config.hub_token == KEY and pickle.loads(pickle.dumps(config)).learning_rate == config.learning_rate

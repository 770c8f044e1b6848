"""No key that a training is given stands in anything that it writes or says, or in what a tracker is handed."""

import json
import sys

import pytest

from cli.commands import save_tiny
from mallowspo import MallowsPOConfig
from mallowspo.cli.main import main

KEYS = {
    "hub_token": "hf_Zq7hunter2valueAAA",
    "kwargs": "Zq7hunter2valueBBB",
    "HF_TOKEN": "hf_Zq7hunter2valueCCC",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234DDD",
    "COMET_API_KEY": "Zq7hunter2valueEEE",
    "address": "Zq7hunter2valueFFF",
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe with keys in its options, in an environment with others."""
    for name in ("HF_TOKEN", "WANDB_API_KEY", "COMET_API_KEY"):
        monkeypatch.setenv(name, KEYS[name])
    monkeypatch.setenv("MALLOWSPO_CACHE", str(tmp_path / "written/cache"))
    monkeypatch.setenv("WANDB_BASE_URL", f"https://me:{KEYS['address']}@wandb.example/api?api_key={KEYS['address']}")
    save_tiny(tmp_path / "model")
    rows = [{"prompt": f"Q {i}?", "chosen": f" fine, {i}", "rejected": f" no {i} no"} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model_name_or_path": str(tmp_path / "model"),
        "dataset_name": str(tmp_path / "pairs.jsonl"),
        "output_dir": str(tmp_path / "written/out"),
        "hub_token": KEYS["hub_token"],
        "model_init_kwargs": {"token": KEYS["kwargs"]},
        "use_cpu": True,
        "bf16": False,
        "max_steps": 2,
        "save_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
    }
    (tmp_path / "recipe.json").write_text(json.dumps(values))  # which is YAML too
    return tmp_path


def train(recipe, *options):
    arguments = ["train", "--config", str(recipe / "recipe.json"), *options]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


def leaked(folder, capsys):
    said = capsys.readouterr()
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = {path.name: path.read_bytes() for path in files} | {"out": said.out.encode(), "err": said.err.encode()}
    return len(files), [(name, key) for name, text in texts.items() for key, v in KEYS.items() if v.encode() in text]


def test_a_training_writes_and_says_no_key(recipe, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mallowspo", "train", "--hub_token", KEYS["hub_token"]])
    assert train(recipe) == 0
    count, found = leaked(recipe / "written", capsys)
    assert count > 20 and found == []
    config = json.loads((recipe / "written/out/run.json").read_text())["config"]
    assert config["hub_token"] and config["model_init_kwargs"]["token"]  # that there was one is told


@pytest.mark.parametrize(
    "options",
    [
        ["--dataset_name", f"https://me:{KEYS['address']}@host/pairs.jsonl?api_key={KEYS['address']}"],
        ["--model_name_or_path", f"https://me:{KEYS['address']}@host/model"],
        ["--nonsense", "1"],
        ["--resume_from_checkpoint", f"https://host/?api_key={KEYS['address']}"],
    ],
)
def test_a_training_that_is_refused_says_no_key(recipe, capsys, options):
    assert train(recipe, *options) == 2
    assert leaked(recipe / "written", capsys)[1] == []


def test_a_tracker_is_handed_no_key(tmp_path):
    config = MallowsPOConfig(
        str(tmp_path),
        hub_token=KEYS["hub_token"],
        model_init_kwargs={"token": KEYS["kwargs"]},
        use_cpu=True,
        bf16=False,
    )
    for handed in (config.to_dict(), config.to_sanitized_dict(), config.to_json_string()):
        assert not any(key in str(handed) for key in KEYS.values())
    assert config.hub_token == KEYS["hub_token"] and config.model_init_kwargs == {"token": KEYS["kwargs"]}

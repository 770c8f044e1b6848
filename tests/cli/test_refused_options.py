"""An option of `mallowspo train` that cannot be used is named in one message with exit code 2, and nothing else is."""

import json

import pytest

from cli.commands import refused

PEFT = ("--use_peft",)


@pytest.mark.parametrize(
    ("name", "value", "more"),
    [
        ("sync_ref_model", "true", PEFT),
        ("activation_offloading", "true", ()),
        ("pad_to_multiple_of", "0", ()),
        ("gradient_checkpointing_kwargs", '{"a": 1}', ()),
        ("warmup_steps", "nan", ()),
        ("lr_scheduler_kwargs", '{"a": 1}', ()),
        ("accelerator_config", '{"no": 1}', ()),
        ("save_steps", "0", ("--save_strategy", "steps")),
        ("save_steps", "1.5", ("--save_strategy", "steps")),
        ("eval_steps", "-2", ()),
        ("fsdp", "full_shard", ()),
        ("seed", str(2**40), ()),
        ("lora_r", "0", PEFT),
        ("lora_dropout", "nan", PEFT),
        ("lora_dropout", "0.1", (*PEFT, "--lora_target_parameters", "mlp.up_proj.weight")),
        ("lora_target_modules", "nope", PEFT),
        ("lora_target_modules", "lm_head", PEFT),
        ("lora_task_type", "nope", PEFT),
        ("lora_task_type", "SEQ_CLS", PEFT),
        ("lora_modules_to_save", "nope", PEFT),
        ("lora_target_parameters", "nope", PEFT),
        ("dataloader_persistent_workers", "true", ()),
        ("dataloader_multiprocessing_context", "fork", ()),
        ("push_to_hub", "true", ()),  # which this machine cannot reach
        ("num_processes", "two", ()),
        ("num_processes", "0", ()),
        ("mixed_precision", "fp7", ()),
        ("streaming", "true", ()),
        ("test_split_size", "0.5", ()),
        ("model_init_kwargs", '{"a": 1}', ()),
        ("model_init_kwargs", '{"dtype": "nope"}', ()),
        ("model_init_kwargs", '{"quantization_config": 3}', ()),
    ],
)
def test_the_option_is_named_and_no_other(model, pairs, tmp_path, name, value, more):
    message = refused(
        "train", "--model_name_or_path", model, "--dataset_name", pairs, "--use_cpu", "--report_to", "none",
        "--objective", "dpo", "--max_steps", 1, "--save_strategy", "no", "--output_dir", tmp_path / "out", *more,
        f"--{name}", value,
    )  # fmt: skip
    assert message.startswith(f"mallowspo: {name}: ") and "model_name_or_path" not in message


@pytest.fixture
def mixture(model, pairs, tmp_path):
    """The refusal of a run on data sets of these settings, beside `path` and `data_files`, and further options."""

    def message(*sets, **more):
        (tmp_path / "damaged.jsonl").write_text('{"prompt": "a"\n')
        sets = [one if isinstance(one, str) else {"path": "json", "data_files": str(pairs)} | one for one in sets]
        sets = [one if isinstance(one, str) else {k: v for k, v in one.items() if v is not None} for one in sets]
        options = {
            "model_name_or_path": str(model), "use_cpu": True, "objective": "dpo", "max_steps": 1, "report_to": "none",
            "output_dir": str(tmp_path / "out"), "datasets": sets or None,
        } | more  # fmt: skip
        (tmp_path / "r.yaml").write_text(json.dumps(options).replace("DAMAGED", str(tmp_path / "damaged.jsonl")))
        return refused("train", "--config", tmp_path / "r.yaml").removeprefix("mallowspo: ")

    return message


@pytest.mark.parametrize(("name", "value"), [("dataset_streaming", True), ("dataset_config", "de")])
def test_an_option_of_one_file_is_refused_beside_a_mixture(mixture, name, value):
    assert mixture({}, **{name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ((), "datasets: got None"),
        (("pairs.jsonl",), "datasets: got ['pairs.jsonl']"),
        (({"path": None},), "datasets: got [{'data_files'"),
        (({"weight": 1},), "datasets: weight"),
        (({"fraction": "half"},), "datasets: fraction"),
        (({"fraction": 0.0}, {"fraction": 0.0}), "datasets: fraction"),
        (({"fraction": -1.0}, {"fraction": 2.0}), "fraction: got -1.0"),
        (({"data_files": "DAMAGED"},), "datasets: JSON"),
        (({"columns": ["prompt", "nope"]},), "datasets: Column name ['nope']"),
    ],
)
def test_a_mixture_that_cannot_be_read_is_told_in_one_message(mixture, sets, named):
    assert named in mixture(*sets)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dataset_train_split", {"dataset_train_split": "nope"}),
        ("test_split_size", {"test_split_size": 1.5}),
        ("test_split_size", {"test_split_size": 0.5, "streaming": True}),
    ],
)
def test_a_split_that_a_mixture_does_not_have_is_refused(mixture, name, options):
    assert mixture({}, **options).startswith(f"{name}: ")

"""An option of `mallowspo train` that cannot be used is named in one message with exit code 2, and nothing else is."""

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
        ("lora_target_modules", "nope", PEFT),
        ("lora_target_modules", "lm_head", PEFT),
        ("lora_task_type", "nope", PEFT),
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


@pytest.mark.parametrize(("name", "value"), [("dataset_streaming", "true"), ("dataset_config", "de")])
def test_an_option_of_one_file_is_refused_beside_a_mixture(model, pairs, tmp_path, name, value):
    (tmp_path / "r.yaml").write_text(
        f"model_name_or_path: {model}\nuse_cpu: true\nobjective: dpo\nmax_steps: 1\nreport_to: none\n"
        f"output_dir: {tmp_path}/out\n{name}: {value}\ndatasets: [{{path: json, data_files: {pairs}, split: train}}]\n"
    )
    assert refused("train", "--config", tmp_path / "r.yaml").startswith(f"mallowspo: {name}: ")

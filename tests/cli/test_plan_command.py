"""`mallowspo plan`: its parts against closed forms and torch's own account of memory; refusals by name."""

import json
import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from cli.commands import call, refused
from mallowspo.cli.plan import plan_of
from mallowspo.compat import add_score_head
from mallowspo.errors import InputError
from mallowspo.scoring import add_packed_head, score_packed
from mallowspo.scoring.padded import score_padded
from mallowspo.training import plan
from mallowspo.training.plan import Lengths, Precision, Row, Sizes, build, plan_row

HIDDEN, INNER, LAYERS, HEADS, SHARED, WORDS = 64, 160, 3, 4, 2, 500
SHAPE = {
    "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": SHARED, "vocab_size": WORDS,
}  # fmt: skip
ATTENTION = 2 * HIDDEN**2 + 2 * HIDDEN * HIDDEN // HEADS * SHARED
PARAMETERS = 2 * WORDS * HIDDEN + LAYERS * (ATTENTION + 3 * HIDDEN * INNER + 2 * HIDDEN) + HIDDEN
GIVEN = ["--model_shape", json.dumps(SHAPE), "--prompt_tokens", "40", "--response_tokens", "24"]


def planned(*arguments):
    return plan_of([*GIVEN, *arguments])[1]


def parts(engine):
    return {name: round(value * 1e9) for name, value in engine["parts_gb"].items()}


def test_what_is_stored_and_sharded_is_that_of_the_zero_paper():
    """Rajbhandari et al. (arXiv 1910.02054): 2 + 2 + 12 bytes a weight, of which stage 2 shards the last two."""
    found = planned("--gpus", "8")
    assert found["model"] == {"parameters": PARAMETERS, "trained": PARAMETERS}
    stored = {name: list(parts(engine).values())[:4] for name, engine in found["engines"].items()}
    eighth = PARAMETERS / 8
    expected = {
        "ddp": [4 * PARAMETERS, 0, 4 * PARAMETERS, 8 * PARAMETERS],
        "fsdp2": [4 * eighth, 0, 4 * eighth, 8 * eighth],
        "zero2": [2 * PARAMETERS, 0, 2 * eighth, 12 * eighth],
        "zero3": [2 * eighth, 0, 2 * eighth, 12 * eighth],
    }
    for name, values in expected.items():
        assert stored[name] == [round(value) for value in values], name
    assert parts(found["engines"]["ddp"])["engine"] == 4 * PARAMETERS  # the buckets of gradients


def test_an_adapter_trains_its_own_weights_alone():
    lora = ["--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj", "o_proj", "--gpus", "2"]
    trained = LAYERS * 4 * 4 * HIDDEN
    found = planned(*lora)
    assert found["model"]["trained"] == trained
    ddp = parts(found["engines"]["ddp"])
    assert (ddp["weights"], ddp["gradients"], ddp["optimiser"]) == (
        4 * (PARAMETERS + trained), 4 * trained, 8 * trained,
    )  # fmt: skip
    # NF4: half a byte, and a scale of four bytes for each 64 weights; embeddings, norms and the head in bfloat16.
    linear = LAYERS * (ATTENTION + 3 * HIDDEN * INNER)
    quantised = parts(planned(*lora, "--load_in_4bit")["engines"]["ddp"])
    assert quantised["weights"] == round(linear * (0.5 + 1 / 16) + 2 * (PARAMETERS + trained - linear))
    assert quantised["optimiser"] == 8 * trained
    one = ["--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj"]  # which TRL reads as a pattern
    assert planned(*one)["model"]["trained"] == LAYERS * 4 * 2 * HIDDEN


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "path"),
    [("llama", "packed"), ("gpt_neox", "packed"), ("qwen2", "packed"), ("gemma2", "dense_mask"), ("mixtral", "padded"),
     ("falcon", "padded")],
)  # fmt: skip
def test_a_row_holds_what_torch_says_that_it_holds(kind, path, products, tmp_path):
    """The real pass of a real model, by the profiler's account of every allocation."""

    def config():
        values = {name: value for name, value in SHAPE.items() if name != "model_type"}
        return AutoConfig.for_model(kind, **values, **({"num_local_experts": 4} if kind == "mixtral" else {}))

    lengths, precision = Lengths(256, 40), Precision(torch.float32, products)
    row = plan_row(
        build(config(), precision), precision, lengths, batch=2, on_cpu=True, checkpointing=False, live_reference=False
    )
    assert (row.pairs, row.path) == (2, path)
    assert row.tokens == 2 * (296 + (296 if path == "padded" else 40))

    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32).train()
    score = score_packed if add_packed_head(model).path != "padded" else score_padded
    if score is score_padded:
        add_score_head(model)
    ids = torch.randint(2, WORDS, (4, 296))
    ids[2:, :256] = ids[:2, :256]
    completion = (torch.arange(296) >= 256).long().expand(4, -1)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": completion}
    for _ in range(2):  # the first pass makes the gradients
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
            with torch.autocast("cpu", products, enabled=products != torch.float32):
                scores = score(model, batch)
            scores.logp_bk.sum().backward()
            del scores
    told.export_chrome_trace(str(tmp_path / "trace.json"))
    held = [0]
    for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]:
        if event["name"] == "[memory]":
            held.append(held[-1] + event["args"]["Bytes"])
    assert row.activations + row.head == pytest.approx(max(held), rel=0.1)


def test_checkpointing_and_half_precision_hold_less_and_a_live_reference_more():
    def total(*arguments):
        return planned("--per_device_train_batch_size", "32", *arguments)["engines"]["ddp"]["parts_gb"]["activations"]

    plain = total("--gradient_checkpointing", "false", "--bf16", "false")
    assert total("--gradient_checkpointing", "true", "--bf16", "false") < plain / 1.5
    assert plain / 2.2 < total("--gradient_checkpointing", "false", "--dtype", "bfloat16") < plain / 1.5
    live = planned("--objective", "dpo", "--dispersion", "none")["engines"]["ddp"]
    assert parts(live)["reference"] == 4 * PARAMETERS


def test_the_longest_row_fits_and_a_longer_one_does_not():
    """GB such that some hundred pairs fit; a device's batch of as many is one row."""
    batch = ["--memory", "0.25", "--reserve", "0", "--per_device_train_batch_size"]
    longest = planned(*batch, "1")["engines"]["ddp"]["longest_row_tokens"]
    pairs = longest // 88
    assert 20 < pairs < 8192 // 88
    assert planned(*batch, str(int(pairs * 0.97)))["engines"]["ddp"]["fits"]
    assert not planned(*batch, str(int(pairs * 1.03) + 1))["engines"]["ddp"]["fits"]


def row_of(shape, lengths):
    precision = Precision(torch.float32, torch.float32)
    model = build(AutoConfig.for_model(**shape), precision)
    return plan_row(model, precision, lengths, batch=8, on_cpu=False, checkpointing=False, live_reference=False)


def test_the_longest_row_is_found_where_short_rows_do_not_set_the_peak():
    """A tied vocabulary so large that its gradient is the peak of a few short pairs: no line through those tells."""
    row = row_of({**SHAPE, "vocab_size": 200_000, "tie_word_embeddings": True}, Lengths(10, 5))
    assert row.peak(16) == pytest.approx(row.peak(8), rel=1e-3)
    for pairs in (500, 4_000, 1_000_000):
        assert 0.98 * 20 * pairs < row.longest(row.peak(pairs)) <= 20 * pairs, pairs
    assert row.longest(0) == row.longest(-1e12) == row.longest(row.peak(1) - 1) == 0


def test_the_longest_row_is_the_largest_that_fits_whatever_the_peaks_curve():
    """Plateaus, steps, curves, and sizes that cannot be had, against the inverse of each."""

    def longest(peak, free):
        return Row("packed", "", 8, 8, 0.0, 0.0, peak).longest(free)

    def too_large(count):
        if count > 10**6:
            raise InputError("no such size")
        return count**2

    for free in (1.0001e9, 1.004e9, 1.2e9, 7e9):
        assert 0.98 * free / 1e5 <= longest(lambda count: max(1e9, 1e5 * count), free) <= free / 1e5
    assert longest(lambda count: max(1e9, 1e5 * count), 0.995e9) == 0
    assert 310 <= longest(lambda count: 1e9 * math.ceil(count / 64) + 1e3 * count, 5.5e9) <= 320
    assert 0.98 * 7021 <= longest(lambda count: count**2, 7021**2) <= 7021
    assert 0.98e6 <= longest(too_large, 1e30) <= 10**6


def test_groups_that_pass_as_one_hold_what_they_hold_alone(monkeypatch):
    for lengths in (Lengths(12, 9), Lengths(700, 30)):  # prompts whose keys are kept joined, and joined again
        monkeypatch.setattr(plan, "_GROUPS", 60)
        alone = row_of(SHAPE, lengths).peak(60)
        monkeypatch.setattr(plan, "_GROUPS", 8)
        assert row_of(SHAPE, lengths).peak(60) == pytest.approx(alone, rel=0.01), lengths


@pytest.mark.parametrize(("kind", "precision"), [("bloom", "false"), ("mamba", "true"), ("rwkv", "true")])
def test_a_model_without_fused_attention_is_planned_padded(kind, precision):
    small = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": WORDS}
    shape = json.dumps({"model_type": kind, **small})
    found = plan_of(["--model_shape", shape, *GIVEN[2:], "--bf16", precision])[1]
    assert found["row"]["path"] == "padded" and found["engines"]["ddp"]["fits"]


@pytest.mark.parametrize("precision", [["--dtype", "bfloat16"], ["--bf16", "true"], ["--bf16", "false"]])
def test_a_mixture_is_planned_in_every_precision(precision):
    small = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
             "num_hidden_layers": 2, "num_local_experts": 4, "vocab_size": WORDS}  # fmt: skip
    shape = ["--model_shape", json.dumps({"model_type": "mixtral", **small}), *GIVEN[2:]]
    for checkpointing in ("true", "false"):
        found = plan_of([*shape, *precision, "--gradient_checkpointing", checkpointing])[1]
        assert found["engines"]["ddp"]["fits"]


def test_work_is_that_of_the_products():
    """By hand: six operations a weight and token of the layers, six of the head a response token, attention."""
    found = planned("--rows", "64", "--num_train_epochs", "1", "--gradient_checkpointing", "false", "--gpus", "2",
                    "--objective", "simpo", "--teraflops", "1", "--utilisation", "0.5", "--price", "2")  # fmt: skip
    layers = LAYERS * (ATTENTION + 3 * HIDDEN * INNER)
    seen = 40**2 / 2 + 2 * (40 * 24 + 24**2 / 2)
    pair = 6 * layers * 88 + 3 * 4 * LAYERS * HIDDEN * seen + 6 * WORDS * HIDDEN * 48
    assert found["steps"] == 4 and found["pairs_a_step"] == 16 and found["tokens_a_step"] == 16 * 88
    assert found["operations"] == pytest.approx(64 * pair)
    assert found["hours"] == pytest.approx(64 * pair / 1e12 / 3600)
    assert found["cost"] == pytest.approx(2 * 2 * found["hours"])


def test_a_recipe_of_train_is_planned_as_it_is(tmp_path):
    """Options of both commands in one file; exit code 1 where nothing fits; JSON on request."""
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    (tmp_path / "r.yaml").write_text(
        f"model_name_or_path: {tmp_path}\noutput_dir: out\ndataset_name: there/is/none.jsonl\nlearning_rate: 1e-6\n"
        "per_device_train_batch_size: 3\ngpus: 4\nprompt_tokens: 40\nresponse_tokens: 24\n"
        "accelerate_config: zero3\n"
    )
    code, out, _ = call("plan", "--config", tmp_path / "r.yaml", "--json", "--gpus", 2)
    found = json.loads(out)
    assert code == 0 and found["pairs_a_step"] == 6 and found["row"]["pairs"] == 3 and found["engine"] == "zero3"
    code, out, _ = call("plan", *GIVEN, "--memory", "0.000001")
    assert code == 1 and "no" in out


def test_as_many_devices_as_the_launcher_starts_processes_are_planned():
    """The launcher's option, or its file (TRL's zero3.yaml has 8); `gpus` goes before the file."""
    for arguments, devices in (
        (["--num_processes", "4"], 4),
        (["--num_processes", "4", "--gpus", "4"], 4),
        (["--accelerate_config", "zero3"], 8),
        (["--accelerate_config", "zero3", "--gpus", "2"], 2),
        ([], 1),
    ):
        found = planned("--per_device_train_batch_size", "1", *arguments)
        assert found["pairs_a_step"] == devices == found["options"]["gpus"], arguments


def test_the_language_model_of_a_multimodal_configuration_is_planned():
    """Its numbers lie in a part of the configuration; the head is that of a text model of that shape."""
    text = {**SHAPE, "model_type": "gemma3_text", "head_dim": 16}
    shape = {"model_type": "gemma3", "text_config": text}
    found = planned("--model_shape", json.dumps(shape))
    alone = planned("--model_shape", json.dumps(text))
    assert found["model"]["parameters"] > alone["model"]["parameters"]
    assert parts(found["engines"]["ddp"])["head"] == parts(alone["engines"]["ddp"])["head"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--gpus", "0"], "--gpus"),
        (["--memory", "-1"], "memory"),
        (["--reserve", "1"], "reserve"),
        (["--utilisation", "2"], "utilisation"),
        (["--price", "nan"], "price"),
        (["--model_shape", "{"], "model_shape"),
        (["--model_shape", "[1]"], "model_shape"),
        (["--model_shape", '{"model_type": "no_such_model"}'], "model_shape"),
        (["--model_shape", '{"hidden_size": 7, "num_attention_heads": 2}'], "model_shape"),
        (["--model_shape", '{"hiden_size": 64}'], "model_shape"),
        (["--model_shape", '{"num_hidden_layers": 0}'], "model_shape"),
        (["--model_shape", '{"vocab_size": 0}'], "model_shape"),
        (["--model_shape", '{"num_attention_heads": 4, "num_key_value_heads": 3}'], "model_shape"),
        (["--model_shape", '{"model_type": "phi3", "vocab_size": 500}'], "model_shape"),
        (["--model_shape", '{"model_type": "ctrl"}'], "gradient_checkpointing"),
        (["--num_processes", "0"], "num_processes"),
        (["--num_processes", "4", "--gpus", "2"], "gpus"),
        (["--num_train_epochs", "0"], "num_train_epochs"),
        (["--dataset_streaming", "true"], "max_steps"),
        (["--load_in_4bit", "--load_in_8bit", "--use_peft"], "load_in_4bit"),
        (["--attn_implementation", "nope"], "attn_implementation"),
        (["--lora_r", "0", "--use_peft"], "lora_r"),
        (["--optim", "lomo"], "optim"),
        (["--load_in_4bit"], "load_in_4bit"),
        (["--max_length", "50"], "max_length"),
        (["--beta", "-1"], "beta"),
        (["--gpuz", "2"], "--gpuz"),
    ],
)
def test_a_mistake_is_named(arguments, option):
    assert refused("plan", *GIVEN, *arguments).startswith(f"mallowspo: {option}")


def test_a_folder_that_holds_no_decoder_is_named_by_its_own_option(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert refused("plan", "--model_name_or_path", tmp_path).startswith("mallowspo: model_name_or_path")
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "num_hidden_layers": 0}))
    assert refused("plan", "--model_name_or_path", tmp_path).startswith("mallowspo: model_name_or_path")


def test_a_model_is_needed():
    for model in ([], ["--model_name_or_path", "no/such-model-here"]):
        assert refused("plan", "--gpus", 2, *model).startswith("mallowspo: model_name_or_path")


def test_sizes_of_a_tied_model_count_its_embeddings_once():
    values = {name: value for name, value in SHAPE.items() if name != "model_type"}
    config = AutoConfig.for_model("llama", **values, tie_word_embeddings=True)
    assert Sizes.of(build(config, Precision(torch.float32, torch.float32))).total == PARAMETERS - WORDS * HIDDEN

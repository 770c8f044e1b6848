"""Stand-ins of a recipe's model and data: the architecture and chat template of the one, the columns of the other."""

import importlib.util
import sys
from pathlib import Path

import datasets
import trl

from dialogue_world import dialogue_rows, write_lines
from tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
CHAT_ML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for one in messages %}<|im_start|>{{ one['role'] }}\n{{ one['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def script(name):
    spec = importlib.util.spec_from_file_location(f"recipes_{name}", ROOT / f"recipes/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def chat_tokenizer(template, *special):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.eos_token = special[-1]
    tokenizer.chat_template = template
    return tokenizer


def of_trl(name):
    return (Path(trl.__file__).parent / f"chat_templates/{name}.jinja").read_text(encoding="utf-8")


def llama_3():
    tokenizer = chat_tokenizer(of_trl("llama3"), "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return tokenizer, tiny_llama(len(tokenizer), rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})


def qwen_3():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = chat_tokenizer(of_trl("qwen3"), "<think>", "</think>", "<|im_start|>", "<|im_end|>")
    # 4-bit weights are made in blocks of 64.
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, max_position_embeddings=512,
    )  # fmt: skip
    return tokenizer, Qwen3ForCausalLM(config)


def pythia():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = tiny_tokenizer(pad=False)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512,
    )  # fmt: skip
    return tokenizer, GPTNeoXForCausalLM(config)


def gpt_2():
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_tokenizer(pad=False)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=2, eos_token_id=2
    )
    return tokenizer, GPT2LMHeadModel(config)


def smollm_2():
    tokenizer = chat_tokenizer(CHAT_ML, "<|im_start|>", "<|im_end|>")
    model = tiny_llama(
        len(tokenizer), hidden_size=36, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True
    )
    return tokenizer, model


def conversations(columns):
    """UltraFeedback: a whole conversation on either side, beside what else the data set holds."""
    rows = []
    for number in range(40):
        prompt, answers = f"What is the best way to cook {number}?", (f"rinse it {number}", f"no {number} no no")
        chosen, rejected = (
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}] for text in answers
        )
        everything = {
            "prompt_id": str(number), "prompt": prompt, "all_generated_responses": list(answers),
            "all_rm_scores": [0.2, 0.1], "chosen": chosen, "rejected": rejected, "messages": chosen,
            "score_chosen": 8.0, "score_rejected": 5.5,
        }  # fmt: skip
        rows.append({name: everything[name] for name in columns.split()})
    return datasets.Dataset.from_list(rows)


def saved(columns):
    """A function that leaves such rows in a folder, as `datasets` saves them, and says where."""

    def make(folder):
        path = folder / "rows"
        datasets.DatasetDict({"train": conversations(columns)}).save_to_disk(path)
        return path

    return make


def hh_rows(folder):
    (folder / "hh").mkdir()
    for split in ("train", "test"):
        rows = dialogue_rows(40, turns=2)
        whole = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in rows]
        write_lines(folder / f"hh/{split}.jsonl", whole)
    assert script("prepare").main(["hh", str(folder / "hh"), str(folder / "out")]) == 0
    return folder / "out/train.jsonl"


def imdb_rows(folder):
    rows = [{"prompt_ids": [40, 41, i], "chosen_ids": [50, i], "rejected_ids": [60, 61, i, 2]} for i in range(30, 70)]
    return Path(write_lines(folder / "train.jsonl", rows))


# A recipe's folder -> its model, and what makes its data in a folder and says where it is.
ARMORM = "prompt_id prompt all_generated_responses all_rm_scores chosen rejected"
STAND_INS = {
    "llama-3-8b-ultrafeedback": (llama_3, saved(ARMORM)),
    "qwen3-0.6b-ultrafeedback": (qwen_3, saved("chosen rejected score_chosen score_rejected")),
    "qwen3-4b-ultrafeedback": (qwen_3, saved("chosen rejected score_chosen score_rejected")),
    "smollm2-135m-cpu": (
        smollm_2,
        saved("prompt prompt_id chosen rejected messages score_chosen score_rejected"),
    ),
    "pythia-2.8b-hh": (pythia, hh_rows),
    "gpt2-large-imdb": (gpt_2, imdb_rows),
}

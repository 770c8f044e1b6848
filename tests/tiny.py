"""A tokenizer and a model small enough to build inside a test, with the same classes as real ones."""

from __future__ import annotations

from typing import Any

# Enough English for the words of the tests; what is not here falls apart into letters, never into <unk>.
_LINES = [
    "Question: what is the best way to cook rice? Answer: rinse it, then boil it in twice as much water.",
    "Human: hello, how are you today? Assistant: I am fine, thank you. How can I help you?",
    "The quick brown fox jumps over the lazy dog while seven wizards box just beyond the misty pond.",
    "Once upon a time there was a little girl who lived in a small house near the big dark forest.",
    "good bad yes no maybe one two three four five six seven eight nine ten",
    "AND THE CAPITAL LETTERS SHOULD BE KNOWN TOO: JUMPING FOXES VEX QUIZ PACK DB GWH 0123456789",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(chat: bool = False, *, eos: bool = True, pad: bool = True) -> Any:
    """Train a byte-level BPE of about 400 pieces on a few lines.

    Args:
        chat: Give it a chat template that renders a conversation token by token as a prefix of a longer one.
        eos: Give it an end-of-sequence token, `</s>`.
        pad: Give it a padding token of its own, `<pad>`.

    Returns:
        A `PreTrainedTokenizerFast`: `<s>` is the first token of every text that asks for special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_LINES, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>" if eos else None,
        pad_token="<pad>" if pad else None,
        padding_side="left",
        model_max_length=512,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_llama(vocab_size: int = 400, seed: int = 0, **config: Any) -> Any:
    """Build a random `LlamaForCausalLM`: hidden size 32, 2 layers, 4 heads, float32, in eval mode.

    Args:
        vocab_size: Rows of the embedding; at least `len(tokenizer)`.
        seed: Of the weights. The global random state is left as it was.
        **config: Any further field of `LlamaConfig`, or another value for one of these.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        # Wider than Llama's 0.02: with it every next-token distribution would be all but uniform.
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**(fields | config)))
    return model.eval()


def save_tiny(folder: Any, *, chat: bool = False) -> Any:
    """Save the tiny tokenizer, with a chat template or without, and the model to it; gives the folder."""
    tokenizer = tiny_tokenizer(chat)
    tokenizer.save_pretrained(folder)
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    return folder

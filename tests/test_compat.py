"""Every private name of TRL that we stand on is where it was and means what it meant."""

import inspect

import pytest
import torch
from transformers import Trainer
from trl import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from mallowspo.compat import (
    TRLPreferenceTrainer,
    accelerate_launch_arguments,
    add_score_head,
    saved_tensors_are_looked_after,
)
from tiny import tiny_llama


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_constructor_is_trls_in_names_and_order():
    from mallowspo import MallowsPOTrainer

    assert parameters(MallowsPOTrainer.__init__) == parameters(DPOTrainer.__init__)


def test_hooks_have_the_arguments_that_we_override():
    assert parameters(DPOTrainer._prepare_dataset) == ["self", "dataset", "processing_class", "args", "dataset_name"]
    assert parameters(DPOTrainer._precompute_ref_logps) == ["self", "dataset", "name", "batch_size"]
    assert parameters(DPOTrainer._set_signature_columns_if_needed) == ["self"]
    assert parameters(DPOTrainer._get_train_sampler) == ["self", "train_dataset"]
    assert parameters(Trainer._get_dataloader)[:3] == ["self", "dataset", "description"]
    assert parameters(DPOTrainer.compute_loss) == ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]


def test_a_checkpoint_goes_where_the_output_folder_of_a_trial_is():
    """`TRLPreferenceTrainer._save_checkpoint` sends every file of a checkpoint to a folder beside through it."""
    source = inspect.getsource(Trainer._save_checkpoint)
    assert parameters(Trainer._save_checkpoint) == ["self", "model", "trial"]
    assert source.count("self._get_output_dir(trial=trial)") == 1
    for part in ("self.save_model(output_dir", "self._save_rng_state(output_dir", "os.path.join(output_dir, TRAINER"):
        assert part in source, part
    assert "super()._save_checkpoint(model, trial)" in inspect.getsource(DPOTrainer._save_checkpoint)
    assert parameters(Trainer._push_from_checkpoint) == ["self", "checkpoint_folder"]
    assert parameters(Trainer._load_from_checkpoint)[:2] == ["self", "resume_from_checkpoint"]


def test_the_constructor_reads_the_names_that_we_set_and_read():
    source = inspect.getsource(DPOTrainer.__init__)
    for name in (
        "self._metrics =",
        "self._total_train_tokens =",
        "self._tp_size =",
        "self._precompute_engine =",
        "self.beta =",
        "self.router_aux_loss_coef =",
        "self.aux_loss_enabled =",
        "self._prepare_dataset(",
    ):
        assert name in source, name  # fmt: skip
    assert "self._metrics[mode]" in inspect.getsource(DPOTrainer.log)


def test_loss_is_not_scaled_for_accumulation_by_the_trainer():
    assert DPOTrainer.loss_is_scaled_for_ga is False


def test_fused_head_returns_the_fields_that_we_read():
    for field in ("log_probs", "entropy", "mean_logits", "is_top1", "aux_loss"):
        assert field in FusedCausalLMOutput.__dataclass_fields__
    assert "outputs" in parameters(add_fused_lm_head)


def test_a_head_can_be_given_more_outputs_afterwards():
    """The separate reference gets log-probabilities from TRL and entropies from us."""
    model = tiny_llama(vocab_size=20)
    add_fused_lm_head(model)
    ids = torch.tensor([[1, 4, 7, 2]])
    with torch.no_grad():
        first = model(input_ids=ids, labels=ids, fused_lm_head=True)
        add_score_head(model)
        second = model(input_ids=ids, labels=ids, fused_lm_head=True)
    assert first.entropy is None and torch.equal(first.log_probs, second.log_probs)
    assert second.entropy.shape == first.log_probs.shape


def test_the_kernel_takes_gathered_hidden_states():
    """Its torch twin, which is what it is on the CPU, gives the numbers of plain logits in the order that we read."""
    from trl.kernels import ChunkedLogProbFunction

    assert parameters(ChunkedLogProbFunction.forward)[1:] == [
        "hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping", "logit_scale",
        "outputs",
    ]  # fmt: skip
    hidden, weight = torch.randn(3, 4), torch.randn(9, 4)
    log_p = (hidden @ weight.T).log_softmax(-1)
    target = log_p.argmax(-1)
    log_prob, entropy, _, mean_logit, top1 = ChunkedLogProbFunction.apply(
        hidden, weight, None, target, 1.0, 32768, None, 1.0, ("entropy", "mean_logits", "is_top1")
    )
    torch.testing.assert_close(log_prob, log_p.amax(-1))
    torch.testing.assert_close(entropy, -(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(mean_logit, (hidden @ weight.T).mean(-1))
    assert top1.all()


def test_gathering_does_nothing_without_deepspeed():
    from mallowspo.compat import gathered_parameters

    with gathered_parameters(torch.nn.Parameter(torch.ones(2)), None):
        pass


def test_shipped_accelerate_configurations_are_found():
    arguments = accelerate_launch_arguments(["--accelerate_config", "zero3", "--num_processes", "2"])
    assert arguments[0] == "--config_file" and arguments[1].endswith("zero3.yaml")
    assert arguments[2:] == ["--num_processes", "2"]
    with pytest.raises(ValueError, match="nowhere"):
        accelerate_launch_arguments(["--accelerate_config", "nowhere"])


def test_launcher_options_are_found_though_its_help_hides_them():
    from accelerate.commands.launch import launch_command_parser

    from mallowspo.compat import option_names

    assert {"--num_processes", "--multi_gpu", "--config_file"} <= option_names(launch_command_parser())


def test_no_other_file_uses_a_private_name_of_trl():
    import mallowspo

    root = inspect.getfile(mallowspo).rsplit("/", 1)[0]
    import pathlib
    import re

    private = re.compile(r"from trl\S* import _|trl\.\S+\._[a-z]|DPOTrainer\._|self\._(metrics|tp_size)\b")
    for path in pathlib.Path(root).rglob("*.py"):
        if path.name != "compat.py":
            assert not private.search(path.read_text(encoding="utf-8")), path


def test_seam_is_a_dpo_trainer():
    assert issubclass(TRLPreferenceTrainer, DPOTrainer)


def test_hooks_for_saved_tensors_are_seen_where_they_are_on():
    seen = []

    def layer(x):
        seen.append(saved_tensors_are_looked_after())
        return x.exp()

    x = torch.ones(2, requires_grad=True)
    layer(x)
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    with torch.autograd.graph.save_on_cpu():
        layer(x)
    assert seen == [False, True, True, True]  # the second and third: forwards, and once more for the backward pass

"""`MallowsPOTrainer`: TRL's `DPOTrainer` whose loss knows how much people agree on each prompt."""

from __future__ import annotations

import shutil
import textwrap
from contextlib import ExitStack, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from torch import Tensor
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from mallowspo.compat import TRAINER_STATE_NAME, TRLPreferenceTrainer
from mallowspo.data.annotations import LOSS_COLUMNS
from mallowspo.data.fingerprint import rows_fingerprint
from mallowspo.data.records import LIST_COLUMN, RANKS_COLUMN, TOKEN_COLUMNS
from mallowspo.data.vocabulary import embedding_rows, refuse_unknown_ids
from mallowspo.dispersion import Calibration, IndexMap, ReferenceStatistics
from mallowspo.errors import InputError, NonFiniteLossError
from mallowspo.files import passing_folder, staging_folder
from mallowspo.objectives import Objective, objective_loss
from mallowspo.objectives.listwise import objective_list_loss
from mallowspo.scoring import Processes, vocabulary_size
from mallowspo.scoring.model_checks import adapter_configs, require_plain_head, unwrapped_adapters
from mallowspo.scoring.reference_key import weights_digest
from mallowspo.training.adapters import (
    compare_at_start,
    reference_words,
    refuse_lost_reference,
    refuse_other_adapters,
    refuse_unmatched,
)
from mallowspo.training.checkpoints import (
    chosen_checkpoint,
    enter_run,
    faults,
    move_in,
    publish,
    remove_surplus,
    run_folder,
    seal,
)
from mallowspo.training.config import (
    MallowsPOConfig,
    checked_settings,
    refuse_other_collator,
    refuse_unfit_models,
)
from mallowspo.training.description import not_finite, nothing_trained, run_lines, run_remarks
from mallowspo.training.displacement import DisplacementMonitor
from mallowspo.training.lists import ListBatch, ListRows, example_places
from mallowspo.training.metrics import MetricStore, batch_metrics, gathered
from mallowspo.training.reference import ReferenceSource, refuse_other_store, score_columns
from mallowspo.training.removed_options import knows_removed_options
from mallowspo.training.row_order import ListSampler, selected_rows
from mallowspo.training.row_weights import (
    RAW_COLUMN,
    batch_weights,
    calibrate_rows,
    fitted_shrink,
    loss_weight_scale,
    lost_column,
    people_said,
    raw_from_reference,
)
from mallowspo.training.scoring_path import (
    ScoredPairs,
    ScoringPath,
    choose_scoring_path,
    largest_first,
    tried,
    whole_model,
)
from mallowspo.training.splits import (
    PreparedSplit,
    is_prepared,
    pair_collator,
    prepare_split,
    preparing_tokenizer,
    tell,
    warn_of_other_layout,
)
from mallowspo.training.state_file import (
    TrainingState,
    changed_settings,
    read_state,
    refuse_other_run,
    resumed_calibration,
    run_settings,
    write_state,
)
from mallowspo.training.streaming import is_streaming, prepare_stream, refuse_streamed, refuse_unstreamed, with_columns

__all__ = ["MallowsPOTrainer"]

logger = get_logger(__name__)

COMPARED_ROWS = 2
"""Rows on which an untrained policy with a new adapter is held against its reference."""

# In a checkpoint, the reference as `sync_ref_model` has moved it.
_REFERENCE = "reference"

# In the batch that ends an epoch: how many examples of all processes' are not filled up, and which of these they are.
_OWN_EXAMPLES = "_own_examples"
_COUNTS = "_counts_b"

# What a saved model's card says of the method.
_PAPER = {
    "title": "MallowsPO: Fine-Tune Your LLM with Preference Dispersions",
    "id": "2405.14953",
    "citation": textwrap.dedent("""\
        @inproceedings{chen2025mallowspo,
            title        = {{MallowsPO: Fine-Tune Your LLM with Preference Dispersions}},
            author       = {Haoxian Chen and Hanyang Zhao and Henry Lam and David Yao and Wenpin Tang},
            year         = 2025,
            booktitle    = {International Conference on Learning Representations},
            eprint       = {2405.14953},
            archivePrefix= {arXiv},
        }"""),
}


class MallowsPOTrainer(TRLPreferenceTrainer):
    """Preference fine-tuning with a dispersion index; a drop-in for `trl.DPOTrainer`.

    The constructor, the accepted datasets, the metric names and the checkpoints are TRL's. Before the first step the
    reference model is run once over the training rows: its log-probabilities serve the loss, its entropies the index.

    Attributes:
        objective: The point on the objective's axes that is trained.
        calibration: How an index becomes a weight; None with `dispersion: none`. Saved in every checkpoint.
        splits: What was read, dropped and truncated of each split, by name.
        reference_sources: Where the reference's scores of each split came from, by name.
        reference_weights: Digest of the weights of the reference, or of an adapter's base; known once training begins.
        reference_is_ours: Nobody gave a `ref_model`.
        loss_weight_scale: What a row's `loss_weight` is multiplied by, so that its mean over the training rows is 1.
        displacement: Watches whether chosen responses lose probability, and what it has warned of.

    Raises:
        InputError: Options or rows that cannot be trained on; where `model` is a name, before it is loaded.
        NonFiniteLossError: During training: a loss is NaN or infinite. Names the rows.

    Example:
        Train from Python as with TRL:

            trainer = MallowsPOTrainer(
                model="Qwen/Qwen2.5-0.5B-Instruct",
                args=MallowsPOConfig("out", objective="mallows_theta", beta=0.1),
                train_dataset=load_dataset("trl-lib/ultrafeedback_binarized", split="train"),
            )
            trainer.train()
    """

    objective: Objective
    calibration: Calibration | None
    splits: dict[str, PreparedSplit]
    reference_sources: dict[str, str]
    displacement: DisplacementMonitor
    settings: MallowsPOConfig
    reference_is_ours: bool
    _scoring: ScoringPath | None = None
    _in_training_step = False
    _eval_losses: list[Tensor]
    loss_weight_scale: float = 1.0
    _rows: dict[str, Any] | None = None
    _run: str | None = None
    reference_weights: str | None = None

    _tag_names = ["trl", "mallowspo"]
    _name = "MallowsPO"
    _paper = _PAPER

    @knows_removed_options
    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: MallowsPOConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        callbacks: Any = None,
        optimizers: Any = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ) -> None:
        self.settings = args = checked_settings(args, model, ref_model, train_dataset, peft_config)
        if is_streaming(train_dataset):
            refuse_streamed(args)
        else:
            refuse_unstreamed(args)
        refuse_lost_reference(model, ref_model, peft_config)
        self._uneven = 0  # examples of the epoch's last batch, where accelerate does not know: behind skipped ones
        self.reference_is_ours = ref_model is None
        self.objective = args.resolved_objective
        if compute_metrics is not None and self.objective.reads_lists:
            raise InputError(
                f"compute_metrics: it is given logits of pairs, and objective {args.objective!r} reads ranked lists; "
                "leave it out: the metrics of lists are logged by themselves"
            )
        self.calibration = None
        self._people = people_said(args)
        self.splits, self.reference_sources = {}, {}
        self.displacement = DisplacementMonitor(args.displacement_alarm)
        self._stores = {"train": MetricStore(), "eval": MetricStore()}
        self._eval_prefix, self._eval_losses = "eval", []
        self._tried: set[tuple[int, type]] = set()
        refuse_other_collator(data_collator, args, train_dataset)
        revision = dict(cast(Any, args.model_init_kwargs) or {}).get("revision")
        refuse_unfit_models(model, ref_model, args, revision)
        processing_class = preparing_tokenizer(model, processing_class, args)
        # Ids that the policy and a reference of its own can read.
        self._vocabularies = {
            option: embedding_rows(given, revision=revision, trust_remote_code=args.trust_remote_code)
            for option, given in (("model", model), ("ref_model", ref_model))
            if given is not None
        }
        train_dataset = self._prepared(train_dataset, processing_class, "train")
        if isinstance(eval_dataset, dict):
            eval_dataset = {k: self._prepared(v, processing_class, f"eval_{k}") for k, v in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = self._prepared(eval_dataset, processing_class, "eval")
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            data_collator=data_collator or pair_collator(processing_class, args, *self._vocabularies.values()),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        refuse_unmatched(self.model, peft_config)
        if not args.reads_reference:
            self.precompute_ref_logps = False  # the option kept TRL from loading a reference; there are no scores
        self._select_rows()
        known = self._known_rows
        self.loss_weight_scale = loss_weight_scale(known, self._examples_of(known))
        self._new_adapter = peft_config is not None
        if self._new_adapter and self._whole_model:
            self._compare_at_start(self.model)
        self._log_run()

    def _compare_at_start(self, model: Any) -> None:
        """Hold an untrained policy against its reference, where a new adapter stands between the two."""
        if self.ref_model is not None or not self.settings.reads_reference or not is_peft_model(self.model):
            return
        rows: Any = self._known_rows
        batch = self.data_collator(list(rows.select(range(min(COMPARED_ROWS, len(rows))))))
        compare_at_start(model, self.reference(), batch, self.accelerator)

    def _log_run(self) -> None:
        """Say what is trained and how, and as warnings what is seldom meant."""
        args, reference = self.settings, "none"
        if args.reads_reference:
            policy = self.accelerator.unwrap_model(self.model)
            reference = reference_words(policy, self.ref_model, ours=self.reference_is_ours)
        precomputed = self.precompute_ref_logps
        lines = run_lines(args, self.scoring, self.calibration, reference=reference, precomputed=precomputed)
        for line in lines:
            logger.info(line)
        for remark in self.remarks:
            logger.warning(remark)

    @property
    def remarks(self) -> list[str]:
        """What deserves a line in the log, since it is seldom meant."""
        loading = self.accelerator.dataloader_config
        rows = None if is_streaming(self.train_dataset) else len(self.examples(cast(Any, self.train_dataset)))
        return run_remarks(self.settings, self.calibration, rows=rows, dataloader_config=loading)

    # Data

    @property
    def _known_rows(self) -> Any:
        """The training rows, or the first window of those that are streamed."""
        return self.splits["train"].known if is_streaming(self.train_dataset) else self.train_dataset

    def _prepared(self, dataset: Any, tokenizer: Any, name: str) -> Any:
        """Validate, tokenise and weigh one split; the first one fits the calibration."""
        streamed = name == "train" and is_streaming(dataset)
        split = (
            prepare_stream(dataset, tokenizer, self.settings)
            if streamed
            else prepare_split(dataset, tokenizer, self.settings, name)
        )
        self.splits[name] = split
        tell(split, self.settings, name)
        for option, size in self._vocabularies.items():
            refuse_unknown_ids(split.known, tokenizer, size, f"{option}: {name} data")
        if name != "train" and "train" in self.splits:
            warn_of_other_layout(self.splits["train"].known, split.dataset, name)
        if name == "train":
            refuse_other_store(split.dataset, tokenizer, self.settings)
        if split.raw_n is None:
            return split.dataset
        if self.calibration is None:
            examples = self._examples_of(split.known)
            fit = fitted_shrink(split.raw_n, split.known["prompt_id"][:], self.settings, self._people, examples)
            self.calibration = calibrate_rows(
                split.raw_n[examples], self.settings, weights_given=split.weights_given, fit=fit
            )
        return split.dataset if streamed else split.dataset.add_column(RAW_COLUMN, split.raw_n)

    def _select_rows(self) -> None:
        """Filter and order the training rows by dispersion; the weights of those that stay have mean 1."""
        keep, order = self.settings.dispersion_filter, self.settings.dispersion_order
        if self.calibration is None or (list(keep) == [0.0, 1.0] and order == "none"):
            return
        rows: Any = self.train_dataset
        raw_n = np.asarray(rows[RAW_COLUMN], np.float64)
        examples = self._examples_of(rows)
        places = selected_rows(raw_n, keep=keep, order=order, examples=examples)
        self.train_dataset = kept = rows.select(places)
        if len(places) < len(raw_n):
            kept_examples, index_map = self._examples_of(kept), self.calibration.index_map
            kept_n, floored = raw_n[places][kept_examples], 0
            if index_map is not None:
                index_n = np.asarray(kept["dispersion_index"], np.float64)[kept_examples]
                floored = IndexMap.from_dict(index_map).raw(index_n)[1]
            # Votes on prompts that are left out speak too, about the mean of those that stay.
            fit = fitted_shrink(
                raw_n, rows["prompt_id"][:], self.settings, self._people, examples, mean=float(kept_n.mean())
            )
            self.calibration = calibrate_rows(
                kept_n,
                self.settings,
                weights_given=self.splits["train"].weights_given,
                fit=fit,
                floored=floored,
                index_map=index_map,
            )
        logger.info(f"dispersion_filter {keep} and dispersion_order {order}: {len(places)} of {len(raw_n)} rows")

    def _examples_of(self, rows: Any) -> Any:
        return example_places(rows, lists=self.objective.reads_lists)

    def tokenize_dataset(self, dataset: Any, tokenizer: Any, name: str) -> Any:
        """Prepare a split that was given to `evaluate`; the constructor's own are ready by now."""
        return dataset if is_prepared(dataset) else self._prepared(dataset, tokenizer, name)

    def extra_columns(self) -> tuple[str, ...]:
        """Columns of ours that reach the collator."""
        from mallowspo.data.collation import EXTRA_COLUMNS, LIST_KEY

        return (*EXTRA_COLUMNS, LIST_KEY)

    def examples(self, rows: Any) -> Any:
        """Rows, or whole lists where the objective reads them."""
        return ListRows(rows) if self.objective.reads_lists else rows

    def train_sampler(self) -> Any:
        """Keep the pairs of a ranked list together; rows that are pairs already are drawn as TRL draws them."""
        rows = cast(Any, self.train_dataset)
        if is_streaming(rows):
            return None  # in the order in which they come
        drawn_whole = self.objective.reads_lists or LIST_COLUMN not in rows.column_names
        if self.args.train_sampling_strategy != "random" or drawn_whole:
            return None
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = ListSampler(rows[LIST_COLUMN], seed=seed)
        return sampler if sampler.has_lists else None

    def add_reference_columns(self, dataset: Any, name: str, batch_size: int) -> Any:
        """The reference's scores of a split, and the index from them; TRL calls this once per split."""
        if not self.settings.reads_reference:
            return dataset
        plain = self.accelerator.unwrap_model(self.model if self.ref_model is None else self.ref_model)
        require_plain_head(plain)
        if not self._whole_model:
            with self.reference() as model:
                self._try_in_engine(model)
        source = ReferenceSource(
            args=self.settings,
            accelerator=self.accelerator,
            policy=self.model,
            ref_model=self.ref_model,
            tokenizer=self.processing_class,
            collator=self.data_collator,
            scoring=self.scoring,
            live=self.reference,
        )
        key = source.key(dataset)
        self.reference_weights = key.weights
        if is_streaming(dataset):
            places_of, said = source.streamed_scores(self.splits[name].known, key, batch_size)
            scores, prompt_ids = places_of.stored.scores, places_of.stored.prompt_ids
            examples = np.arange(len(prompt_ids))
        else:
            scores, said = source.scores(dataset, name, key, batch_size)
            prompt_ids, examples = dataset["prompt_id"][:], self._examples_of(dataset)
        self.reference_sources[name] = said
        columns = score_columns(scores) | self._raw(scores, plain, prompt_ids, examples)
        if is_streaming(dataset):
            return with_columns(dataset, columns, places_of, self.settings)
        for column, values in columns.items():
            dataset = dataset.add_column(column, values)
        return dataset

    def _raw(self, scores: Any, model: Any, prompt_ids: Any, examples: Any) -> dict[str, Any]:
        """Raw weight and index of rows, where the reference's entropies give them; the first rows calibrate."""
        if not self.settings.reads_entropy:
            return {}
        statistics = ReferenceStatistics.of(scores, vocab_size=vocabulary_size(model))
        found = raw_from_reference(
            statistics,
            prompt_ids,
            self.settings,
            calibration=self.calibration,
            people=self._people,
            examples=examples,
        )
        self.calibration = self.calibration or found.calibrated(self.settings, prompt_ids, self._people, examples)
        return {RAW_COLUMN: found.raw_n, "dispersion_index": found.index_n}

    # Loss

    def get_train_dataloader(self) -> Any:
        """The training batches, in an order that a run which goes on within an epoch finds again.

        accelerate wraps the batches of several processes once more to skip those that were seen. A sampler of our own,
        which keeps the pairs of a list together, is then not told the epoch, and would shuffle as in the first one.
        """
        loader: Any = super().get_train_dataloader()
        batches = getattr(loader, "batch_sampler", None)
        sampler = getattr(getattr(batches, "batch_sampler", batches), "sampler", None)
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None and not hasattr(batches, "set_epoch"):
            setattr(batches, "set_epoch", set_epoch)  # noqa: B010  # which no class of theirs declares
        self._uneven = 0
        if not self.args.dataloader_drop_last:
            with suppress(TypeError, AttributeError):  # a stream has no length
                self._uneven = len(loader.dataset) % loader.total_batch_size
        return loader

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The batches of a step; the one that ends an epoch is told how many of its examples are its own."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        state = self.accelerator.gradient_state
        if batches and state.end_of_dataloader and self._filled_up:
            own = state.remainder if state.remainder >= 0 else self._uneven
            if own > 0:
                batches[-1][_OWN_EXAMPLES] = own
        return batches, items

    @property
    def _filled_up(self) -> bool:
        """Whether accelerate fills up the uneven last batch of several processes with rows of the first."""
        several = self.accelerator.num_processes > 1 and self.tensor_parallel_size == 1
        return several and bool(self.accelerator.even_batches)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss over the pairs of a batch; records the metrics on the way.

        Args:
            model: The policy.
            inputs: A batch of `PreferenceCollator`: 2B rows, chosen then rejected.
            return_outputs: Also return the logits, for `compute_metrics`; costs a second forward pass.
            num_items_in_batch: Not used: the loss is a mean over pairs, not over tokens.

        Returns:
            The loss, or the loss and the model's outputs.
        """
        self._try_in_engine(model, training=self._in_training_step)
        inputs = dict(inputs)
        own, processes = inputs.pop(_OWN_EXAMPLES, None), self.accelerator.num_processes
        lists = ListBatch.of(inputs) if self.objective.reads_lists else None
        examples = len(inputs["input_ids"]) // 2 if lists is None else len(lists.first_b)
        if own is not None:
            # What was filled up comes after the others, in the order of the processes; it is computed and weighs 0.
            place_b = torch.arange(examples, device=inputs["input_ids"].device) if lists is None else lists.list_p
            inputs[_COUNTS] = self.accelerator.process_index * examples + place_b < own
            examples = own / processes  # the engine takes the mean over processes
        pieces = self.scoring.pieces(inputs)
        if self.objective.sft_weight:
            # TRL's SFT term is the mean over the batch's chosen tokens, however many pieces the batch is cut into.
            length = self._mean_chosen_length(inputs)
            for piece in pieces:
                piece["sft_length"] = length
        parts: dict[int, ScoredPairs] = {}
        loss: Any = 0.0
        # The graph of all but the last piece is spent at once, and only the last one's gradients are synchronised.
        for i, piece in [*((None, piece) for piece in self.scoring.spare(pieces)), *largest_first(pieces)]:
            early = self._in_training_step and len(parts) < len(pieces) - (i is not None)
            with self.accelerator.no_sync(model) if early and self._whole_model else nullcontext():
                part = self._score_pairs(model, piece)
                share = part.loss_b.sum() / examples
                if part.policy.aux_loss is not None:
                    share = share + self.router_aux_loss_coef * part.policy.aux_loss
                if i is None:
                    share = 0 * share
                if early:
                    self._spend(share / self.current_gradient_accumulation_steps)
            loss = loss + (share.detach() if early else share)
            if i is not None:
                parts[i] = part
        with torch.no_grad():
            self._record(inputs, ScoredPairs.join([parts[i] for i in range(len(pieces))]), own=own)
        if not return_outputs:
            return loss
        with torch.no_grad():
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        return loss, outputs

    def _spend(self, share: Tensor) -> None:
        """The backward pass of a piece that is not the last of its batch."""
        if self.is_deepspeed_enabled:
            # DeepSpeed's engine steps after a backward pass unless it is told that more will come.
            engine: Any = self.accelerator.deepspeed_engine_wrapped
            engine.backward(share, sync_gradients=False, scale_wrt_gas=False)
        else:
            self.accelerator.backward(share)

    def _mean_chosen_length(self, inputs: Any) -> float:
        """Tokens of a chosen response on average over the batches of all processes; nothing predicts a first token."""
        mask = inputs["completion_mask"]
        lengths_b = mask[: len(mask) // 2, 1:].sum(1).float()  # MPS has no float64
        counts_b = inputs.get(_COUNTS, torch.ones_like(lengths_b))
        sums = torch.stack([(lengths_b * counts_b).sum(), counts_b.sum().to(lengths_b)])
        total, rows = self.accelerator.reduce(sums, "sum").tolist()
        return float(total / rows)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Loss and logits of a batch; of lists the loss alone, since processes have other numbers of responses."""
        return super().prediction_step(model, inputs, prediction_loss_only or self.objective.reads_lists, ignore_keys)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass over a batch, in pieces where the scoring path has them."""
        self._in_training_step = True
        try:
            return cast(Tensor, super().training_step(*args, **kwargs))
        finally:
            self._in_training_step = False

    @cached_property
    def _whole_model(self) -> bool:
        return whole_model(self.accelerator, self.model, tensor_parallel=self.tensor_parallel_size > 1)

    def _try_in_engine(self, model: Any, *, training: bool = False) -> None:
        """What is held against the model's own logits at once where each process has all of it, as soon as it runs."""
        # Inside of an engine a model can be called by all processes together only, and not before it is wrapped.
        if self._whole_model:
            return
        form = (id(self.accelerator.unwrap_model(model)), type(model))
        if form in self._tried:
            return
        self._tried.add(form)
        self._scoring = tried(self.scoring, self.settings, self.accelerator, model)
        if training and self._new_adapter and self.state.global_step == 0:
            self._compare_at_start(model)

    @property
    def scoring(self) -> ScoringPath:
        """How responses are scored; decided when the first score is asked for."""
        if self._scoring is None:
            self._scoring = choose_scoring_path(
                self.settings,
                self.accelerator,
                self.model,
                self.ref_model,
                tensor_parallel=self.tensor_parallel_size > 1,
                balance_loss=self.aux_loss_enabled,
            )
        return self._scoring

    def _score_pairs(self, model: Any, inputs: Any) -> ScoredPairs:
        """Scores and losses of one piece of a batch."""
        policy = self.scoring.score(model, inputs, router_logits=self.aux_loss_enabled, sum_dtype=self._sum_dtype)
        reference_bk = self._reference_logps(inputs)
        weight_b = None if self.calibration is None else batch_weights(self.calibration, inputs, policy.logp_bk)
        reference = (None, None) if reference_bk is None else reference_bk.unbind(1)
        beta = self._row_column("beta", inputs, self.beta)
        lists = ListBatch.of(inputs) if self.objective.reads_lists else None
        if lists is None:
            loss_b = objective_loss(
                self.objective,
                *policy.logp_bk.unbind(1),
                *reference,
                beta=beta,
                weight=weight_b,
                margin=self._row_column("margin", inputs),
                chosen_lengths=policy.length_bk[:, 0],
                rejected_lengths=policy.length_bk[:, 1],
                sft_length=inputs.get("sft_length"),
            )
        else:
            loss_b = objective_list_loss(
                self.objective,
                lists.lists(policy.logp_bk),
                None if reference_bk is None else lists.lists(reference_bk),
                lists.ranks_bk,
                beta=beta[lists.first_b] if isinstance(beta, Tensor) else beta,
                weight=None if weight_b is None else weight_b[lists.first_b],
                mask=lists.mask_bk,
                lengths=lists.lists(policy.length_bk.to(policy.logp_bk)),
            )
        if self.settings.loss_scale != 1.0:
            loss_b = loss_b * self.settings.loss_scale
        loss_weight_b = self._row_column("loss_weight", inputs)
        if loss_weight_b is not None:
            loss_weight_b = loss_weight_b if lists is None else loss_weight_b[lists.first_b]
            loss_b = loss_b * (self.loss_weight_scale * loss_weight_b.to(loss_b))
        if _COUNTS in inputs:
            counts_b = inputs[_COUNTS] if lists is None else inputs[_COUNTS][lists.first_b]
            loss_b = loss_b * counts_b.to(loss_b)
        if not bool(torch.isfinite(loss_b).all()):
            step, output_dir = self.state.global_step, self.args.output_dir
            named = cast(Any, self.model).named_parameters()
            broken = [name for name, value in named if not bool(torch.isfinite(value).all())]
            rows = inputs.get("row_index")
            rows = rows if rows is None or lists is None else rows[lists.first_b]
            raise NonFiniteLossError(not_finite(loss_b.detach(), rows, broken, step=step, output_dir=output_dir))
        return ScoredPairs(policy, reference_bk, weight_b, loss_b)

    def _reference_logps(self, inputs: Any) -> Tensor | None:
        """Reference log-probabilities, shape (B, 2): from the batch, or from a live pass."""
        if not self.objective.needs_reference:
            return None
        if self.precompute_ref_logps:
            return torch.stack([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]], dim=1)
        with self.reference() as model:
            return cast(Tensor, self.scoring.score(model, inputs, sum_dtype=self._sum_dtype).logp_bk)

    @property
    def _sum_dtype(self) -> torch.dtype:
        """Float64, as the order of addition must not count; TRL's float32 where both models run live in its rows."""
        exact = (self.precompute_ref_logps or self.scoring.shares_prompts) and self.accelerator.device.type != "mps"
        return torch.float64 if exact else torch.float32

    def _row_column(self, name: str, inputs: Any, default: Any = None) -> Any:
        """A column that changes the loss of its row; the default where the data have none."""
        values_b = inputs.get(name)
        if values_b is None and self.mode == "train" and name in (cast(Any, self.train_dataset).column_names):
            raise lost_column(name)
        return default if values_b is None else values_b

    # Metrics

    def _record(self, inputs: Any, scored: ScoredPairs, *, own: int | None = None) -> None:
        """Take a batch's metrics, gathered over all processes; of `own` examples where some were filled up."""
        mode = self.mode
        beta = self._row_column("beta", inputs, self.beta)
        values = batch_metrics(
            self.objective, self.calibration, inputs, scored, beta=beta, loss_weight_scale=self.loss_weight_scale
        )
        values["_loss"] = scored.loss_b
        values = gathered(values, self.accelerator, training=mode == "train", own=own)
        losses = values.pop("_loss")
        if mode == "eval":
            self._eval_losses.append(losses)
        tokens = int(values.pop("_rows").sum().item()) // self.tensor_parallel_size
        if mode == "train":
            self.total_train_tokens += tokens
            self.displacement.add(values)
        self._stores[mode].add(values, num_tokens=self.total_train_tokens)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics since the last log, then log as TRL does; a named split gets them under its own name too."""
        mode, values = self.mode, self._stores[self.mode].drain()
        self.record_metrics(mode, values)
        if mode == "eval" and self._eval_prefix != "eval":
            logs.update({f"{self._eval_prefix}_{name}": value for name, value in values.items()})
        alarm = self.displacement.check(self.state.global_step) if mode == "train" else None
        if alarm is not None:
            rate, sft_weight = float(self.args.learning_rate), self.objective.sft_weight
            logger.warning(alarm.message(learning_rate=rate, beta=self.beta, sft_weight=sft_weight))
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one split; its metrics are its own, and what `predict` left unlogged is forgotten."""
        self._eval_prefix = kwargs.get("metric_key_prefix", args[4] if len(args) > 4 else "eval")
        self._stores["eval"] = MetricStore()
        self._eval_losses = []
        output = super().evaluation_loop(*args, **kwargs)
        name = f"{self._eval_prefix}_loss"
        means = (self.objective.reads_lists or self.accelerator.num_processes > 1) and not self.aux_loss_enabled
        if means and self._eval_losses and output.metrics and name in output.metrics:
            # transformers repeats a batch's mean for each of its rows, of which a longer list has more, and takes the
            # mean over those that an uneven last batch was not filled up with: it is of all of them in each process.
            output.metrics[name] = torch.cat(self._eval_losses).mean().item()
        return output

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate as TRL does; see `trl.DPOTrainer.evaluate`.

        Args:
            eval_dataset: A dataset, a mapping of datasets, or None for those of the constructor.
            ignore_keys: Passed on.
            metric_key_prefix: Before every metric's name.

        Returns:
            The metrics.

        Raises:
            InputError: A new dataset after full fine-tuning has begun, whose reference is gone by then.
        """
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            self._require_reference("evaluate")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Losses and metrics of a dataset that may be new; see `transformers.Trainer.predict`."""
        if not is_prepared(test_dataset):
            self._require_reference("predict")
            test_dataset = self.tokenize_dataset(test_dataset, self.processing_class, "test")
            if self.precompute_ref_logps:
                test_dataset = self.add_reference_columns(test_dataset, "test", self.args.per_device_eval_batch_size)
        return super().predict(test_dataset, *args, **kwargs)

    def _require_reference(self, what: str) -> None:
        """New rows need the reference, and full fine-tuning keeps none once it has begun."""
        gone = self.ref_model is None and not is_peft_model(self.model) and self.state.global_step > 0
        if gone and self.precompute_ref_logps:
            raise InputError(
                f"{what}: these rows are new, and after full fine-tuning the reference that must score them is gone. "
                "Give them as eval_dataset when the trainer is built, or give the trainer a ref_model"
            )

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as transformers does, and our own state (calibration, objective) and a model card beside it."""
        folder = Path(output_dir or str(self.args.output_dir))
        if self.in_checkpoint:
            self._write_model(folder)  # beside its name already
            return
        beside = staging_folder(folder / "model")
        with passing_folder(beside, ours=self.args.should_save):
            self._write_model(beside)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                move_in(beside, folder)
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _write_model(self, folder: Path) -> None:
        self._write_card(folder)
        super().save_model(str(folder), _internal_call=True)
        if self._keeps_reference and self.in_checkpoint and self.args.should_save:
            self.accelerator.unwrap_model(self.ref_model).save_pretrained(folder / _REFERENCE)
        if self.args.should_save:
            write_state(folder, self._state())

    @property
    def _keeps_reference(self) -> bool:
        """Whether a checkpoint has the reference too, since training moves it."""
        return self.settings.sync_ref_model and self._whole_model

    def publish_checkpoint(self, staging: Path, final: Path) -> None:
        """Name a checkpoint once its list of files is written and all of it is on the disk."""
        seal(staging)
        publish(staging, final)

    def remove_surplus(self, run_dir: Path) -> None:
        """Keep as many checkpoints of this run as `save_total_limit` says; those of earlier runs stay."""
        best = self.state.best_model_checkpoint
        remove_surplus(run_dir, self._run, limit=self.args.save_total_limit, best=Path(best).name if best else None)

    def _state(self) -> TrainingState:
        """Our part of a checkpoint of this run."""
        if self._rows is None and not is_streaming(self.train_dataset):
            rows: Any = self.train_dataset
            given = self.calibration is not None and self.calibration.source != "entropy"
            names = [*TOKEN_COLUMNS, *LOSS_COLUMNS, RANKS_COLUMN, *([RAW_COLUMN] if given else [])]
            known = [name for name in names if name in rows.column_names]
            self._rows = {"count": len(rows), "fingerprint": rows_fingerprint(rows, known)}
        return TrainingState(
            self.objective,
            self.beta,
            self.calibration,
            self.total_train_tokens,
            rows=self._rows,
            reference=self.reference_weights,
            settings=run_settings(self.settings, str(self.accelerator.unwrap_model(self.model).dtype)),
            run=self._run,
        )

    def _write_card(self, folder: Path) -> None:
        """Write the card before the model: PEFT completes a card that is there, and else writes its empty form."""
        if not (self.args.should_save and self.is_world_process_zero()):
            return
        top = Path(str(self.args.output_dir))
        self.create_model_card(model_name=top.resolve().name)
        if folder.resolve() != top.resolve():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(top / "README.md", folder / "README.md")

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the newest whole one of the last run in `output_dir`.
            trial: Passed on.
            ignore_keys_for_eval: Passed on.

        Returns:
            What transformers returns.

        Raises:
            InputError: Another process writes to `output_dir`; the checkpoint is not whole, or belongs to another run.
            NonFiniteLossError: A loss is NaN or infinite.
        """
        processes = Processes.of_accelerate(self.accelerator)
        if self.reference_weights is None and (self.ref_model is not None or is_peft_model(self.model)):
            # No pass over the rows has named it; a checkpoint's adapter belongs to one base all the same.
            frozen = self.accelerator.unwrap_model(self.model if self.ref_model is None else self.ref_model)
            self.reference_weights = weights_digest(frozen, processes)
        with ExitStack() as held:
            begun = processes.share(self._begin(held, resume_from_checkpoint) if processes.is_first else None)
            if isinstance(begun, InputError):
                raise begun
            folder, self._run, remarks = begun
            for line in remarks:
                logger.warning(line)
            if folder is not None:
                logger.warning(f"resume_from_checkpoint: going on from {folder}")
                self._restore(folder)
                if self._has_ended(folder):
                    # transformers would train one step more, at a learning rate of 0
                    logger.warning(f"nothing was trained: {folder} is where this run ends")
                    self.load_weights(self._final_checkpoint(folder))
                    return TrainOutput(self.state.global_step, 0.0, {})
            result = super().train(None if folder is None else str(folder), trial, ignore_keys_for_eval)
            untrained = nothing_trained(self.state.log_history, steps=self.state.global_step)
            if untrained is not None:
                logger.warning(f"nothing was trained: {untrained}; the model is as it was")
            return result

    def _has_ended(self, folder: Path) -> bool:
        """Whether a checkpoint is at or past the last step of this run; its state is then taken over."""
        state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        args = self.args
        ended = (
            state.global_step >= args.max_steps
            if args.max_steps > 0
            else state.epoch is not None and state.epoch >= args.num_train_epochs
        )
        if ended:
            self.state = state
        return ended

    def _final_checkpoint(self, last: Path) -> Path:
        """Whose weights a finished run ends with: the best checkpoint's where that was asked for, else the last one's.

        The best one is looked for beside the last, so that a folder may have been moved since.
        """
        recorded = self.state.best_model_checkpoint
        if not (self.args.load_best_model_at_end and recorded):
            return last
        best = last.with_name(Path(recorded).name)
        wrong = faults(best) if best.is_dir() else ["there is no such folder"]
        if wrong:
            raise InputError(
                f"load_best_model_at_end: the best checkpoint {best} cannot be loaded ({'; '.join(wrong)}); restore "
                "it, or leave load_best_model_at_end out to take the last one"
            )
        logger.warning(f"load_best_model_at_end: the model is that of {best}")
        return best

    def _begin(
        self, held: ExitStack, resume: str | bool | None
    ) -> tuple[Path | None, str | None, list[str]] | InputError:
        """In the first process: take the folder, choose the checkpoint, and name the run and what it begins from."""
        output_dir = Path(str(self.args.output_dir))
        model = self.accelerator.unwrap_model(self.model)
        try:
            writes = resume or self.args.save_strategy != "no"  # what writes nothing may share a folder
            if writes:
                held.enter_context(run_folder(output_dir))
            folder, skipped = chosen_checkpoint(resume, output_dir)
            remarks = [f"resume_from_checkpoint: {line}" for line in skipped]
            state = None if folder is None else read_state(folder)
            if folder is not None:
                refuse_other_adapters(folder, adapter_configs(model), loaded=True, held=unwrapped_adapters(model))
            if folder is not None and self.settings.sync_ref_model:
                why = "" if (folder / _REFERENCE).is_dir() else f"{folder} does not hold it"
                if not self._whole_model:
                    why = f"it cannot be gone on with under {self.accelerator.distributed_type.value}"
                if why:
                    raise InputError(
                        f"sync_ref_model: this option had moved the reference, and {why}, so that a resumed run would "
                        "begin from the first one; begin anew without resume_from_checkpoint"
                    )
            if folder is not None and state is not None:
                now, allowed = self._state(), self.settings.allow_other_data
                epoch = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).epoch
                in_epoch = not float(epoch or 0).is_integer()
                refuse_other_run(state, now, folder, allow_other_data=allowed, in_epoch=in_epoch)
                remarks += changed_settings(state, now)
            run, others = enter_run(output_dir, folder) if writes else (None, [])
            if others and folder is None:
                remarks.append(
                    f"output_dir: {output_dir} holds checkpoints of an earlier run ({', '.join(others)}); they stay, "
                    "and resume_from_checkpoint: true will go on from those of this run alone"
                )
            return folder, run, remarks
        except InputError as error:
            return error

    def _restore(self, folder: Path) -> None:
        if self._keeps_reference:
            moved: Any = self.accelerator.unwrap_model(self.ref_model)
            kept = type(moved).from_pretrained(folder / _REFERENCE, dtype=moved.dtype)
            moved.load_state_dict(kept.state_dict())
        state = read_state(folder)
        if state is None:
            logger.warning(f"{folder} was not written by mallowspo: its calibration is taken from the data instead")
            return
        self.calibration = resumed_calibration(state.calibration, self.calibration, folder)
        self.total_train_tokens = state.num_tokens

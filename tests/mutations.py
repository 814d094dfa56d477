"""Do the tests bite? Each mutation is a plausible mistake in one place of the source, and names the test that must turn red.

    python tests/mutations.py                  # all of them, some minutes
    python tests/mutations.py swap-norms wald  # these

They are applied one at a time to a temporary copy of the tree. Ends with status 1 when a mutant survives.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("distilbert", "data", "tests", "benchmarks", "results", "*.py", "*.toml", "*.txt", "README.md")
SECONDS = 300  # of the processor; a mutant that takes longer counts as broken, not as found


@dataclass(frozen=True)
class Mutation:
    """In `file`, the one place that reads `old` becomes `new`; `test` is file::function, without tests/test_ and test_."""

    name: str
    file: str
    old: str
    new: str
    test: str

    def apply(self, root: Path) -> str:
        """The source of the file with the mistake in it. Raises `ValueError` unless `old` stands there exactly once."""
        source = (root / self.file).read_text(encoding="utf-8")
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} stands {count} times in {self.file}, expected once")
        return source.replace(self.old, self.new)

    @property
    def node(self) -> str:
        """What pytest calls the test."""
        file, function = self.test.split("::")
        return f"tests/test_{file}.py::test_{function}"


BLOCKS = "model::the_embeddings_and_each_block_equal_transformers"
LOGITS = "model::logits_loss_and_every_gradient_equal_transformers"
ADAMW = "optim::fifty_steps_of_adamw_equal_torchs_in_two_groups_with_changing_rates"
SCHEDULE = "optim::every_step_of_the_schedules_is_that_of_transformers"
RESUME = "train_cls::a_resumed_run_is_bit_for_bit_the_uninterrupted_one"
MODEL, OPTIM, METRICS, FOREIGN = (f"distilbert/{name}.py" for name in ("model", "optim", "metrics", "foreign"))

MUTATIONS = [
    # ---- the model
    Mutation(
        "swap-norms",
        MODEL,
        "a = self.attention_norm(self.attention(x, mask, x_rows) + x_rows)\n        return self.feed_forward_norm(",
        "a = self.feed_forward_norm(self.attention(x, mask, x_rows) + x_rows)\n        return self.attention_norm(",
        BLOCKS,
    ),
    Mutation("no-residual", MODEL, "self.attention(x, mask, x_rows) + x_rows)", "self.attention(x, mask, x_rows))", BLOCKS),
    Mutation(
        "no-root-of-k",
        MODEL,
        " / math.sqrt(q.shape[3])",
        "",
        BLOCKS,
    ),
    Mutation(
        "pieces-that-share-their-dice",
        "distilbert/fast.py",
        "APART = 1 << 32",
        "APART = 1",
        "fast::the_dice_of_neighbouring_sequences_do_not_overlap",
    ),
    Mutation(
        "fused-without-mask",
        MODEL,
        "attention(q, k, v, mask, p)",
        "attention(q, k, v, None, p)",
        "model::attention_as_written_equals_the_fused_kernel",
    ),
    Mutation(
        "pieces-with-other-dice-on-the-way-back",
        "distilbert/fast.py",
        "function(*piece, seed + number * APART)",
        "function(*piece, seed)",
        "fast::in_pieces_gradients_with_dropout_are_the_derivatives_of_that_forward",
    ),
    Mutation("wait-for-the-gpu", MODEL, "if rows is None:", "if True:", "model::a_training_step_never_waits_for_the_device"),
    Mutation("tanh-gelu", MODEL, "F.gelu(self.expand(x))", 'F.gelu(self.expand(x), approximate="tanh")', BLOCKS),
    Mutation("positions-from-one", MODEL, "self.positions.weight[:T]", "self.positions.weight[1 : T + 1]", BLOCKS),
    Mutation("forget-the-mask", MODEL, "if attention_mask is not None:", "if False:", "model::padding_changes_nothing"),
    Mutation(
        "forget-the-mask-in-training",
        MODEL,
        "if mask is not None:",
        "if mask is not None and not self.training:",
        "model::padding_reaches_no_gradient_in_training",
    ),
    Mutation(
        "mask-with-infinity",
        MODEL,
        "FAR_BELOW = -30_000.0",
        'FAR_BELOW = float("-inf")',
        "model::a_row_that_is_all_padding_gives_no_nan",
    ),
    Mutation(
        "dropout-that-spares-a-place",
        "distilbert/fast.py",
        "torch.arange(1, 1 + (1 << 15))",
        "torch.arange(1 << 15)",
        "model::no_two_of_300_dropouts_share_more_of_what_they_drop_than_chance",
    ),
    Mutation(
        "grown-table-measured",
        "evaluate.py",
        "        check_unchanged(parts, directory, data)\n",
        "        pass\n",
        "evaluate::a_table_that_has_grown_since_the_run_is_refused",
    ),
    Mutation(
        "known-texts-measured",
        "evaluate.py",
        "leave_out_known(parts[name], directory, data)",
        "parts[name]",
        "evaluate::of_another_table_the_texts_that_the_run_knows_are_left_out_and_counted",
    ),
    Mutation(
        "options-beside-a-tokenizer-ignored",
        "distilbert/tokenizer.py",
        "obeyed = options if berts and",
        "obeyed = {} if berts and",
        "tokenizer::the_options_beside_a_tokenizer_file_win_as_they_do_in_transformers",
    ),
    Mutation(
        "lengthened-unsaid",
        "distilbert/run.py",
        "            self.progress.lengthened.append(step)\n",
        "",
        "train_cls::more_epochs_may_be_asked_of_a_finished_run_and_its_record_says_when",
    ),
    Mutation(
        "any-length-is-the-runs",
        "results/table.py",
        'names = record.get("arguments", {}), ("max_length", "truncation")',
        'names = record.get("arguments", {}), ()',
        "table::the_dev_set_is_found_under_whatever_it_was_given_as_if_it_is_whole",
    ),
    Mutation(
        "moved-parts-measured",
        "distilbert/held_out.py",
        'f"{name} {label}" for',
        'f"{label}" for',
        "evaluate::texts_whose_parts_or_labels_have_changed_since_the_run_are_refused",
    ),
    Mutation(
        "norm-by-torchs-kernel",
        "distilbert/fast.py",
        "x.dtype != torch.bfloat16 or not torch.is_grad",
        "x.dtype == torch.bfloat16 or not torch.is_grad",
        "fast::in_bf16_a_norms_gradients_count_every_token",
    ),
    Mutation(
        "mask-from-the-second-padded-column-on",
        "distilbert/fast.py",
        "columns = mask.flatten(0, 2).any(dim=0).nonzero()",
        "columns = mask.flatten(0, 2).any(dim=0).nonzero()[1:]",
        "fast::a_mask_is_added_and_the_scores_gradient_is_that_of_the_sum",
    ),
    Mutation(
        "fused-attention-with-dropout",
        "distilbert/fast.py",
        "judging_in_bf16(x) and not dropout",
        "judging_in_bf16(x)",
        "fast::attention_is_left_to_torch_on_a_gpu_and_where_amx_judges_in_bf16",
    ),
    Mutation(
        "weights-gradients-layout",
        "benchmarks/flops.py",
        'others = [(1, c, a, b, "tn")',
        'others = [(1, b, a, c, "tn")',
        "compare::the_products_shapes_and_layouts_are_those_of_a_training_step",
    ),
    Mutation(
        "first-root-by-two-threads",
        "distilbert/fast.py",
        "torch.ones(1, dtype=dtype).sqrt()",
        "torch.ones(1, dtype=dtype)",
        "fast::the_first_square_root_of_a_process_is_taken_by_one_thread_alone",
    ),
    Mutation(
        "resume-from-a-mapped-file",
        "distilbert/resume.py",
        "tensor.clone() for name, tensor in loaded.items()",
        "tensor for name, tensor in loaded.items()",
        "run::a_resumed_run_lets_go_of_the_checkpoint_that_it_read",
    ),
    Mutation(
        "keep-the-figures-of-former-weights",
        "distilbert/run.py",
        "self.place.forget_measured()",
        "pass",
        "run::what_was_measured_of_the_weights_before_does_not_stand_beside_the_new_ones",
    ),
    Mutation(
        "dropout-lane-sign",
        "distilbert/fast.py",
        "x.add_(x >> 32)",
        "x.bitwise_xor_(x >> 32)",
        "model::each_of_the_four_lanes_of_a_word_is_dropped_at_the_rate_p",
    ),
    Mutation(
        "dropout-without-scale",
        "distilbert/fast.py",
        "keep.to(x.dtype).mul_(scale)",
        "keep.to(x.dtype)",
        "model::what_dropout_keeps_is_scaled_so_that_the_mean_stays",
    ),
    Mutation(
        "attention-without-dropout",
        MODEL,
        "self.dropout(weights, seed) @ v",
        "weights @ v",
        "model::dropout_stands_where_transformers_has_it",
    ),
    Mutation("forget-cls", MODEL, "input_ids.new_zeros(", "input_ids.new_ones(", LOGITS),
    Mutation(
        "divide-by-no-labels",
        MODEL,
        "/ max(len(targets), 1)",
        "/ len(targets)",
        "model::a_batch_without_a_label_has_loss_zero_and_zero_gradients",
    ),
    Mutation("unlabelled-rows-first", MODEL, "descending=True", "descending=False", LOGITS),
    Mutation(
        "softmax-in-half",
        MODEL,
        "logits if logits.dtype == torch.float64 else logits.float()",
        "logits",
        "model::the_loss_of_a_half_precision_model_is_that_of_its_logits_in_fp32",
    ),
    # ---- optimizer, schedule, precision
    Mutation(
        "decay-on-biases",
        OPTIM,
        'isinstance(module, nn.Linear | nn.Embedding) and name == "weight"',
        "isinstance(module, nn.Linear | nn.Embedding)",
        "optim::decay_takes_the_matrices_of_linear_and_embedding_only",
    ),
    Mutation(
        "decay-on-norms",
        OPTIM,
        'isinstance(module, nn.Linear | nn.Embedding) and name == "weight"',
        'name == "weight"',
        "optim::decay_takes_the_matrices_of_linear_and_embedding_only",
    ),
    Mutation(
        "layer-decay-upside-down",
        OPTIM,
        "blocks - 1 - int(path[2])",
        "int(path[2])",
        "optim::layer_decay_halves_the_rate_from_block_to_block_down_to_the_embeddings",
    ),
    Mutation("decay-without-rate", OPTIM, '1 - lr * group["weight_decay"]', '1 - group["weight_decay"]', ADAMW),
    Mutation("bias-correction-off-by-one", OPTIM, "1 - beta2**t", "1 - beta2 ** (t + 1)", ADAMW),
    Mutation(
        "clipped-by-a-rounded-factor",
        OPTIM,
        "gradient.mul_(factor)",
        "gradient.mul_(factor.to(gradient.dtype))",
        "optim::bf16_gradients_are_clipped_by_the_exact_factor",
    ),
    Mutation("no-epsilon", OPTIM, ".add_(eps)", "", ADAMW),
    Mutation(
        "a-kernel-for-each-rate",
        OPTIM,
        "torch.tensor((shrink, rate, eps), dtype=torch.float64).unbind()",
        "(shrink, rate, eps)",
        "optim::a_compiled_adamw_is_compiled_once_whatever_the_rate",
    ),
    Mutation(
        "compiled-means-swapped",
        OPTIM,
        "matrices.append((beta1, beta2, *numbers, *tensors))",
        "matrices.append((beta2, beta1, *numbers, *tensors))",
        "optim::a_compiled_adamw_is_the_plain_one_but_for_rounding",
    ),
    Mutation(
        "a-graph-for-each-shape",
        "distilbert/precision.py",
        "encoder.compile(dynamic=True)",
        "encoder.compile(dynamic=False)",
        "precision::a_gpus_encoder_is_one_graph_for_batches_of_all_shapes",
    ),
    Mutation(
        "a-cpus-encoder-compiled",
        "distilbert/precision.py",
        'if self.device != "cpu":\n            encoder',
        "if True:\n            encoder",
        "precision::a_cpus_encoder_is_not_compiled",
    ),
    Mutation(
        "compile-forgotten",
        "train_mlm.py",
        ", compiled=args.compile)",
        ")",
        "train_mlm::compile_reaches_the_optimizer_and_says_why_the_first_step_is_long",
    ),
    Mutation(
        "a-signal-waits-for-the-first-step",
        "distilbert/run.py",
        "if stop := self.workers.largest(self.signal):\n            self.say(",
        "if (stop := self.workers.largest(self.signal)) > 64:\n            self.say(",
        "train_cls::a_signal_before_the_first_step_leaves_the_former_run_as_it_was",
    ),
    Mutation(
        "what-a-start-learnt-is-not-told",
        "distilbert/held_out.py",
        "if path.is_file() else set()",
        "if not path.exists() else set()",
        "evaluate::a_run_that_tests_what_its_start_was_trained_on_says_so",
    ),
    Mutation(
        "headers-not-looked-for",
        "distilbert/precision.py",
        'is not None and Path(sysconfig.get_path("include"), "Python.h").exists()',
        "is not None",
        "wrong_input::compile_without_pythons_headers_is_refused",
    ),
    Mutation(
        "a-failed-compiler-is-a-traceback",
        "distilbert/cli.py",
        "startswith(COMPILERS)",
        "startswith('nothing')",
        "wrong_input::a_compiler_that_fails_gets_two_lines",
    ),
    Mutation(
        "everybody-has-our-order",
        "benchmarks/compare.py",
        "batched = random.permutation(np.concatenate([sample[whole[i]] for i in spread]))",
        "batched = np.concatenate([sample[whole[i]] for i in spread])",
        "compare::the_reviews_are_batches_by_length_evenly_spread_over_a_sample_but_at_random",
    ),
    Mutation(
        "compiled-in-a-hurry",
        "benchmarks/compare.py",
        "has_compiler() and not given.quick",
        "has_compiler()",
        "compare::without_a_compiler_or_in_a_hurry_nothing_is_compiled",
    ),
    Mutation(
        "the-limit-always-of-bf16",
        "benchmarks/compare.py",
        "torch.bfloat16 if bf16 else torch.float32",
        "torch.bfloat16",
        "compare::a_ratio_is_ours_over_theirs_round_by_round",
    ),
    Mutation(
        "the-plain-optimizer-called-compiled",
        "benchmarks/compare.py",
        ', compiled=name.startswith("compiled"))',
        ")",
        "compare::only_the_compiled_optimizers_are_compiled",
    ),
    Mutation(
        "the-first-ones-limit-for-all",
        "benchmarks/compare.py",
        "useful * rate for rate in rates[name]]",
        "useful * rate for rate in rates[names[0]]]",
        "compare::a_ratio_is_ours_over_theirs_round_by_round",
    ),
    Mutation("schedule-off-by-one", OPTIM, "return step / warmup_steps", "return (step + 1) / warmup_steps", SCHEDULE),
    Mutation("decay-over-all-steps", OPTIM, "max(total_steps - warmup_steps, 1)", "total_steps", SCHEDULE),
    Mutation(
        "clip-by-the-largest",
        OPTIM,
        "for piece in pieces]).norm()",
        "for piece in pieces]).max()",
        "optim::clipping_equals_torchs_in_norm_and_gradients",
    ),
    Mutation(
        "master-weights-not-kept",
        OPTIM,
        "if p.dtype != _wide(p) and",
        "if False and",
        "optim::a_bf16_parameter_is_its_rounded_master_which_goes_the_way_of_fp32",
    ),
    # ---- figures
    Mutation(
        "mean-of-means",
        "distilbert/logits.py",
        'F.cross_entropy(logits.float(), targets, reduction="sum").item()',
        "F.cross_entropy(logits.float(), targets).item() * len(pairs)",
        "predict::masked_lm_totals_are_sums_over_the_labels_whatever_the_batch",
    ),
    Mutation(
        "perplexity-in-bits",
        METRICS,
        "else math.exp(loss)",
        "else 2**loss",
        "metrics::masked_lm_metrics_are_the_mean_loss_its_exponential_and_the_share_guessed",
    ),
    Mutation(
        "unsorted-roc",
        METRICS,
        "ranks = (np.cumsum(size) - (size - 1) / 2)[group]",
        "ranks = np.arange(1.0, len(scores) + 1)",
        "metrics::roc_auc_is_the_share_of_pairs_in_order_with_ties_counting_half",
    ),
    Mutation(
        "roc-ties-count-whole",
        METRICS,
        "(np.cumsum(size) - (size - 1) / 2)",
        "np.cumsum(size)",
        "metrics::roc_auc_is_the_share_of_pairs_in_order_with_ties_counting_half",
    ),
    Mutation(
        "wald",
        METRICS,
        "centre = (p + z2 / (2 * n)) / (1 + z2 / n)",
        "centre = p",
        "metrics::the_interval_is_wilsons_as_published",
    ),
    Mutation(
        "confusion-matrix-on-its-side",
        METRICS,
        "(_, false_positive), (false_negative, true_positive)",
        "(_, false_negative), (false_positive, true_positive)",
        "metrics::every_figure_is_that_of_scikit_learn",
    ),
    # ---- checkpoints
    Mutation(
        "token-types-not-folded",
        FOREIGN,
        "positions.float() + types[0].float()",
        "positions.float()",
        "checkpoint::a_bert_encoder_is_a_distilbert_encoder_for_single_segments",
    ),
    Mutation(
        "linear-head-shift-sign",
        FOREIGN,
        "bias.double() - C * weight",
        "bias.double() + C * weight",
        "checkpoint::transformers_auto_classes_read_what_we_write",
    ),
    Mutation(
        "linear-head-shift-too-small",
        FOREIGN,
        "math.sqrt(D) * tensors",
        "tensors",
        "checkpoint::the_relu_of_a_linear_head_written_for_transformers_never_cuts",
    ),
    Mutation(
        "values-before-keys",
        "distilbert/checkpoint.py",
        '.attention.k_lin.*", "encoder.blocks.{}.attention.qkv.* 1"',
        '.attention.v_lin.*", "encoder.blocks.{}.attention.qkv.* 1"',
        "checkpoint::the_names_of_the_map_are_the_tensors_that_transformers_writes",
    ),
    # ---- texts, batches, masks
    Mutation(
        "leak-test-texts",
        "data/sources.py",
        "if bare(text) not in held_out",
        "if text",
        "sources::a_training_text_that_is_held_out_too_is_dropped_and_counted",
    ),
    Mutation(
        "copy-passes-for-new-texts",
        "distilbert/held_out.py",
        "return alike and checksum(Path(given)) == checksum(Path(trained_on))",
        "return False",
        "evaluate::a_copy_of_the_file_that_the_run_was_trained_on_is_its_own_too",
    ),
    Mutation(
        "pad-in-front",
        "data/batches.py",
        "ids[i, : len(sequence)] = sequence",
        "ids[i, T - len(sequence) :] = sequence",
        "batches::padding_goes_behind_the_text_and_the_mask_says_where",
    ),
    Mutation(
        "batches-in-order-of-length",
        "data/batches.py",
        "[batches[i] for i in random.permutation(len(batches))]",
        "batches",
        "batches::a_batchs_length_says_nothing_about_the_next_ones",
    ),
    Mutation(
        "every-epoch-the-same",
        "data/batches.py",
        "default_rng([seed, epoch])",
        "default_rng([seed])",
        "batches::another_epoch_or_seed_is_another_order_of_other_batches",
    ),
    Mutation(
        "head-tail-swapped",
        "data/cls.py",
        '"head-tail": room * 128 // 510',
        '"head-tail": room - room * 128 // 510',
        "batches::truncation_by_hand",
    ),
    Mutation(
        "mask-sep",
        "data/mlm.py",
        "~np.isin(ids, special_ids)",
        "~np.isin(ids, special_ids[:3])",
        "mlm::special_tokens_and_padding_are_never_chosen",
    ),
    Mutation(
        "80-11-9",
        "data/mlm.py",
        "(fate < 0.9)",
        "(fate < 0.91)",
        "mlm::the_given_share_is_chosen_and_of_it_80_10_10_are_masked_replaced_and_kept",
    ),
    Mutation(
        "random-ids-from-the-text",
        "data/mlm.py",
        "random.integers(0, vocab_size, len(ids), dtype=ids.dtype)",
        "random.permutation(ids)",
        "mlm::random_replacements_come_from_the_whole_vocabulary_not_from_the_text",
    ),
    Mutation(
        "forget-the-seed-of-masks",
        "data/mlm.py",
        "np.random.default_rng(seed)",
        "np.random.default_rng()",
        "mlm::masks_differ_between_epochs_and_seeds_and_examples_and_repeat_in_reruns",
    ),
    Mutation(
        "padding-has-labels",
        "data/mlm.py",
        "[label for _, label in pairs], IGNORED)",
        "[label for _, label in pairs], 0)",
        "mlm::a_batch_is_padded_with_labels_that_do_not_count",
    ),
    Mutation(
        "cut-off-sep",
        "distilbert/tokenizer.py",
        "[*ids[: max_length - 1], ids[-1]]",
        "ids[:max_length]",
        "tokenizer::a_cut_text_keeps_its_beginning_and_its_sep",
    ),
    Mutation(
        "another-validation-part",
        "data/sources.py",
        "len(train) // 10, seed=0)",
        "len(train) // 10, seed=1)",
        "sources::the_official_split_takes_a_stratified_tenth_of_train_and_leaves_the_test_alone",
    ),
    Mutation(
        "another-cut-of-a-table",
        "data/sources.py",
        "stratified(every.labels, tenth, seed=0)",
        "stratified(every.labels, tenth, seed=1)",
        "sources::a_table_is_cut_as_it_was_for_earlier_runs",
    ),
    Mutation(
        "floor-trains-on-leaks",
        "benchmarks/tfidf.py",
        "parts, dropped = prepare(parts)",
        "parts, dropped = prepare(parts, keep_duplicates=True)",
        "ablations::the_floor_is_not_trained_on_what_it_is_tested_on",
    ),
    # ---- runs
    Mutation(
        "predict-with-dropout",
        "distilbert/logits.py",
        "    model.eval()\n",
        "    model.train()\n",
        "predict::dropout_does_nothing_in_a_prediction",
    ),
    Mutation(
        "accumulate-by-batches",
        "train_cls.py",
        "count, labels_in_step)\n                scaler",
        "1, len(step_batches))\n                scaler",
        "train_cls::accumulated_batches_give_every_parameter_the_gradient_of_the_whole",
    ),
    Mutation(
        "accumulate-by-batches-mlm",
        "train_mlm.py",
        "count, labels_in_step)\n                scaler",
        "1, len(step_batches))\n                scaler",
        "train_mlm::accumulated_batches_weigh_by_their_labels",
    ),
    Mutation(
        "unscale-after-clip",
        "train_cls.py",
        "scaler.unscale_(optimizer)\n            norm = clip_grad_norm_(model.parameters(), args.max_grad_norm)",
        "norm = clip_grad_norm_(model.parameters(), args.max_grad_norm)\n            scaler.unscale_(optimizer)",
        "train_cls::a_step_that_overflows_in_fp16_teaches_nothing_and_the_schedule_waits_for_it",
    ),
    Mutation(
        "schedule-does-not-wait",
        "train_cls.py",
        "done = progress.step - progress.skipped",
        "done = progress.step",
        "train_cls::a_step_that_overflows_in_fp16_teaches_nothing_and_the_schedule_waits_for_it",
    ),
    Mutation(
        "overflow-unseen",
        "train_cls.py",
        "skipped = not scaler.step(optimizer)",
        "skipped = scaler.step(optimizer) is False",
        "train_cls::a_step_that_overflows_in_fp16_teaches_nothing_and_the_schedule_waits_for_it",
    ),
    Mutation(
        "two-processes-on-one-gpu",
        "distilbert/distributed.py",
        "if gpus and here > gpus:",
        "if gpus and self.rank > gpus:",
        "distributed::each_process_has_a_gpu_of_its_own_or_none",
    ),
    Mutation(
        "card-swaps-the-mistakes",
        "distilbert/card.py",
        "(_, false_positive), (false_negative, _) =",
        "(_, false_negative), (false_positive, _) =",
        "run::the_card_counts_the_mistakes_of_either_kind",
    ),
    Mutation(
        "mistakes-least-confident-first",
        "distilbert/mistakes.py",
        "wrong[np.argsort(-confidence[wrong]",
        "wrong[np.argsort(confidence[wrong]",
        "evaluate::errors_are_the_most_confident_mistakes_by_name",
    ),
    Mutation("forget-the-seed-of-dropout", "train_cls.py", "torch.manual_seed(step_seed(", "abs(step_seed(", RESUME),
    Mutation("resume-adamw-at-step-zero", "distilbert/resume.py", 'int(tensors.pop(f"step/{name}"))', "0", RESUME),
    Mutation(
        "best-epoch-not-reloaded",
        "train_cls.py",
        "load_weights(model, best)",
        "load_weights(model, full_precision(model, optimizer))",
        "train_cls::the_test_part_is_measured_with_the_best_epoch",
    ),
    Mutation(
        "nan-is-best",
        "distilbert/log.py",
        'math.isfinite(score) and math.isfinite(metrics["loss"]) and (',
        "(",
        "run::only_a_higher_score_is_best_and_nan_never",
    ),
    Mutation(
        "worst-step-of-an-adaptation",
        "train_mlm.py",
        'score=-metrics["loss"]',
        'score=metrics["loss"]',
        "train_mlm::the_step_of_the_lowest_validation_loss_remains_and_the_start_is_never_it",
    ),
    Mutation(
        "twins-apart",
        "train_mlm.py",
        "done = progress.step - progress.skipped",
        "done = progress.step",
        "train_mlm::the_twins_loops_differ_in_labels_and_score_alone",
    ),
    Mutation(
        "pack-does-nothing",
        "train_mlm.py",
        "packed(table, args.max_length) if args.pack else windows(table, args.max_length)",
        "windows(table, args.max_length)",
        "train_mlm::other_ways_of_making_sequences_are_what_is_trained_on",
    ),
    Mutation(
        "breaks-always-go",
        "train_cls.py",
        "load(args.data, args.split, args.keep_breaks)",
        "load(args.data, args.split)",
        "train_cls::breaks_reach_the_vocabulary_only_when_they_are_kept",
    ),
    Mutation(
        "resume-forgets-its-length",
        "distilbert/resume.py",
        "if not any(getattr(arguments, name) for name in LENGTH):",
        "if False:",
        "train_cls::resume_without_the_runs_length_keeps_it",
    ),
    Mutation(
        "record-before-the-model",
        "distilbert/run.py",
        '        write_text(self.directory / "README.md", model_card(record, type(model).__name__))\n'
        '        write_json(self.directory / "run.json", record)\n',
        '        write_json(self.directory / "run.json", record)\n'
        '        write_text(self.directory / "README.md", model_card(record, type(model).__name__))\n',
        "train_cls::the_record_is_the_last_file_of_a_run",
    ),
    Mutation(
        "another-subset-measured",
        "evaluate.py",
        '"eval_size": same.get("eval_size")',
        '"eval_size": None',
        "evaluate::the_subset_that_the_run_was_tested_on_is_measured_again",
    ),
    Mutation(
        "writes-into-a-download",
        "evaluate.py",
        "if Path(args.model).is_dir():",
        "if directory.is_dir():",
        "evaluate::nothing_is_written_into_a_downloaded_model",
    ),
    Mutation(
        "floor-chosen-on-test",
        "benchmarks/tfidf.py",
        'model.score(features["validation"], parts["validation"].labels)',
        'model.score(features["test"], parts["test"].labels)',
        "ablations::the_floors_strength_is_chosen_on_validation",
    ),
    Mutation(
        "slower-is-faster",
        "benchmarks/compare.py",
        "ratios = [ours / theirs for",
        "ratios = [theirs / ours for",
        "compare::a_ratio_is_ours_over_theirs_round_by_round",
    ),
    Mutation(
        "products-once-counted",
        "benchmarks/flops.py",
        "operations += occurs * 2 * count * a * b * c",
        "operations += 2 * count * a * b * c",
        "compare::the_rate_of_products_is_all_operations_over_all_time",
    ),
    Mutation(
        "any-adapted-encoder-is-the-published-one",
        "results/table.py",
        "return adapted and kept(",
        "return kept(",
        "table::a_run_on_an_adapted_encoder_fills_its_cell_only_when_the_adaptation_was_the_recipe_too",
    ),
    Mutation(
        "loss-in-half-precision",
        MODEL,
        "F.cross_entropy(at_least_fp32(self(input_ids, attention_mask)), labels)",
        "F.cross_entropy(self(input_ids, attention_mask), labels).float()",
        "model::the_loss_of_a_half_precision_model_is_that_of_its_logits_in_fp32",
    ),
    Mutation(
        "unreadable-is-damaged",
        "distilbert/resume.py",
        "except (UserError, FileNotFoundError, KeyError",
        "except (UserError, OSError, KeyError",
        "train_cls::a_checkpoint_that_the_system_does_not_let_us_read_is_not_passed_over",
    ),
    Mutation(
        "own-texts-elsewhere-are-anothers",
        "distilbert/held_out.py",
        "return Path(given).name == Path(trained_on).name",
        "return given == trained_on",
        "evaluate::a_file_of_the_runs_name_is_its_own_where_the_path_it_was_trained_by_does_not_hold",
    ),
    Mutation(
        "a-searchs-end-is-a-temperature",
        "evaluate.py",
        "if 1.01 * LEAST < temperature < MOST / 1.01:",
        "if temperature <= MOST:",
        "evaluate::where_no_temperature_fits_confidence_stays_as_it_is",
    ),
    Mutation(
        "names-outlive-their-head",
        "distilbert/start.py",
        "model.config = model.config.replace(id2label=",
        "model.config.replace(id2label=",
        "train_cls::a_trained_classifier_calls_its_classes_as_it_learnt_them",
    ),
    Mutation(
        "the-rest-of-a-line-is-lost",
        "data/formats.py",
        "if any(record.get(None, ())):",
        "if False:",
        "sources::what_is_wrong_with_a_table_is_said_with_its_name_and_line",
    ),
    Mutation(
        "every-unfinished-file-is-ours",
        "distilbert/directory.py",
        'self.path.glob(f".{name}.[0-9]*.part")',
        'self.path.glob(".*.part")',
        "run::a_strangers_unfinished_files_and_checkpoints_stay",
    ),
    Mutation(
        "same-order-every-epoch",
        "train_cls.py",
        "args.seed, progress.epoch, args.batching",
        "args.seed, 0, args.batching",
        "train_cls::each_epoch_and_each_seed_has_an_order_of_its_own",
    ),
    Mutation(
        "same-masks-every-epoch",
        "train_mlm.py",
        'mask("train", i, args.seed, progress.epoch)',
        'mask("train", i, args.seed, 0)',
        "train_mlm::each_epoch_and_each_seed_hides_other_tokens",
    ),
    Mutation(
        "a-last-batch-is-no-step",
        "train_cls.py",
        "math.ceil(math.ceil(len(lengths) / args.batch_size) / accumulation)",
        "math.ceil(len(lengths) / args.batch_size) // accumulation",
        "train_cls::an_epoch_takes_what_the_division_leaves_over_and_the_warmup_too",
    ),
    Mutation(
        "tuned-trainer-draws-at-random",
        "benchmarks/contestants.py",
        '"sequential" if how',
        '"random" if how',
        "compare::the_tuned_trainer_has_the_very_batches_of_ours",
    ),
    Mutation(
        "kinds-of-whatever-was-measured",
        "results/table.py",
        'if found["n"] == record["data"]["test"])',
        "if True)",
        "table::the_kinds_of_review_are_those_of_the_whole_test",
    ),
    Mutation(
        "errors-wait-for-the-others",
        "distilbert/run.py",
        "if error_class in (None, SystemExit):",
        "if True:",
        "run::a_process_that_fails_alone_waits_for_no_other_before_it_says_so",
    ),
    # ---- processes, machines, pictures, records
    Mutation(
        "empty-share-has-no-gradient",
        "distilbert/distributed.py",
        "[torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]",
        "[p.grad for p in parameters]",
        "distributed::sums_are_in_fp32_and_of_zeros_for_an_empty_share_and_the_largest_number_is_no_sum",
    ),
    Mutation(
        "attention-in-one-piece",
        MODEL,
        "weights_of_one = self.n_heads * q.shape[2] * k.shape[2]",
        "weights_of_one = self.n_heads",
        "fast::attention_takes_as_many_sequences_at_a_time_as_their_weights_fit_a_piece",
    ),
    Mutation(
        "adaptation-forgets-a-flag",
        "train_mlm.py",
        "None, args.decay_all, args.layer_decay)",
        "None, False, args.layer_decay)",
        "train_mlm::the_flags_of_texts_and_groups_are_what_the_texts_and_groups_are_made_by",
    ),
    Mutation(
        "breaks-stay-and-are-measured-away",
        "evaluate.py",
        'load(data, split, own.get("keep_breaks", False),',
        "load(data, split, False,",
        "evaluate::a_run_that_kept_breaks_is_measured_with_them",
    ),
    Mutation(
        "ablations-rest-on-the-test",
        "benchmarks/ablations.py",
        '= done["metrics"]["validation"]["confusion_matrix"]',
        '= done["metrics"]["test"]["confusion_matrix"]',
        "ablations::a_record_counts_validation_and_nothing_of_the_test",
    ),
    Mutation(
        "another-runs-picture-stays",
        "distilbert/directory.py",
        '"eval-*.svg", ',
        "",
        "run::overwrite_removes_what_the_old_run_had_and_keeps_other_files",
    ),
    Mutation(
        "matrix-on-its-side",
        "distilbert/curves.py",
        "confusion.text(column, row,",
        "confusion.text(row, column,",
        "evaluate::the_pictures_numbers_are_the_matrix_and_its_line_is_accuracy_over_confidence",
    ),
    Mutation(
        "gpu-without-kernels",
        "distilbert/precision.py",
        "divmod(min(built, default=0), 10)",
        "(0, 0)",
        "precision::auto_takes_a_cuda_gpu_or_the_cpu_and_the_format_that_is_in_its_hardware",
    ),
]


def run_tests(root: Path, nodes: list[str], output: Path) -> int:
    """pytest's exit status in a fork of this process, which has imported what takes long and nothing of the project."""
    child = os.fork()
    if child == 0:
        with open(output, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(root)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        import pytest

        status = pytest.main(["-x", "-m", "", "-p", "no:cacheprovider", f"--rootdir={root}", *nodes])
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(names: list[str]) -> int:
    if unknown := set(names) - {mutation.name for mutation in MUTATIONS}:
        print(f"error: no mutation is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [mutation for mutation in MUTATIONS if mutation.name in names or not names]
    sys.dont_write_bytecode = True  # two versions of a file within a second would pass for one
    sys.path[:] = [path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "tests")]  # import nothing from here
    import sklearn.metrics  # noqa: F401
    import torch._dynamo
    import transformers

    for name in ("DistilBertForMaskedLM", "BertForPreTraining", "Trainer"):
        getattr(transformers, name)
    torch.set_num_threads(1)
    verdicts = {0: "SURVIVED", 1: "found"}
    not_found, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder).resolve() / "tree", Path(folder) / "output"
        root.mkdir()
        for pattern in COPIED:
            for path in ROOT.glob(pattern):
                copy = shutil.copytree if path.is_dir() else shutil.copy
                copy(path, root / path.name, **({"ignore": shutil.ignore_patterns("__pycache__")} if path.is_dir() else {}))
        if run_tests(root, sorted({mutation.node for mutation in chosen}), output):
            print(output.read_text()[-3_000:], "error: without any mutation, these tests are not green", sep="\n")
            return 2
        for mutation in chosen:
            file, begun = root / mutation.file, time.perf_counter()
            original = file.read_text(encoding="utf-8")
            file.write_text(mutation.apply(root), encoding="utf-8")
            status = run_tests(root, [mutation.node], output)
            file.write_text(original, encoding="utf-8")
            not_found += status != 1
            verdict = verdicts.get(status, f"BROKEN ({status})")
            print(f"{verdict:11} {time.perf_counter() - begun:5.1f} s  {mutation.name:28} {mutation.test}", flush=True)
            if status not in verdicts:
                print(output.read_text()[-2_000:])
    processor = sum(os.times()[:4])  # user and system, of this process and of its children
    seconds = time.perf_counter() - started
    print(f"{len(chosen) - not_found} of {len(chosen)} found, in {seconds:.0f} s ({processor:.0f} s of the processor)")
    return min(not_found, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

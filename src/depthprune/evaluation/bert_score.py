"""BERTScore of what a model writes (arXiv:1904.09675), by the bert-score package, which is an extra."""

import importlib.util
import logging
from typing import Any

from depthprune.errors import UserError

INSTALL = "pip install 'depthprune[bertscore]'"


def check_bert_score(model: str | None, layer: int | None) -> None:
    """Raises `UserError` where scores by this model cannot be had, before anything is computed."""
    if model is None:
        if layer is not None:
            raise UserError(
                "evaluation.bert_score_layer is given and no model: name one with evaluation.bert_score"
            )
        return
    if importlib.util.find_spec("bert_score") is None:
        raise UserError(f"evaluation.bert_score needs bert-score: {INSTALL}")
    if layer is None:
        from bert_score.utils import model2layers

        if model not in model2layers:
            raise UserError(
                f"evaluation.bert_score={model}: bert-score does not know which of its layers to read; say "
                "it with evaluation.bert_score_layer"
            )


def bert_scores(
    written: list[str], wanted: list[str], model: str, layer: int | None, device: str
) -> list[float]:
    """F1 of each pair of texts: how well the tokens' hidden states match, not rescaled to a baseline.

    Args:
        model: a folder or hub id; an encoder, as a rule.
        layer: counted from 1; by default the one that bert-score's authors chose for the model.

    Raises:
        UserError: the model cannot be loaded.
    """
    try:
        scorer = _scorer(model, layer, device)
    except (OSError, ValueError, RuntimeError, AssertionError) as problem:
        said = " ".join(str(problem).split())
        raise UserError(f"evaluation.bert_score={model} cannot be loaded: {said}") from problem
    _, _, f1 = scorer.score(written, wanted)
    return [float(value) for value in f1]


def _scorer(model: str, layer: int | None, device: str) -> Any:
    from bert_score import BERTScorer

    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)  # a head that is not needed is told of
    try:
        scorer = BERTScorer(model_type=model, num_layers=layer, device=device)
    finally:
        logging.getLogger("transformers").setLevel(level)
    tokenizer, context = scorer._tokenizer, getattr(scorer._model.config, "max_position_embeddings", 512)
    # It cuts texts there, and cannot where a tokenizer states no length: that is a huge number then.
    tokenizer.model_max_length = min(tokenizer.model_max_length, context)
    return scorer

"""What the repairs are compared with: second models, whole activations, a general solver."""

import copy

import torch
from tiny import tiny_batch, tiny_model

from depthprune.model.anatomy import decoder_layers, down_projection
from depthprune.model.surgery import remove_layers

# Families whose layer output is linear in the down projection: sequential and parallel blocks, biases,
# transposed storage, a residual multiplier, mixtures with and without biases of the experts.
LINEAR = ["llama", "gpt2", "opt", "falcon", "gpt_neox", "phi", "granite", "mixtral", "qwen3_moe", "gpt_oss"]


def calibration(teacher, samples=16, length=12, batch_size=4):
    """Batches, the last sample of each padded, whose labels are what `teacher` predicts."""
    seeds = range(samples // batch_size)
    return relabelled(
        [tiny_batch(batch_size=batch_size, length=length, seed=seed) for seed in seeds], teacher
    )


def relabelled(batches, teacher):
    """The batches with labels that `teacher` is good at: what comes near to it lowers the loss."""
    found = []
    for batch in batches:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            said = teacher(**inputs, use_cache=False).logits.argmax(-1)
        labels = torch.cat([inputs["input_ids"][:, :1], said[:, :-1]], dim=1)
        found.append({**inputs, "labels": labels.masked_fill(inputs["attention_mask"] == 0, -100)})
    return found


def pruned(model, removed):
    """A second model, without the layers."""
    return remove_layers(copy.deepcopy(model), removed)


def outputs(model, i, batches, of_zero=False):
    """The real tokens' output of layer i, [tokens, d] in float64, token after token.

    `of_zero`: with nothing from the down projection but a linear's bias.
    """
    layer = decoder_layers(model)[i]
    weight = down_projection(layer)
    path = weight.name.removesuffix(".weight")
    holder = layer.get_submodule(path if weight.experts is None else path.rpartition(".")[0])
    rows, found = [], []

    def nothing(module, _, output):
        bias = getattr(module, "bias", None)
        return torch.zeros_like(output) + (0 if bias is None else bias)

    hooks = [layer.register_forward_hook(lambda _, __, out: found.append(out))]
    if of_zero:
        hooks.append(holder.register_forward_hook(nothing))
    for batch in batches:
        with torch.no_grad():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        state = found.pop()
        state = state if isinstance(state, torch.Tensor) else state[0]
        for row, mask in zip(state, batch["attention_mask"], strict=True):
            rows += [token.double() for token, real in zip(row, mask, strict=True) if real]
    for hook in hooks:
        hook.remove()
    return torch.stack(rows)


def contributions(model, i, batches):
    """Y [tokens, d]: what the down projection of layer i adds to its output, by taking it away."""
    return outputs(model, i, batches) - outputs(model, i, batches, of_zero=True)


def ridge_by_lstsq(error, contribution, penalty, toward=0.0):
    """argmin ‖E − ΔY‖² + λ‖Δ − toward·I‖² as one least-squares problem, the ridge as d more tokens."""
    eye = torch.eye(contribution.shape[1], dtype=torch.float64)
    rows = torch.cat([contribution, penalty**0.5 * eye])
    wanted = torch.cat([error, penalty**0.5 * toward * eye])
    return torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.mT


def with_map(model, i, change):
    """A copy of the model with (I + change) multiplied to the down projection of layer i."""
    copied = copy.deepcopy(model)
    weight = down_projection(decoder_layers(copied)[i])
    map_ = torch.eye(len(change), dtype=torch.float64) + change
    for name, parameter in decoder_layers(copied)[i].named_parameters():
        wide = parameter.data.double()
        if name == weight.name:
            parameter.data.copy_(wide @ map_.mT if weight.transposed else map_ @ wide)
        elif weight.experts is not None and name == f"{weight.name}_bias":
            parameter.data.copy_(wide @ map_.mT)
    return copied


def naive_projection(model, removed, i, target, batches, rho, original=None):
    """λ, and a copy of the model repaired in layer i toward the output of layer `target` of the original."""
    shallow, place = pruned(model, removed), i - sum(r < i for r in removed)
    error = outputs(original or model, target, batches) - outputs(shallow, place, batches)
    contribution = contributions(shallow, place, batches)
    penalty = rho * float(contribution.square().sum()) / contribution.shape[1]
    change = ridge_by_lstsq(error, contribution, penalty)
    return penalty, with_map(model, i, change), float((error - contribution @ change.mT).square().sum())


def naive_loss(model, batches):
    """Cross-entropy a token, one token at a time."""
    losses = []
    for batch in batches:
        with torch.no_grad():
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).logits.double()
        for row, labels in zip(logits.log_softmax(-1), batch["labels"], strict=True):
            losses += [-row[t - 1, labels[t]] for t in range(1, len(labels)) if labels[t] != -100]
    return float(torch.stack(losses).mean())


def uniform_model(family, layers=5, **changes):
    """A tiny model with the same kind of layer throughout."""
    return tiny_model(
        family, layers, **{**({"mlp_only_layers": []} if family == "qwen3_moe" else {}), **changes}
    )

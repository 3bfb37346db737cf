"""LoRA on a base in four bits (QLoRA, arXiv:2305.14314)."""

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.training.base import Start, frozen_dtype
from depthprune.training.lora import Lora

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

log = logging.getLogger("depthprune")


class QLora(Lora):
    """LoRA while the base lies in memory as NF4, doubly quantised; merged into the whole weights.

    Only the linears of the layers are quantised: embeddings, norms, head, routers and stacked experts keep
    the checkpoint's dtype. Adapters are float32.
    """

    paper: ClassVar[str] = "QLoRA (arXiv:2305.14314)"
    method: Literal["qlora"] = "qlora"

    def check(self, model: "nn.Module", layers: int) -> None:
        from depthprune.model.anatomy import decoder_layers, linear_weights

        if find_spec("bitsandbytes") is None:
            raise UserError(
                "training.method=qlora needs bitsandbytes, which is not installed: "
                "pip install 'depthprune[qlora]', or choose training.method=lora"
            )
        linears = [weight for layer in decoder_layers(model) for weight in linear_weights(layer).values()]
        stacked = sorted({weight.name for weight in linears if weight.experts is not None})
        if all(weight.experts is not None for weight in linears):
            raise UserError("training.method=qlora: no weight here can be quantised: choose lora")
        if stacked:
            log.warning("not quantised: the stacked experts %s", ", ".join(stacked))

    def load(self, start: Start) -> "PreTrainedModel":
        from transformers import BitsAndBytesConfig

        # prepare_model_for_kbit_training would cast norms, embeddings and head to float32. They are frozen:
        # that buys no precision, and costs 4 GB for an embedding and a head of 128 k × 4096.
        dtype = frozen_dtype(start.dtype)
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        return start.load(dtype, quantization_config=four_bits, device_map={"": start.device})

    def plain(self, trained: Any, start: Start) -> "PreTrainedModel":
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

        adapters = get_peft_model_state_dict(trained)
        config = trained.peft_config["default"]
        del trained
        whole: Any = get_peft_model(start.load(frozen_dtype(start.dtype)), config)
        set_peft_model_state_dict(whole, adapters)
        return whole.merge_and_unload()

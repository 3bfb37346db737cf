"""The embedded default: a tiny Llama trained by us, and a task it has not seen.

`pretrain` made the model from the text of `text`; `write_tickets` writes the task.
"""

from pathlib import Path

from depthprune.demo.tickets import tickets, write_tickets

__all__ = ["demo_model", "tickets", "write_tickets"]


def demo_model() -> Path:
    """The folder of the model that comes with the package: 12 layers, 2.8 M parameters, bf16."""
    return Path(__file__).parent / "model"

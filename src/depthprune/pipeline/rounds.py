"""The rounds of an iterative selection: each is kept as soon as it is scored."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from depthprune.distributed.processes import first_does
from depthprune.pipeline.job import Job

log = logging.getLogger("depthprune")

Round = dict[str, Any]


def in_rounds(
    job: Job, partial: str, next_round: Callable[[Sequence[Round]], tuple[Round, str] | None]
) -> list[Round]:
    """All rounds; a call that was killed goes on with the next one, from the file `partial`.

    Args:
        next_round: of the rounds so far the next one, and what it removes in words; None once enough is gone.
    """
    rounds: list[Round] = first_does(lambda: job.folder.read_if_whole(partial, []))
    while (found := next_round(rounds)) is not None:
        round_, removes = found
        rounds.append(round_)
        log.info("%-8s round %d removes %s", "score", len(rounds), removes)
        first_does(lambda: job.folder.write(partial, rounds))
    return rounds

"""mistral.rs: greedy texts, in float32."""

from importlib.metadata import version
from typing import Any

from mistralrs import CompletionRequest, ModelDType, Runner, Which
from request import answer


def run(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    runner = Runner(Which.Plain(model_id=folder, dtype=ModelDType.F32), token_source="none", prefix_cache_n=0)
    asked = {"temperature": 0.0, "max_tokens": request["new_tokens"]}
    texts = [
        runner.send_completion_request(CompletionRequest(prompt=text, model="default", **asked))
        .choices[0]
        .text
        for text in request["texts"]
    ]
    return {"texts": texts}


answer(f"mistralrs {version('mistralrs')}", run)

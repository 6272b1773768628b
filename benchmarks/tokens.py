"""The closed form of image tokens against mistral-common's full encoding of the request."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Row, median_s, shown
from src.models.tokenizer import tokenizer_file
from tests.harness.pixtral import image_tokens

REPEATS = 10_000  # of the closed form in one timing
SIZES = ((320, 180), (896, 504), (1280, 704))


def rows() -> list[Row]:
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
    from mistral_common.protocol.instruct.messages import UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from PIL import Image

    tokenizer = MistralTokenizer.from_file(str(tokenizer_file("tekken_240911.json")))
    table = []
    for width, height in SIZES:
        image = Image.new("RGB", (width, height))
        chunks: list[Any] = [ImageChunk(image=image), ImageChunk(image=image), TextChunk(text="Test prompt")]
        request: ChatCompletionRequest[UserMessage] = ChatCompletionRequest(messages=[UserMessage(content=chunks)])
        full = median_s(lambda request=request: tokenizer.encode_chat_completion(request))  # type: ignore[misc]
        closed = median_s(lambda w=width, h=height: [image_tokens(w, h) for _ in range(REPEATS)]) / REPEATS  # type: ignore[misc]
        table.append(
            Row(
                f"full encoding, two {width}x{height} frames",
                "closed form",
                full / closed,
                "≥ 1000",
                full / closed >= 1000,
                f"{shown(full)} / {shown(closed)}",
            )
        )
    return table

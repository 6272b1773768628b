"""docs/limits.md: generated from the matrix next to it, whose predictions follow the token rule and were all measured."""

from __future__ import annotations

import json

from docs import make_limits
from src.limits.points import size_of
from src.media import geometry
from src.models import pixtral


def test_page_is_generated_from_the_matrix() -> None:
    assert make_limits.PAGE.read_text() == make_limits.page(json.loads(make_limits.DATA.read_text()))


def test_matrix_follows_the_token_rule() -> None:
    data = json.loads(make_limits.DATA.read_text())
    for row in data["points"]:
        size = size_of(row["size"])
        assert row["prompt_tokens"] == pixtral.prompt_tokens(
            size.width_px, size.height_px, row["frames"], row["text_tokens"]
        )
        assert row["linear_estimate"] == pixtral.linear_estimate(size.width_px, size.height_px, row["frames"])
        fits = row["prompt_tokens"] + row["output_reserved"] <= row["max_model_len"]
        assert row["measured"] in ("accepted", "too_long", "no_room")
        assert row["agrees"] is (
            row["measured_tokens"] == row["prompt_tokens"] and fits == (row["measured"] == "accepted")
        )
    agreement = data["agreement"]
    assert agreement["points"] == agreement["measured"] == len(data["points"])
    assert agreement["exact"] == sum(row["agrees"] for row in data["points"])
    assert agreement["linear"] == sum(
        (row["linear_says"] == "fits") == (row["measured"] == "accepted") for row in data["points"]
    )


def test_matrix_has_every_size_and_budget() -> None:
    points = {(row["size"], row["max_model_len"]) for row in json.loads(make_limits.DATA.read_text())["points"]}
    cosmos = [f"{w}x{h}" for sizes in geometry.COSMOS_SIZES.values() for w, h in sizes.values()]
    nine = ["320x180", "360x203", "400x225", "440x248", "480x270", "520x293", "560x315", "600x338", "640x360"]
    assert points == {(size, budget) for size in cosmos + nine for budget in (4096, 8192, 16384, 32768)}

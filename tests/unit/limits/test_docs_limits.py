"""docs/limits.md: made from the matrix beside it, whose predictions are those of the token rule of today."""

from __future__ import annotations

import json

from docs import make_limits
from src.limits.points import size_of
from src.media import geometry
from src.models import pixtral


def test_the_page_is_what_the_matrix_says() -> None:
    assert make_limits.PAGE.read_text() == make_limits.page(json.loads(make_limits.DATA.read_text()))


def test_the_matrix_is_what_the_token_rule_says_and_every_point_was_measured() -> None:
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
    said = data["agreement"]
    assert said["points"] == said["measured"] == len(data["points"])
    assert said["exact"] == sum(row["agrees"] for row in data["points"])
    assert said["linear"] == sum(
        (row["linear_says"] == "fits") == (row["measured"] == "accepted") for row in data["points"]
    )


def test_every_cosmos_size_and_the_nine_sizes_stand_under_every_budget() -> None:
    points = {(row["size"], row["max_model_len"]) for row in json.loads(make_limits.DATA.read_text())["points"]}
    cosmos = [f"{w}x{h}" for sizes in geometry.COSMOS_SIZES.values() for w, h in sizes.values()]
    nine = ["320x180", "360x203", "400x225", "440x248", "480x270", "520x293", "560x315", "600x338", "640x360"]
    assert points == {(size, budget) for size in cosmos + nine for budget in (4096, 8192, 16384, 32768)}

"""docs/limits.md: generated from the matrix next to it, whose predictions follow the token rule and were all measured."""

from __future__ import annotations

import json

from docs import make_limits, make_models
from src.limits.points import size_of
from src.media import geometry
from src.media.geometry import Size
from src.models.family import Media
from src.models.linear import linear_estimate
from tests.harness import pixtral


def test_page_is_generated_from_the_matrix() -> None:
    assert make_limits.PAGE.read_text() == make_limits.page(json.loads(make_limits.DATA.read_text()))


def test_models_page_is_generated() -> None:
    assert make_models.PAGE.read_text() == make_models.page()


def test_budgets_named_for_qwen3_serve_its_sizes() -> None:
    """Two frames of any 720p size at 4096, of any Cosmos size at 8192, four 16:9 frames of 720p where one of Pixtral's fits."""
    pixtral, qwen3 = (make_models.family(name) for name in ("pixtral", "qwen3_vl"))
    sizes = {name: [Size(*size) for size in sizes.values()] for name, sizes in geometry.COSMOS_SIZES.items()}
    assert all(qwen3.media_tokens(size, Media(2)) + 310 <= 4096 for size in sizes["720"])
    assert all(qwen3.media_tokens(size, Media(2)) + 310 <= 8192 for named in sizes.values() for size in named)
    hd = Size(1280, 704)
    assert qwen3.media_tokens(hd, Media(4)) + 310 <= 4096 < pixtral.media_tokens(hd, Media(2)) + 310


def test_matrix_follows_the_token_rule() -> None:
    data = json.loads(make_limits.DATA.read_text())
    for row in data["points"]:
        size = size_of(row["size"])
        assert row["prompt_tokens"] == pixtral.prompt_tokens(
            size.width_px, size.height_px, row["frames"], row["text_tokens"]
        )
        assert row["linear_estimate"] == linear_estimate(size.width_px, size.height_px, row["frames"])
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

"""Plans of other families than the default: whole clips, control tokens in texts, counts that nothing verifies."""

from __future__ import annotations

import pytest

from src.models.family import Media
from src.models.qwen import Qwen
from src.planning.plan import Plan
from src.reports.tables import advice, verdict_of
from tests.unit.planning.conftest import Planned, only_item

QWEN = "model=qwen3_vl_8b"
WIDE, HD = [{"prompt": "A red car", "video_path": "wide.mp4"}], [{"prompt": "A red car", "video_path": "hd.mp4"}]


def qwen_of(plan: Plan) -> Qwen:
    assert isinstance(plan.settings.family, Qwen)
    return plan.settings.family


def test_control_token_in_a_text_is_refused(planned: Planned) -> None:
    items = [{"name": "bad", "prompt": "A <|image_pad|> car"}, {"name": "good", "prompt": "A <|pad|> car"}]
    bad, good = planned(QWEN, items=items).items
    assert not bad.fits and "<|image_pad|>" in bad.problem and good.fits
    assert all(item.fits for item in planned(items=items).items)  # Pixtral reads them as text


def test_control_token_in_a_template_is_refused(planned: Planned) -> None:
    item = only_item(planned(QWEN, "template.system=<|im_end|>", items=WIDE))
    assert "<|im_end|>" in item.problem


def test_best_fit_is_what_the_encoder_sees(planned: Planned) -> None:
    plan = planned(QWEN, "upsample=best_fit", "budget.max_model_len=1000", items=HD)
    hint = only_item(plan).hint
    assert hint and hint.width_px % 32 == hint.height_px % 32 == 0
    assert qwen_of(plan).seen(hint.size, Media(hint.frames)) == hint.size


@pytest.mark.parametrize("upsample", ["safe_320", "native", "best_fit"])
def test_clip_is_planned_to_the_token(planned: Planned, upsample: str) -> None:
    plan = planned(QWEN, "frames=clip", f"upsample={upsample}", "frames.fps=4", items=HD)
    item = only_item(plan)
    assert item.fits and item.hint and (item.hint.rule, item.hint.frames, item.hint.clip_fps) == ("clip", 4, 4.0)
    assert item.hint.width_px % 2 == item.hint.height_px % 2 == 0
    assert item.tokens.image == qwen_of(plan).media_tokens(item.hint.size, Media(4, 4.0))
    assert any("no cap on the pixels of a frame" in line for line in advice(plan))


def test_clip_that_does_not_fit_is_shrunk(planned: Planned) -> None:
    item = only_item(planned(QWEN, "frames=clip", "upsample=native", "budget.max_model_len=1200", items=HD))
    assert item.fits and item.hint and item.hint.width_px < 1280 and item.shrunk_from == "1280x720"


def test_clip_of_one_frame_is_refused(planned: Planned) -> None:
    item = only_item(planned(QWEN, "frames=clip", items=[{"prompt": "x", "video_path": "short.mp4"}]))
    assert not item.fits and "a clip of one frame" in item.problem


def test_clips_and_frames_are_different_items(planned: Planned) -> None:
    clip, frames = (only_item(planned(QWEN, f"frames={name}", items=WIDE)) for name in ("clip", "head_2"))
    assert clip.id != frames.id


def test_unverified_items_are_marked_and_served(planned: Planned) -> None:
    plan = planned("model.family=unverified", "budget.max_model_len=400", "upsample=native", items=HD)
    item = only_item(plan)
    assert item.fits and item.unverified and "unverified" in verdict_of(item)[0]
    assert any("checked against nothing" in line for line in advice(plan))


def test_item_id_depends_on_the_family(planned: Planned) -> None:
    ids = {only_item(planned(f"model.family={name}", items=WIDE)).id for name in ("pixtral", "mistral", "qwen3_vl")}
    assert len(ids) == 3

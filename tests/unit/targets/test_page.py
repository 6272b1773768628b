"""docs/targets.md says of each target what the code does."""

from __future__ import annotations

import json
import re

from src.planning.configure import target_settings
from src.targets.exports import EXPORTS
from src.worker.answer_form import CHECKS
from tests.conftest import ROOT, Configure
from tests.unit.targets.test_targets import NAMES

PAGE = (ROOT / "docs" / "targets.md").read_text()


def test_targets_are_as_the_page_says(configure: Configure) -> None:
    for name in NAMES:
        config = configure(f"target={name}")
        target = target_settings(config)
        form, answer = config.target.form.value, target.answer
        cells = [
            f"`{name}`",
            f"{form}, {len(json.loads(answer.schema)['properties'])} fields" if answer.schema else form,
            ", ".join(filter(None, (answer.language or "any", target.with_frames))),
            str(config.budget.max_output_tokens),
            str(answer.max_repairs),
            f"{answer.encoder}, {answer.encoder_tokens}" if answer.encoder else "–",
            EXPORTS.get(target.export, "batch.jsonl"),
        ]
        assert f"| {' | '.join(cells)} |\n" in PAGE
    assert sorted(re.findall(r"^\| `(\w+)` \|(?:[^|\n]*\|){6}$", PAGE, re.MULTILINE)) == NAMES


def test_checks_are_as_the_page_says() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|(?:[^|\n]*\|){2}$", PAGE, re.MULTILINE)) == sorted(CHECKS)

"""The page `docs/limits.md`, made from the matrix of a real sweep: `python -m docs.make_limits` writes it anew.

`python -m docs.make_limits SWEEP_FOLDER` first takes that sweep's matrix over as docs/limits.json and docs/limits.png.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
DATA, PICTURE, PAGE = FOLDER / "limits.json", FOLDER / "limits.png", FOLDER / "limits.md"
Row = dict[str, Any]

HEAD = """\
<!-- Made by `python -m docs.make_limits` from docs/limits.json, the matrix of a real sweep. Do not edit it here. -->

# Limits: what fits, predicted and proved

Which resolution, how many frames, at which `max_model_len`? The token rule of [budgets](budgets.md) answers it before anything
starts, and `task=limits` has an engine prove it. Every cell below was sent to a real engine, with two frames and the text
"Test prompt", {reserve} tokens reserved for the answer.

**{agreement}**

## The Cosmos sizes

Tokens of the prompt, and what the engine said at each `max_model_len`: ✓ it answered with room for the whole reserve, ✗ the
prompt or its answer had no room, **!** it did otherwise than predicted. *Old* is the old linear estimate.

"""

MIDDLE = """
## The nine sizes between 320x180 and 640x360

"""

TAIL = """
![Sizes and budgets: what was accepted and what was refused](limits.png)

## The old mystery

Three claims stood at the beginning of this project: that 640x480 fails at 4096, that 720p needs 32768, and that nobody can say how
NVIDIA's own examples work then. All three come from one number and one rule.

- **4685 tokens** is not what 640x480 costs. It is what two frames of 1280x720 cost with the text "Test prompt": the wrong video
  had been sent. 640x480 costs 2465 and fits at 4096, and NVIDIA's upsampling example is a 640x480 video.
- **The encoder never sees more than 1024 px.** It scales a larger frame down first, so a 16:9 frame of any size costs at most
  2340 tokens. 8192 serves every 16:9, 9:16 and 4:3 clip with two frames, 9216 every shape; nothing needs 32768.
- **The old estimate**, width x height x frames x 0.0173, is 4 to 15 times too high for small frames and grows without end for
  large ones. It gave the engine's verdict in {linear} of {measured} cells of these tables.

One thing is easy to miss: an engine accepts a prompt that leaves a single token for the answer, and cuts the answer off
there. So the answer's reserve belongs to the sum, and a cell counts as fitting only when the engine had room for all of it.

## Make it yourself

    python -m src.run task=limits size=640x480
    python -m src.run task=limits search=true aspect=all
    python -m src.run experiment=resolution_limits quick=true
    python -m src.run experiment=token_limits quick=true

`engine=offline`, the default, predicts only. With an engine each point is sent through it:

    python -m src.run experiment=token_limits engine=vllm model=tiny_random worker.python=VLLM_PYTHON
    python -m src.run experiment=token_limits engine=vllm image=vllm host=gpu_box model.checkpoint=/models/pixtral

The points are planned one by one, each from a test card that is made on the spot, and then measured together: a model is
loaded once for each `max_model_len`, not once for each point. A sweep leaves `matrix.csv`, `matrix.json`, `matrix.png` and
`matrix.html` in its folder. Started again in the same folder (`hydra.sweep.dir=FOLDER`), it measures only what is missing; a
point that fails does not stop the others. `limits.together=false` measures each point where it runs, as a cluster wants it.

`search=true` finds the largest size that fits and has the engine accept it and refuse the next one up. Experiments are files in
`conf/experiment/`: to add one, list its values there.

## What an engine was seen to take

Measured limits are kept in `limits.json` of the cache folder, by engine, host, image, model and budget. When an engine refuses a
request that its `max_model_len` should hold, it is believed: from then on `task=plan`, `upsample=best_fit` and every other
plan for that engine stay below it, and say so. Remove the file to forget it.
"""


def page(data: dict[str, Any]) -> str:
    """The page for a matrix."""
    rows: list[Row] = data["points"]
    said = data["agreement"]
    agreement = (
        f"Prediction and engine agree in {said['exact']} of {said['measured']} points, verdict and token count; "
        f"the old estimate and the engine in {said['linear']}."
    )
    engines = sorted({row["engine"] for row in rows if row["engine"]})
    models = sorted({fact["model"] for fact in data["engines"].values()})
    measured = (
        f"Measured with {', '.join(engines)} and {', '.join(models)}; token counts depend on neither weights nor GPU."
    )
    cosmos = [row for row in rows if row["category"]]
    own = [row for row in rows if not row["category"]]
    return (
        HEAD.format(reserve=rows[0]["output_reserved"], agreement=agreement)
        + _table(cosmos, named=True)
        + f"\n{measured}\nSizes with the same mark (a, b, …) are the same grid of patches to the encoder.\n"
        + MIDDLE
        + _table(own, named=False)
        + TAIL.format(linear=said["linear"], measured=said["measured"])
    )


def _table(rows: list[Row], *, named: bool) -> str:
    budgets = sorted({row["max_model_len"] for row in rows})
    sizes = {
        row["size"]: row for row in sorted(rows, key=lambda r: (r["prompt_tokens"], r["linear_estimate"], r["size"]))
    }
    twins = {row["same_as"]: "" for row in rows if row["same_as"]}
    marks = dict(zip(twins, "abcdefgh", strict=False))
    head = (["category", "aspect"] if named else []) + ["size", "tokens", "old", *map(str, budgets)]
    lines = [head, ["---"] * len(head)]
    cells = {(row["size"], row["max_model_len"]): row for row in rows}
    for size, row in sizes.items():
        mark = marks.get(row["same_as"] or size, "")
        line = [row["category"] + "p", row["aspect"]] if named else []
        line += [size + (f" ({mark})" if mark else ""), str(row["prompt_tokens"]), str(row["linear_estimate"])]
        lines.append(line + [_verdict(cells.get((size, budget))) for budget in budgets])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _verdict(row: Row | None) -> str:
    if row is None or row["agrees"] is None:
        return "–"
    return ("✓" if row["measured"] == "accepted" else "✗") + ("" if row["agrees"] else " **!**")


def main(arguments: list[str]) -> None:
    if arguments:
        shutil.copyfile(Path(arguments[0]) / "matrix.json", DATA)
        shutil.copyfile(Path(arguments[0]) / "matrix.png", PICTURE)
    PAGE.write_text(page(json.loads(DATA.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

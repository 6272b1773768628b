"""Lines that the tools of video models read, one for each prompt. Pure.

Sources: Wan2.2 generate.py; LTX-2 ltx-pipelines; HunyuanVideo-1.5 generate.py; CogVideo inference/cli_demo.py and
sat/sample_video.py; cosmos-framework scripts/inference and inference/common/args.py (an unknown key is refused).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Name -> file of a run folder. cosmos3, transfer2_5: samples; cogvideox: lines; the others: a shell script, a call for each prompt.
EXPORTS = {
    "cosmos3": "cosmos3.jsonl",
    "transfer2_5": "transfer2_5.jsonl",
    "wan": "wan.sh",
    "ltx2": "ltx2.sh",
    "hunyuan15": "hunyuan15.sh",
    "cogvideox": "cogvideox.txt",
}
HEADS = {
    "wan": "# In a checkout of Wan2.2. Further arguments go to each call, as in --ckpt_dir FOLDER --size '1280*720'.",
    "ltx2": "# Needs ltx-pipelines. Further arguments of this script go to each call, as in --checkpoint-path FILE.",
    "hunyuan15": "# In a checkout of HunyuanVideo-1.5. Further arguments go to each call, as in --model_path FOLDER.",
}
# Command; options for the first frame, for the negative prompt, and for the video, where the tool gives it no name.
_CALLS = {
    "wan": (("python", "generate.py"), "--image", "", ""),
    "ltx2": (("python", "-m", "ltx_pipelines.ti2vid_two_stages"), "--image", "--negative-prompt", "--output-path"),
    "hunyuan15": (("python", "generate.py"), "--image_path", "--negative_prompt", "--output_path"),
}
# By the suffix of what the sample starts from.
MODE_OF = {".mp4": "video2video"} | dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "image2video")


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with what goes with it. image: the first frame as a file, clip: the clip; "" for none. facts: of `pins`."""

    name: str
    prompt: str
    negative: str = ""
    image: str = ""
    clip: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def call(name: str, sample: Sample) -> str:
    """A line of a shell script, which makes NAME.mp4 where the tool gives its video no name of its own. Values stand behind =,
    so that one that begins with a hyphen is no option."""
    argv, image, negative, output = _CALLS[name]
    values = [("--task", "i2v-A14B" if sample.image else "t2v-A14B")] if name == "wan" else []
    if output:  # else each call would write over the video of the last
        values.append((output, f"{sample.name}.mp4"))
    values += [("--prompt", " ".join(sample.prompt.split()))]
    values += [(negative, sample.negative)] if negative and sample.negative else []
    words = [*argv, *(f"{option}={value}" for option, value in values)]
    if sample.image:  # LTX-2 takes the image, the frame that it is, and how strongly it counts
        words += [image, sample.image, "0", "1.0"] if name == "ltx2" else [f"{image}={sample.image}"]
    return f'{shlex.join(words)} "$@"'


def line_of_cogvideox(sample: Sample) -> str:
    """PROMPT, or PROMPT@@IMAGE; the prompt without the marks that end it."""
    prompt = " ".join(re.sub("@(?=@)", "@ ", sample.prompt).split())
    return f"{prompt}{' ' * prompt.endswith('@')}@@{sample.image}" if sample.image else prompt


def sample_of_cosmos3(sample: Sample, *, ascii_only: bool = True) -> dict[str, Any]:
    """A sample of Cosmos 3. Raises ValueError in words for what is none."""
    vision, mode = sample.clip or sample.image, "text2video"
    if vision:
        suffix = vision[vision.rfind(".") :].lower()
        if suffix not in MODE_OF:
            raise ValueError(f"{vision}: Cosmos 3 takes images, and clips that end in .mp4")
        mode = MODE_OF[suffix]
    facts = sample.facts
    line: dict[str, Any] = {
        "name": sample.name,
        "model_mode": mode,
        "prompt": caption(sample.prompt, facts, ascii_only),
    }
    line |= {"negative_prompt": sample.negative} if sample.negative else {}
    line |= {"vision_path": vision} if vision else {}
    line |= {key: facts[key] for key in ("resolution", "aspect_ratio", "fps", "num_frames") if key in facts}
    return line


def caption(prompt: str, facts: Mapping[str, Any], ascii_only: bool = True) -> str:
    """A prompt as Cosmos 3's caption: a JSON object stands bare, in ASCII, and without what its loader must not see; prose is
    the caption over time. The loader overwrites duration, fps, resolution and aspect ratio."""
    bare = prompt.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        parsed = json.loads(bare)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        parsed = {
            "temporal_caption": prompt,
            **({"aspect_ratio": facts["aspect_ratio"]} if "aspect_ratio" in facts else {}),
        }
    return json.dumps(
        {key: value for key, value in parsed.items() if key != "scene_imagination"}, ensure_ascii=ascii_only
    )

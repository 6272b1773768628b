"""Families by name: what a checkpoint's own files change, and tokenizers from every kind of file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs

from src.errors import InputError
from src.media.geometry import Size
from src.models.families import FAMILIES, TOKENIZERS, family_of, with_cap, with_checkpoint
from src.models.family import Media
from src.models.qwen import Qwen
from src.models.tokenizer import packed, text_counter, tokenizer_file
from src.worker.byte_pairs import merged_from
from src.worker.engines.tiny_models import make_tiny_model
from tests.harness.records import ENGINE, JOB, MODEL


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "mistral"])
def test_tiny_checkpoint_counts_as_its_family(name: str, tmp_path: Path, cache_dir: Path) -> None:
    """Its own tokenizer and pixel ranges are read, and are those of the published models.

    Of Qwen's tokenizer the first pieces; tests/e2e/test_vllm_families.py counts with all of them.
    """
    pieces = TOKENIZERS[name]
    model = replace(MODEL, family=name, tiny_random=True)
    if not model.is_mistral:
        (tmp_path / pieces).write_bytes(b"".join(tokenizer_file(pieces).read_bytes().splitlines(True)[:4_000]))
        pieces = str(tmp_path / pieces)
    job = replace(JOB, model=model, tokenizer="" if model.is_mistral else packed(pieces))
    folder = make_tiny_model(job, tmp_path / "model")
    own = with_checkpoint(replace(model, checkpoint=str(folder), tokenizer=""))
    assert Path(own.tokenizer).parent == folder
    published = with_checkpoint(replace(model, checkpoint="", tokenizer=pieces))
    for text in ("A red car, 1234.", "一辆红色的汽车 👩‍👩‍👧", "\n\n  def f(x):\treturn 1\r\n", ""):
        counts = [
            family_of(m, ENGINE, str(cache_dir)).text_tokens("S", text, with_media=True) for m in (own, published)
        ]
        assert counts[0] == counts[1]
    sizes = [Size(320, 180), Size(1, 1), Size(4000, 4000)]
    media = [[family_of(m, ENGINE, "").media_tokens(s, Media(1)) for s in sizes] for m in (own, published)]
    assert media[0] == media[1]


def test_checkpoint_of_other_limits_wins(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 784, "max_pixels": 78_400}))
    model = with_checkpoint(
        replace(MODEL, family="qwen2_5_vl", checkpoint=str(tmp_path), image_pixels=(3136, 12_845_056))
    )
    counts = FAMILIES["qwen2_5_vl"](model, len)
    assert isinstance(counts, Qwen)
    assert counts.image_pixels == counts.clip_pixels == (784, 78_400)
    limited = FAMILIES["qwen2_5_vl"](replace(model, max_pixels=7840), len)
    assert isinstance(limited, Qwen) and limited.image_pixels == (784, 7840)


@pytest.mark.parametrize(
    "config",
    [
        {"size": 224}, {"size": {"height": 224, "width": 224}}, {"size": [1, 2]}, {"min_pixels": "a", "max_pixels": 3},
        {"min_pixels": -1, "max_pixels": 9}, {"min_pixels": 1e400, "max_pixels": 1e400}, {"min_pixels": None, "max_pixels": True},
    ],
    ids=str,
)  # fmt: skip
def test_processor_of_another_kind_decides_nothing(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    model = replace(MODEL, family="qwen3_vl", checkpoint=str(tmp_path))
    assert with_checkpoint(model).image_pixels == model.image_pixels


def test_checkpoint_of_new_transformers_is_read(tmp_path: Path) -> None:
    """One file for both processors, which comes before the old ones."""
    sizes = {"shortest_edge": 3136, "longest_edge": 602_112}
    both = {"image_processor": {"size": sizes}, "video_processor": {"max_pixels": 100_352}}
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 784, "max_pixels": 78_400}))
    model = with_checkpoint(replace(MODEL, family="qwen3_vl", checkpoint=str(tmp_path)))
    assert (model.image_pixels, model.video_pixels) == ((3136, 602_112), ())  # 128 patches of 32 x 32 px are more


@pytest.mark.parametrize(
    ("config", "pixels"),
    [
        ({"min_pixels": 784}, (784, 1_003_520)),
        ({"max_pixels": 78_400}, (3136, 78_400)),
        ({"size": {"longest_edge": 9}}, ()),
    ],
)
def test_end_that_is_not_named_is_that_of_transformers(
    tmp_path: Path, config: dict[str, object], pixels: tuple[int, ...]
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    model = with_checkpoint(replace(MODEL, family="qwen2_5_vl", checkpoint=str(tmp_path)))
    assert model.image_pixels == pixels


@pytest.mark.parametrize(("name", "tokens"), [("Qwen/Qwen3-VL-8B-Thinking", 2), ("Qwen/Qwen3-VL-8B-Instruct", 0)])
def test_model_elsewhere_opens_thoughts_by_its_name(name: str, tokens: int) -> None:
    """Its checkpoint is on the host, and its template cannot be read here."""
    assert with_checkpoint(replace(MODEL, name=name, family="qwen3_vl", checkpoint="/not/here")).opening == tokens


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("end", "tokens"), [("", 0), ("<think>\\n", 2), ("' }}{{- '<think>\\n", 2), ("<think>\\n\\n</think>\\n\\n", 0)]
)
def test_template_that_opens_thoughts_is_counted(tmp_path: Path, name: str, end: str, tokens: int) -> None:
    """As of Qwen3-VL-8B-Thinking."""
    template = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n" + end + "' }}{%- endif %}"
    text = template if name.endswith("jinja") else json.dumps({"chat_template": template})
    (tmp_path / name).write_text(text)
    model = with_checkpoint(replace(MODEL, family="qwen3_vl", checkpoint=str(tmp_path)))
    plain = FAMILIES["qwen3_vl"](replace(model, opening=0), len)
    assert FAMILIES["qwen3_vl"](model, len).wrapper_tokens("") == plain.wrapper_tokens("") + tokens


def test_damaged_checkpoint_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config\.json: not a valid JSON"):
        with_checkpoint(replace(MODEL, family="qwen3_vl", checkpoint=str(tmp_path)))


def test_started_servers_are_told_about_the_cap() -> None:
    model = replace(MODEL, family="qwen3_vl")
    assert with_cap(model, replace(ENGINE, name="vllm"), "").cap_pixels_per_frame is False
    assert with_cap(replace(model, cap_pixels_per_frame=True), ENGINE, "").cap_source == "as configured"
    assert with_cap(replace(model, family="qwen2_5_vl"), ENGINE, "").cap_pixels_per_frame is None


@given(width=st.integers(8, 5000), height=st.integers(8, 5000))
def test_mistral_images_cost_what_its_encoder_says(width: int, height: int) -> None:
    config = ImageConfig(image_patch_size=14, max_image_size=1540, spatial_merge_size=2)
    encoder = ImageEncoder(config, SpecialImageIDs(10, 12, 13))
    columns, rows = encoder._image_to_num_tokens(type("Sized", (), {"size": (width, height)})())
    counts = FAMILIES["mistral"](MODEL, len)
    assert counts.media_tokens(Size(width, height), Media(1)) == columns * rows + rows


def test_mistral_template_has_a_system_role() -> None:
    counts = FAMILIES["mistral"](MODEL, len)
    assert counts.wrapper_tokens("") + counts.text_tokens("", "abc", with_media=True) == 3 + 3
    assert counts.wrapper_tokens("S") + counts.text_tokens("S", "abc", with_media=False) == 5 + 1 + 3


def test_unreachable_ranks_are_left_out(tmp_path: Path) -> None:
    """abc can be made of ab + c alone, and ab comes later: engines never merge to it, tiktoken would find it whole."""
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"abc": 3, b"ab": 4}
    assert merged_from(b"abc", ranks) is None and merged_from(b"ab", ranks) == (b"a", b"b")


def test_broken_tokenizer_is_named_when_it_counts(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    count = text_counter(str(tmp_path / "tokenizer.json"), tmp_path)
    with pytest.raises(InputError, match="not a valid tekken tokenizer"):
        count("a")

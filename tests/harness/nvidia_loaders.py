"""NVIDIA's own parsers, loaders and validation over cases, from a checkout; models and all that is heavy are stubs.

Usage: python nvidia_loaders.py ENGINE CHECKOUT FOLDER, in a process of its own. FOLDER holds cases.json, a list of objects: for
transfer1 {"spec", "line"}, for the others the line of a batch. Prints a JSON list: "" for a case that is taken, else the error.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

REAL = {
    "transfer1": ("cosmos_transfer1.diffusion.inference.transfer", "cosmos_transfer1.diffusion.inference.inference_utils",
                  "cosmos_transfer1.diffusion.inference.preprocessors", "cosmos_transfer1.utils.io",
                  "cosmos_transfer1.checkpoints"),
    "transfer2_5": ("cosmos_transfer2.config",),
    "cosmos3": ("cosmos_framework.inference.args", "cosmos_framework.inference.common.args", "cosmos_framework.utils.flags"),
}  # fmt: skip
STUBBED = (
    *(
        "torch",
        "torchvision",
        "cv2",
        "einops",
        "imageio",
        "matplotlib",
        "pynvml",
        "tyro",
        "huggingface_hub",
        "cosmos_oss",
    ),
    *("attrs", "attr", "megatron", "obstore", "hydra"),
)


class AnyName(type):
    """Its classes have whatever attribute they are asked for."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)


class Anything(metaclass=AnyName):
    """Stands for a type in annotations, and for whatever its instances are asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> None: ...

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.any_schema()


class Same:
    """Stands for tyro's marks around types, as in Suppress[int]."""

    def __class_getitem__(cls, item: Any) -> Any:
        return item


class Stub(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("CONFIG_DIR", "PACKAGE_DIR"):
            return self.folder / "configs" if name == "CONFIG_DIR" else self.folder
        if name in ("SMOKE", "EXPERIMENTAL_CHECKPOINTS"):
            return False
        return Anything if name[0].isupper() and not name.isupper() else MagicMock(name=name)


class Finder:
    """Finds stubs for packages that are not here, and for modules of NVIDIA's beside those that are tried."""

    def __init__(self, root: Path, real: tuple[str, ...]) -> None:
        self.root, self.real, self.own = root, real, real[0].split(".")[0]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        package = name.split(".")[0]
        if package == self.own and name in self.real:
            return None
        if package != self.own and package not in STUBBED:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> Any:
        module = Stub(spec.name)
        module.folder = self.root / self.own / "inference"  # type: ignore[attr-defined]
        if spec.name == "torch":
            module.__version__ = "1.0"  # type: ignore[attr-defined]
        if spec.name == "tyro":
            conf = types.SimpleNamespace(arg=lambda **kw: None, Suppress=Same, subcommand=lambda *a, **kw: None)
            module.conf = conf  # type: ignore[attr-defined]
        if spec.name == "tyro.conf":
            module.arg, module.Suppress = lambda **kw: None, Same  # type: ignore[attr-defined]
        module.__path__ = [str(self.root.joinpath(*spec.name.split(".")))]
        return module

    def exec_module(self, module: Any) -> None: ...


def verdicts(cases: Iterable[Any], try_one: Callable[[Any], object]) -> list[str]:
    found = []
    for case in cases:
        said = ""
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            try:
                try_one(case)
            except (Exception, SystemExit) as e:
                said = f"{type(e).__name__}: {e} {out.getvalue()}"[:300]
        found.append(said)
    return found


def transfer1(folder: Path) -> Callable[[Any], object]:
    module: Any = importlib.import_module(REAL["transfer1"][0])
    preprocessors: Any = importlib.import_module(REAL["transfer1"][2])
    strengths = ("very_low", "low", "medium", "high", "very_high")

    def opens(controls: Iterable[Any], prompt: Any, clips: Iterable[Any]) -> Any:
        """What the pipeline reads before it samples."""
        assert all(isinstance(text, str) for text in prompt)
        assert all(os.path.exists(clip) for clip in clips if clip)
        for name, control in (control for item in controls for control in item.items()):
            weight = control["control_weight"]
            is_file = str(weight).endswith(".pt") and "_control_weight_" not in weight  # of a mask that is made here
            assert os.path.exists(weight) if is_file else str(weight).endswith(".pt") or float(weight) >= 0, weight
            made = name == "upscale" or "_input_control_" in control["input_control"]
            assert made or os.path.exists(control["input_control"]), control
        return [MagicMock()], list(prompt)

    class Pipeline:
        def __init__(self, **kwargs: Any) -> None:
            self.regional_prompts = self.region_definitions = None
            assert isinstance(kwargs["seed"], int)

        def generate(self, prompt: Any, video_path: Any, control_inputs: Any, **kwargs: Any) -> Any:
            return opens(control_inputs, prompt, video_path)

    class Preset:
        def __init__(self, blur_strength: str = "medium", canny_threshold: str = "medium") -> None:
            assert {blur_strength, canny_threshold} <= set(strengths)

        def __call__(self, clip: Any, out: Any) -> None:
            assert os.path.exists(clip)

    preprocessors.VisControlModel = preprocessors.EdgeControlModel = Preset
    module.DiffusionControl2WorldGenerationPipeline = module.DistilledControl2WorldGenerationPipeline = Pipeline
    module.save_video = MagicMock()

    def try_one(case: Any) -> None:
        spec, batch = folder / "spec.json", folder / "batch.jsonl"
        spec.write_text(json.dumps(case["spec"]))
        batch.write_text(json.dumps(case["line"]) + "\n")
        sys.argv = ["transfer.py", "--checkpoint_dir", "m", "--controlnet_specs", str(spec), "--batch_input_path", str(batch),
                    "--video_save_folder", str(folder / "out")]  # fmt: skip
        module.demo(*module.parse_arguments())

    return try_one


def transfer2_5(folder: Path) -> Callable[[Any], object]:
    arguments: Any = importlib.import_module(REAL["transfer2_5"][0]).InferenceArguments

    def try_one(case: Any) -> None:
        (folder / "batch.jsonl").write_text(json.dumps(case) + "\n")
        arguments.from_files([folder / "batch.jsonl"])

    return try_one


def cosmos3(folder: Path) -> Callable[[Any], object]:
    import typing

    import typing_extensions

    typing.override = typing_extensions.override  # type: ignore[attr-defined]  # of Python 3.12
    overrides: Any = importlib.import_module(REAL["cosmos3"][0]).OmniSampleOverrides

    def try_one(case: Any) -> None:
        (folder / "batch.jsonl").write_text(json.dumps(case) + "\n")
        for sample in overrides.from_files([folder / "batch.jsonl"]):
            sample._build_transfer_data(None, sample.sample_meta)

    return try_one


def main(engine: str, checkout: str, folder: str) -> None:
    sys.path.insert(0, checkout)
    sys.meta_path.insert(0, Finder(Path(checkout), REAL[engine]))  # type: ignore[arg-type]
    os.chdir(folder)
    cases = json.loads(Path("cases.json").read_text())
    try_one = {"transfer1": transfer1, "transfer2_5": transfer2_5, "cosmos3": cosmos3}[engine](Path(folder))
    print(json.dumps(verdicts(cases, try_one)))


if __name__ == "__main__":
    main(*sys.argv[1:])

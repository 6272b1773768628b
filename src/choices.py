"""What fields of the config may be, where they are one of a few words."""

from __future__ import annotations

from enum import StrEnum

TaskName = StrEnum(
    "TaskName",
    "upsample plan pipeline spec attach status runs report cancel clean trust doctor stage manifest collect compare review "
    "limits verify init",
)
SizeRule = StrEnum("SizeRule", "fixed_width native category best_fit")
FrameRule = StrEnum("FrameRule", "head ends uniform clip")
ModelFamily = StrEnum("ModelFamily", "pixtral mistral qwen2_5_vl qwen3_vl qwen3_5 ask unverified")
EngineName = StrEnum("EngineName", "offline vllm llamacpp endpoint cosmos")
HostKind = StrEnum("HostKind", "local ssh fleet slurm pool ray")
BadVideo = StrEnum("BadVideo", "keep text_only")
SpecOutput = StrEnum("SpecOutput", "beside files in_place none")
PathForm = StrEnum("PathForm", "absolute relative")
Export = StrEnum(
    "Export", "parquet dataset openai cosmos3 transfer2_5 txt target wan ltx2 hunyuan15 cogvideox provenance"
)
AnswerKind = StrEnum("AnswerKind", "text json tagged")
Language = StrEnum("Language", "any en zh")
Retry = StrEnum("Retry", "none failed")
PairBy = StrEnum("PairBy", "input name")
ProgressMode = StrEnum("ProgressMode", "auto bars lines none")
OutputFormat = StrEnum("OutputFormat", "text json")
LogLevel = StrEnum("LogLevel", "debug info warning error")
Verdict = StrEnum("Verdict", "accepted rejected")

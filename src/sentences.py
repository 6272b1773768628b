"""Log events as sentences for people. Machines read the events themselves, in log.jsonl."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from .text import printable

# Event: the parts of its sentence; one is left out where the event lacks a key that it names.
SENTENCES: dict[str, tuple[str, ...]] = {
    "answer_cache_unusable": ("The answer cache {file} cannot be used: {reason}.",),
    "answers_reused": ("{items} answers are taken from earlier runs.",),
    "answers_taken_over": ("{items} answers that came in meanwhile are collected.",),
    "bug": ("This is a bug.",),
    "cancelling": ("Job {job} is being canceled; {note}.",),
    "clip_cache_unusable": ("The cache of clips {file} cannot be used: {reason}.",),
    "clip_is_slow": ("{clip} is slow to read", "; it is skipped after {limit_s} s", "."),
    "commit_unknown": ("The version of this checkout is not known: {reason}.",),
    "detaching": ("Detaching from job {job}; {note}.",),
    "editor_cannot_be_run": ("The editor {editor} cannot be run: {reason}.",),
    "end_not_recorded": ("How the run ended could not be recorded: {reason}.",),
    "engine_accepts_less": (
        "The engine accepts less than max_model_len={max_model_len}",
        ": it refused a request of {refused} tokens",
        ": at most {effective} tokens",
        ". Later plans keep to that; it is noted in {file}.",
    ),
    "estimate": ("{text}",),
    "exit_record_damaged": ("The exit record of the worker is damaged, so {note}: {reason}.",),
    "foreign_result_ignored": ("The answer with the id {id} is ignored: {note}.",),
    "foreign_results_ignored": ("Videos of job {job} that were not asked for are ignored: {ids}.",),
    "frame_sent_again": ("{item}: {reason}; its frames are sent again.",),
    "hint_made_smaller": ("{item}: refused by the engine, retried with smaller frames: {reason}.",),
    "host_left_out": ("{host} is left out, {note}: {reason}", " → {hint}", "."),
    "ignored": ("Ignored: {overrides}; {note}.",),
    "image_pulled": ("Image {image} is being pulled on {host}.",),
    "job_found_running": ("Job {job} is running already; it is supervised from here.",),
    "worker_awaited": ("Job {job} is waiting for its worker to be started", ": {command}", "."),
    "job_gone": ("Job {job} is gone: {note}.",),
    "job_located": ("The job's folder is {folder} on {host}.",),
    "job_still_listed": ("Job {job} is done; Slurm still lists it, and will end it.",),
    "job_not_cleaned_up": ("Job {job} is done, but could not be cleaned up: {reason}.",),
    "job_started": (
        "A job started: {items} items",
        ", engine {engine}",
        ", inference on {inference}",
        "; its name is {job}.",
    ),
    "journal_read_again": ("{file} differs from the copy of it here; it is read again.",),
    "journal_repaired": ("{lines} damaged journal lines were moved to {file}; their items are open again.",),
    "left_out": ("{files}: left out; {note}.",),
    "file_not_updated": ("{file} is left as it is: {reason}. The answers are in results.json.",),
    "items_not_updated": (
        "{file} has changed since the run was planned: {items} items are not in it as they were, and their answers only in "
        "results.json. The first: {first}.",
    ),
    "left_out_of_export": ("Items left out of {file}: {items}. The first: {first}.",),
    "line_left_out": ("{line}; it is left out.",),
    "link_lost": ("The link to {host} is lost: {reason}. Next try in {again_in}.",),
    "not_measured": ("max_model_len={max_model_len} could not be measured: {reason}",),
    "not_notified": ("No message could be posted to {host}: {reason}.",),
    "not_notified_yet": ("The message for notify.url is posted when you resume the ended run: {command}",),
    "not_utf8": ("{file} is not UTF-8; it is read as {read_as}; {note}.",),
    "os_error": ("The operating system reported an error.",),
    "run_folder_waited_for": (
        "Another process is using {folder}; waiting {limit_s} s at most (output.lock_timeout_s).",
    ),
    "phase": ("The worker is {name}.",),
    "prompts_taken_over": ("The {items} prompts of {run} are upsampled already.",),
    "ray_connected": ("{text}.",),
    "render_tasks_ended": ("The render tasks {name} have ended", "; {note}", "."),
    "render_tasks_submitted": ("Hints are rendered by {tasks} tasks of Slurm, {name}.",),
    "results_not_written": ("Results were not written", ": {reason} {file}", "; {note}", "."),
    "run_failed": ("The run ended with exit code {exit_code}.",),
    "run_resumed": ("Resuming {run}; {note}.",),
    "same_request": ("The requests are the same as before; {note}.",),
    "sheets_not_read": ("{file}: sheet {read} is read; not read: {not_read}.",),
    "size_changes_within_clip": ("{clip} changes its size: {sizes}.",),
    "slurm_does_not_answer": ("{reason}; Slurm is asked again.",),
    "ssh_config_not_used": ("~/.ssh/config, host {host}: directives that are not used: {directives}.",),
    "timings_not_written": ("{file} could not be written: {reason}.",),
    "videos_taken_over": ("{videos} videos are there already.",),
    "waiting_for_requests_in_flight": ("Job {job} finishes its requests in flight.",),
    "worker_restarted": ("The worker of job {job} ended and is restarted: {ended}.",),
    "server_busy": ("The server is not answering at the moment: {reason}.",),
    "worker_quiet": ("The worker of job {job} gave no sign of life for {silent}; it is replaced after {patience}.",),
    "worker_replaced": (
        "Answers of job {job} cannot be read ({answers}): its worker is replaced, and they are asked again.",
    ),
    "worker_silent": ("The worker of job {job} gave no sign of life for {silent}: {note}.",),
}
_TWO_STOPS = re.compile(r"(?<=\w)\.\.(?=\s|$)")  # where what was filled in ends a sentence, too; not in ../FILE
_PROGRESS = ("{stage}: {done}", ", {rate}", ", {eta} left", ", {phase}", " ({so_far})")


def sentence(event: str, facts: Mapping[str, Any]) -> str:
    """The sentence of an event; of one that has none, its words and keys."""
    shown = {key: _shown(value) for key, value in facts.items()}
    if "done" in shown:  # a stage of the progress
        counts = (f"{int(count):,}" for count in shown["done"].split("/"))  # the second one where it is known
        shown |= {"stage": event.replace("_", " "), "done": " of ".join(counts)}
        return _filled(_PROGRESS, shown)
    if event == "phase" and shown.get("name") == "fetching":
        return "The results are being fetched."
    if event in SENTENCES:
        return _TWO_STOPS.sub(".", _filled(SENTENCES[event], shown))
    return f"{event.replace('_', ' ')}: {', '.join(f'{key} {value}' for key, value in shown.items())}"


def fields(part: str) -> set[str]:
    """The keys that a part of a sentence names."""
    return {name for _, name, _, _ in Formatter().parse(part) if name}


def _filled(parts: tuple[str, ...], shown: Mapping[str, str]) -> str:
    return "".join(part.format_map(shown) for part in parts if fields(part) <= shown.keys())


def _shown(value: Any) -> str:
    """A value on one line."""
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value).replace("\n", " | "))

"""Exactly the frames of a clip that a rule selects.

The quick way trusts time stamps and index: it reads the times of packets, seeks to the key frame before each wanted
frame, and skips frames that no other frame refers to. Its time depends on the distance between key frames, not on the
length of the clip. A file that cannot be read that way (AVI without time stamps, fragments without an index) is decoded in
order, which gives the same frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VideoError
from . import sampling
from .guard import Guard
from .video import has_hidden_alpha, open_video, video_stream

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_INT_MAX = (1 << 31) - 1
_MOST_HELD = 1 << 30  # bytes of packets between two key frames that are held in memory
TimedFrames = list[tuple[float, "VideoFrame"]]

# Decoders that can skip single frames that no other frame refers to; others get every packet.
_CAN_SKIP = ("h264", "hevc", "mpeg4", "mpeg2video")
_SEEK_BACK_S = (0, 1, 3, 10)  # the first frames of an open group of pictures need the group before


class _Broken(Exception):
    """The packets do not contain what was looked for."""


def read_frames(
    path: Path, rule: str, count: int, fps: float, duration_s: float, guard: Guard | None = None
) -> TimedFrames:
    """The frames that a rule takes from a clip, with their times in seconds from its start, in order.

    rule: head, ends or uniform; fps: slots per second for head. At most `count` frames; fewer when the clip has fewer.
    Raises VideoError when the clip ends or breaks before the frames are reached, or needs more than `guard` allows.
    """
    import av

    guard = guard or Guard(str(path))
    rate = Fraction(fps).limit_denominator(1000)
    for read in (_quick, _in_order):
        try:
            with open_video(path) as container:
                stream = video_stream(container, path)
                # Two clips on two cores are faster than one clip on two threads, and skipping frames one by one
                # needs the decoder to work in step with the packets.
                stream.codec_context.thread_count = 1
                # A frame that the decoder would make up in part is an error; one far too large is not even allocated.
                stream.codec_context.options = {
                    "err_detect": "explode",
                    "max_pixels": str(min(4 * guard.max_pixels, _INT_MAX)),
                }
                return read(_Source(container, stream, guard), rule, count, rate, duration_s)
        except (av.error.FFmpegError, _Broken) as e:
            wrong: Exception = e
    raise VideoError(f"{path}: decoding stopped: {wrong}", hint="the file is damaged: encode it again") from wrong


class _Source:
    """The packets and frames of one stream, under a guard."""

    def __init__(self, container: InputContainer, stream: VideoStream, guard: Guard) -> None:
        self.container, self.stream, self.guard = container, stream, guard

    def packets(self) -> Iterator[av.Packet[VideoStream]]:
        return self.guard.over(self.container.demux(self.stream))

    def held(self, packet: av.Packet[VideoStream], held: list[av.Packet[VideoStream]], size: int) -> int:
        """Keep a packet; the bytes that are kept by then."""
        held.append(packet)
        if size + packet.size > _MOST_HELD:
            raise _Broken("too much between two key frames to hold")
        return size + packet.size

    def displayed(self) -> Iterator[VideoFrame]:
        return self.guard.frames(self._decoded())

    def _decoded(self) -> Iterator[VideoFrame]:
        """All frames, with their transparency: of VP8 and VP9 only libvpx reads it, FFmpeg's own decoders leave it out."""
        import av

        if not has_hidden_alpha(self.stream):
            yield from self.container.decode(self.stream)
            return
        name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}[self.stream.codec_context.name]
        codec = av.CodecContext.create(name, "r")
        assert isinstance(codec, av.VideoCodecContext)
        codec.options = self.stream.codec_context.options
        for packet in self.packets():
            yield from codec.decode(packet if packet.size else None)


def _clock(container: InputContainer, stream: VideoStream) -> tuple[Fraction, Fraction]:
    """Time base of the stream, and the start of the file in seconds, which is zero for ffmpeg, in whole ticks."""
    tb = stream.time_base or Fraction(1, 1000)
    return tb, round(Fraction(container.start_time or 0, 1_000_000) / tb) * tb


# ---------------------------------------------------------------------------------------------------------- the quick way


def _quick(source: _Source, rule: str, count: int, fps: Fraction, duration_s: float) -> TimedFrames:
    if not {"mp4", "matroska"} & set(source.container.format.name.split(",")):
        raise _Broken("a container without time stamps of its own, or without an index")
    if has_hidden_alpha(source.stream):
        raise _Broken("transparency that another decoder has to read")
    if rule in sampling.SLOTTED:
        return _quick_head(source, count, fps)
    tb, origin = _clock(source.container, source.stream)
    first, last = _first_pts(source), _last_pts(source, duration_s)
    if rule == "ends":
        targets = [first + round(Fraction((last - first) * k, max(count - 1, 1))) for k in range(count)]
    else:
        shown_s = _shown_s(source, duration_s, first * tb - origin)
        targets = [first + round(Fraction(t) / tb) for t in sampling.uniform_times(shown_s, count, count)]
    frames = [_frame_at(source, min(max(t, first), last)) for t in targets]
    return [(float((frame.pts or 0) * tb - origin), frame) for frame in frames]


def _quick_head(source: _Source, count: int, fps: Fraction) -> TimedFrames:
    tb, origin = _clock(source.container, source.stream)
    beyond_s = Fraction(count + 1) / fps
    packets: list[av.Packet[VideoStream]] = []
    ended, size = True, 0
    first_s: Fraction | None = None
    for packet in source.packets():
        if not packet.size:
            continue
        if packet.pts is None:
            raise _Broken("packets without time stamps")
        size = source.held(packet, packets, size)
        if not packet.is_discard:
            first_s = packet.pts * tb if first_s is None else min(first_s, packet.pts * tb)
        # Later packets have a later pts than this dts: nothing after it can fall into a wanted slot.
        if packet.dts is not None and first_s is not None and packet.dts * tb > max(first_s, origin) + beyond_s:
            ended = False
            break
    displayed = sorted((p for p in packets if not p.is_discard), key=lambda p: p.pts or 0)
    if not displayed:
        raise _Broken("no frame to display")
    times = [(p.pts or 0) * tb - origin for p in displayed]
    end_s = times[-1] + (displayed[-1].duration or 0) * tb if ended else times[-1] + beyond_s
    wanted = [displayed[i].pts or 0 for i in sampling.head_choice(times, end_s, fps, count)]
    decoded = _decode(source, packets, set(wanted))
    return [(float(pts * tb - origin), decoded[pts]) for pts in wanted]


def _frame_at(source: _Source, target: int) -> VideoFrame:
    """The frame displayed at time stamp `target`: the last one that is not later."""
    tb = source.stream.time_base or Fraction(1, 1000)
    for back_s in _SEEK_BACK_S:
        source.container.seek(target - round(back_s / tb), stream=source.stream, backward=True)
        source.stream.codec_context.flush_buffers()
        packets: list[av.Packet[VideoStream]] = []
        size = 0
        for packet in source.packets():
            if packet.size:
                if packet.pts is None or packet.is_discard:
                    raise _Broken("time stamps or an edit list that need every packet")
                size = source.held(packet, packets, size)
                if packet.dts is not None and packet.dts > target:
                    break
        before = [p.pts or 0 for p in packets if (p.pts or 0) <= target]
        if before:
            wanted = max(before)
            try:
                return _decode(source, packets, {wanted})[wanted]
            except _Broken:
                continue
    raise _Broken(f"no frame at {float(target * tb):.3f} s")


def _decode(source: _Source, packets: Sequence[av.Packet[VideoStream]], wanted: set[int]) -> dict[int, VideoFrame]:
    """Decode only what the wanted frames need: themselves, and the frames that others refer to."""
    import av

    found: dict[int, VideoFrame] = {}
    codec = source.stream.codec_context
    can_skip = codec.name in _CAN_SKIP
    # Nothing after the last wanted packet in decoding order is needed by any of them: the decoder is drained there.
    last = max((n for n, packet in enumerate(packets) if packet.pts in wanted), default=-1)
    for packet in source.guard.over((*packets[: last + 1], None)):
        if packet is not None:
            codec.skip_frame = "NONREF" if can_skip and packet.pts not in wanted else "DEFAULT"
        try:
            decoded = codec.decode(packet)
        except av.error.FFmpegError as e:
            if packet is not None and (packet.pts or 0) < (packets[0].pts or 0):
                continue  # of an open group of pictures: displayed before its key frame, and made from the group before
            raise _Broken(str(e)) from e
        for frame in source.guard.frames(decoded):
            if frame.pts in wanted and not frame.is_corrupt:
                found[frame.pts] = frame
        if len(found) == len(wanted):
            return found
    raise _Broken(f"{len(wanted) - len(found)} of {len(wanted)} frames could not be decoded")


def _shown_s(source: _Source, duration_s: float, first_s: Fraction) -> float:
    """How long frames are shown, of a clip whose first one comes so much later than its sound: a container without a length of the
    stream counts that too."""
    return duration_s if source.stream.duration else max(duration_s - float(first_s), 0.0)


def _first_pts(source: _Source) -> int:
    for packet in source.packets():
        if packet.size:
            if packet.pts is None or packet.is_discard:
                raise _Broken("time stamps or an edit list that need every packet")
            return packet.pts
    raise _Broken("no frame to display")


def _last_pts(source: _Source, duration_s: float) -> int:
    """Time stamp of the last frame, found among the packets after the last key frame."""
    tb, origin = _clock(source.container, source.stream)
    source.container.seek(round((Fraction(duration_s) + origin) / tb), stream=source.stream, backward=True)
    last = max((p.pts for p in source.packets() if p.pts is not None), default=None)
    if last is None:
        raise _Broken("no packet near the end of the clip")
    return last


# ------------------------------------------------------------------------------------------------------------- in order


def _in_order(source: _Source, rule: str, count: int, fps: Fraction, duration_s: float) -> TimedFrames:
    if rule in sampling.SLOTTED:
        chosen = _head_in_order(_displayed(source), fps, count)
        return [(float(time_s), frame) for time_s, _, frame in chosen]
    times = [time_s for time_s, _, _ in _displayed(source)]
    if not times:
        raise _Broken("no frame could be decoded")
    if rule == "ends":
        span = times[-1] - times[0]
        targets = [times[0] + span * Fraction(k, max(count - 1, 1)) for k in range(count)]
    else:
        shown_s = _shown_s(source, duration_s, times[0])
        targets = [times[0] + Fraction(t) for t in sampling.uniform_times(shown_s, count, count)]
    wanted = [max((n for n, t in enumerate(times) if t <= target), default=0) for target in targets]
    source.container.seek(0)
    source.stream.codec_context.flush_buffers()
    found = {n: (t, frame) for n, (t, _, frame) in enumerate(_displayed(source)) if n in wanted}
    return [(float(found[n][0]), found[n][1]) for n in wanted]


def _displayed(source: _Source) -> Iterator[tuple[Fraction, Fraction, VideoFrame]]:
    """(time, end, frame) of all frames as ffmpeg displays them, one at a time.

    The presentation time stamp counts, unless it has gone backwards more often than the decoding time stamp; then
    that one does (libavcodec/decode.c, guess_correct_pts, which PyAV does not expose).
    """
    tb, origin = _clock(source.container, source.stream)
    last_pts, last_dts = -(1 << 63), -(1 << 63)
    faulty_pts = faulty_dts = 0
    for frame in source.displayed():
        if frame.dts is not None:
            faulty_dts, last_dts = faulty_dts + (frame.dts <= last_dts), frame.dts
        if frame.pts is not None:
            faulty_pts, last_pts = faulty_pts + (frame.pts <= last_pts), frame.pts
        trusted = frame.pts is not None and (frame.dts is None or faulty_pts <= faulty_dts)
        stamp = frame.pts if trusted else frame.dts
        if stamp is not None:
            time_s = stamp * tb - origin
            yield time_s, time_s + (frame.duration or 0) * tb, frame


def _head_in_order(
    frames: Iterator[tuple[Fraction, Fraction, VideoFrame]], fps: Fraction, count: int
) -> list[tuple[Fraction, Fraction, VideoFrame]]:
    """`sampling.head_choice` over frames that come one at a time, of which only one is kept."""
    chosen: list[tuple[Fraction, Fraction, VideoFrame]] = []
    first, last = None, None
    for current in frames:
        slot = sampling.slot(current[0], fps)
        first = slot if first is None else first
        while last is not None and len(chosen) < count and slot > first + len(chosen):
            chosen.append(last)
        if len(chosen) == count:
            return chosen
        last = current
    if last is None or first is None:
        raise _Broken("no frame could be decoded")
    end = sampling.slot(last[1], fps)
    while len(chosen) < count and end > first + len(chosen):
        chosen.append(last)
    return chosen or [last]

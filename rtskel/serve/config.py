"""What a server is told: how it treats streams, and how it serves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rtskel.curve import ServerKeys


@dataclass(frozen=True)
class StreamConfig:
    """How streams are treated.

    Attributes:
        max_streams: how many are served at once.
        max_gap: most slots in a row that are filled in; a longer gap starts the stream afresh.
        slack_s: seconds that a frame may come after it was due.
        idle_s: seconds of silence after which a stream is forgotten.
        behind_s: seconds that frames of a live stream may wait for the engine before the newest come first.
        max_age_s: in overload, seconds from the arrival of a live frame to its poses, beyond the lookahead and one turn
            of the engine. Half of it is for the queue of the socket, half for the wait for the engine: `behind_s` is
            reduced to that. None: twice `behind_s`.
        unseen: publish poses without coordinates, flagged UNSEEN, where nobody has been seen for more than `max_gap`
            slots; else nothing is published there but the events `lost` and `found`.
        ahead: slots of the jitter buffer: how far ahead of the engine a stream's frames are kept in the ring. More wait
            in a queue.
    """

    max_streams: int = 256
    max_gap: int = 25
    slack_s: float = 0.05
    idle_s: float = 30.0
    behind_s: float = 1.0
    max_age_s: float | None = None
    unseen: bool = False
    ahead: int = 64

    def __post_init__(self) -> None:
        if self.max_streams < 1:
            raise ValueError(f"max_streams must be at least 1, got {self.max_streams}")
        if self.max_gap < 0:
            raise ValueError(f"max_gap must be at least 0, got {self.max_gap}")
        if not 0 <= self.slack_s < math.inf:
            raise ValueError(f"slack_s must be at least 0, got {self.slack_s}")
        if not 0 < self.idle_s < math.inf:
            raise ValueError(f"idle_s must be above 0, got {self.idle_s}")
        if not self.behind_s >= 0:
            raise ValueError(f"behind_s must be at least 0, got {self.behind_s}")
        if self.max_age_s is not None and not self.max_age_s > 0:
            raise ValueError(f"max_age_s must be above 0, got {self.max_age_s}")
        if self.ahead <= self.max_gap:
            raise ValueError(f"ahead must exceed max_gap ({self.max_gap}), got {self.ahead}")

    @property
    def patience_s(self) -> float:
        """Seconds that frames of a live stream may wait for the engine, and as long unread before that."""
        return self.behind_s if self.max_age_s is None else min(self.behind_s, self.max_age_s / 2)


@dataclass(frozen=True)
class ServeConfig:
    """What a server does.

    Attributes:
        raw: endpoint to bind for raw poses; port * or 0 is chosen by the system.
        refined: endpoint to bind for refined poses, events and heartbeats.
        lookaheads: output delays in frames, each published on topics of its own.
        radius: 2 radius + 1 predictions are averaged where the lookahead allows.
        min_confidence: joints below it count as missing.
        hop: the engine runs every that many frames of a stream, for the windows of all of them in one batch: the same
            poses, up to hop - 1 frames later.
        streams: how streams are treated.
        lift: give streams of 2D poses a depth, with this lookahead in frames, which comes on top of the others
            (`rtskel.serve.lifting_bank`); None: they are refused.
        batch_wait_s: how long a first frame waits for others to fill the engine's batch.
        heartbeat_s: interval of the heartbeats.
        receive_queue: messages that may wait unread for each publisher.
        send_queue: messages that may wait for each reader.
        max_waiting: frames that may wait for the engine, all streams together.
        drain_s: how long the end may take to refine what has come.
        linger_s: how long the last messages may take to be sent at the end.
        engine_timeout_s: an engine call that takes longer, and longer than so many windows usually do, counts as a
            hang: poses pass through unrefined until it returns; 0: wait for ever.
        keys: CURVE keys; both endpoints then let in only the clients on their list.
        insecure: bind addresses that other machines can reach without keys.
        shard: which shard this is, and of how many (see `rtskel.serve.shards`): with keys, it takes those streams only
            that belong to it, so that no client can use another's stream id at another shard. None: it is alone.
    """

    raw: str = "tcp://127.0.0.1:5555"
    refined: str = "tcp://127.0.0.1:5556"
    lookaheads: tuple[int, ...] = (4,)
    radius: int = 2
    min_confidence: float = 0.0
    hop: int = 1
    streams: StreamConfig = field(default_factory=StreamConfig)
    lift: int | None = None
    batch_wait_s: float = 0.0
    heartbeat_s: float = 1.0
    receive_queue: int = 256
    send_queue: int = 10_000
    max_waiting: int = 1024
    drain_s: float = 30.0
    linger_s: float = 2.0
    engine_timeout_s: float = 5.0
    keys: ServerKeys | None = None
    insecure: bool = False
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("heartbeat_s", "receive_queue", "send_queue", "max_waiting"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("batch_wait_s", "drain_s", "linger_s", "engine_timeout_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

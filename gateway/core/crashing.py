"""Crash points: named moments at which a process can be made to die as by a power cut, to show what comes of it.

None does anything unless the setting `crash_point` names it.
"""

from __future__ import annotations

import os
import signal

POINTS: dict[str, str] = {
    "accept.after_reserve": "the money is reserved, the task's row not written",
    "accept.before_commit": "the task's rows are written, not committed",
    "accept.after_commit": "the task stands, and nobody was told",
    "accept.before_reply": "the bell was rung, the client not answered",
    "start.before_commit": "a task has its slot, not committed",
    "turn.after_take": "a turn was taken, nothing done with it",
    "submit.before_send": "the intention stands, nothing was sent",
    "submit.after_response": "the vendor has answered, nothing of that is written",
    "job.after_commit": "the vendor's job id stands",
    "poll.after_response": "the vendor has said how its job stands, nothing of that is written",
    "store.after_put": "bytes are in the store, no row names them",
    "complete.before_commit": "the outcome is written, not committed",
    "complete.after_commit": "the outcome stands, and nobody was told",
    "delivery.before_send": "a webhook is about to be sent",
    "delivery.after_send": "a webhook was answered, nothing of that is written",
}


class CrashPoints:
    """The points of one process, of which at most one is armed."""

    def __init__(self, armed: str | None = None) -> None:
        self.armed = armed

    def pass_by(self, point: str) -> None:
        """Goes on, unless this very point is armed: then the process is gone, and nothing of it is tidied up."""
        if point == self.armed:
            os.kill(os.getpid(), signal.SIGKILL)

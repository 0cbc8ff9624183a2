"""How many lanes a GPU trains at once, found while it trains: twice as many as long as that helps.

Lanes of one cell and shape share kernels, so that 128 of them may make twice the steps of 32; where
a search is of all cells and sizes, 96 made no more than 32 (`bench/RESULTS.md`). Which it is shows
in the minibatches that are trained in a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

GAIN = 1.2
"""What twice the lanes have to bring, in minibatches a second, to stay: on an H100, where all have
one shape, 64 brought 1.5 to 1.7, 128 1.3 to 1.6, 256 1.1 to 1.4 times those of half of them."""
SECONDS = 10.0
"""How long is measured at least; and how long at most is thrown away after a change, in which
graphs are recorded anew."""
EPOCHS = 2
"""Epochs that each lane ends while it is measured, so that few large trials do not decide."""
FULL = 0.9
"""The part of all lanes that must be in training, on average, for a measurement to count."""
PAUSE = 600.0
"""Seconds until twice the lanes are tried again after they did not help: a search comes to train
other networks than it began with."""


class Growth:
    """Decides how many lanes train at once.

    Args:
        lanes: With how many it begins, which it never goes below.
        most: It never goes beyond this.
        clock: Tells seconds.

    Attributes:
        limit: How many may train now; where there are more, the next that end make room.
    """

    def __init__(self, lanes: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = lanes
        self._least, self._most, self._clock = lanes, most, clock
        self._before: float | None = None
        """Minibatches a second of half the lanes, while twice as many are tried."""
        self._not_until = self._seen = clock()
        self._settled = False
        self._begin(settled=False)

    def told(self, batches: int) -> None:
        """Counts an epoch that has ended, of so many minibatches."""
        self._batches += batches
        self._epochs += 1

    def see(self, busy: int) -> None:
        """Looks how many trials are in training; call it often. It may change `limit`."""
        if self._most < 2 * self._least:
            return
        now = self._clock()
        self._filled += min(busy, self.limit) * (now - self._seen)
        self._seen = now
        elapsed = now - self._since
        if elapsed < SECONDS or (self._settled and self._epochs < EPOCHS * self.limit):
            return
        if not self._settled or self._filled < FULL * self.limit * elapsed:
            self._begin(settled=self._filled >= FULL * self.limit * elapsed)
        else:
            self._judge(self._batches / elapsed)

    def stop(self) -> None:
        """Goes back to where it began, for good: something has gone wrong."""
        self.limit = self._most = self._least

    def _judge(self, rate: float) -> None:
        if self._before is not None:
            helped = rate >= GAIN * self._before
            self._before = None
            if not helped:
                self._not_until = self._seen + PAUSE
                self._set(self.limit // 2)
                return
        if 2 * self.limit <= self._most and self._seen >= self._not_until:
            self._before = rate
            self._set(2 * self.limit)
        else:
            self._begin(settled=True)

    def _set(self, limit: int) -> None:
        self.limit = limit
        self._begin(settled=False)

    def _begin(self, *, settled: bool) -> None:
        """Measures anew from now on."""
        self._settled, self._since = settled, self._seen
        self._batches = self._epochs = 0
        self._filled = 0.0

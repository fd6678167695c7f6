"""What the preview allows at most: sockets, messages, memory, time."""

from __future__ import annotations

SOCKETS = 8
"""Open at once; each is a tab with a decoder, lanes and caches of its own."""

MESSAGE_BYTES = 64 << 10
"""Of one message of a client."""

PICTURES_IN_FLIGHT = 2
"""Pictures sent and not yet acknowledged; more are dropped, never queued."""

ACK_SECONDS = 10.0
"""A picture that is not acknowledged for so long counts as drawn: a client that forgets it still gets pictures, slowly."""

VIDEO_FRAGMENTS_WAITING = 8
"""Pieces of video that wait for a slow client; after that pieces are left out."""

TEXTS_WAITING = 64
"""Messages that wait for a slow client, beside the newest of each kind that replaces itself."""

AHEAD_BYTES = 256 << 20
"""Of decoded frames that wait to be shown while playing."""
AHEAD_FRAMES = 12

STILL_BYTES = 1 << 30
"""Of frames that all tabs together keep, so that grade knobs need no network and steps need no decoding; each tab has an equal share."""

FOLLOW_SECONDS = 1.0
"""A frame that takes longer to decode is given up once another is wished; sooner, and who drags along a video would see nothing on the way."""

CLOSE_SECONDS = 2.0
"""A closed tab's threads have ended by then."""

STATE_SECONDS = 0.5
"""Between two tellings of the state while playing."""

SCOPES_SECONDS = 0.2
"""Between two scopes while playing."""

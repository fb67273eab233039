"""Every limit of the table in one place; both sides enforce them."""

# Frames and what they carry.
MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_BODY_BYTES = MAX_VALUE_BYTES + 512 * 1024  # many values at once, or a page of a copy
MAX_FRAME_BYTES = MAX_BODY_BYTES + 4096

# A server.
MAX_CONNECTIONS = 4096
MAX_UNSENT_BYTES = 8 * 1024 * 1024  # owed to one connection before it is closed
RECEIVE_BYTES = 64 * 1024  # one read of a socket
ACCEPT_BACKLOG = 512
HANDSHAKE_TIMEOUT_S = 10.0
MAX_HANDSHAKE_BYTES = 64 * 1024  # a frame of somebody who has not proved to know the secret
PREPARED_TIMEOUT_S = 2.0  # a yes waits this long for its client before the others are asked
HOUSEKEEPING_S = 0.2  # how often a thread without work looks up
STOP_TIMEOUT_S = 5.0
SCAN_PAGE_BYTES = 64 * 1024

# A client.
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 10.0  # one command, with all its attempts
CLIENT_TICK_S = 0.1  # how often a client that waits for an answer looks up
RECONNECT_TIMEOUT_S = 1.0  # one attempt at a connection that was there before
RECONNECT_PAUSE_S = 0.1
RETRY_BACKOFF_FIRST_S = 0.000_2
RETRY_BACKOFF_MAX_S = 0.02
MAX_RATE_PER_S = 1e6  # that one client process is asked for
MAX_WARMUP_S = 60.0
MAX_WINDOW = 1024  # commands of one client thread in flight; older ones are forgotten
MAX_KEYS = 1024  # in one command

# A participant.
RESUME_TIMEOUT_S = 30.0  # a client that stays away for so long is forgotten
MAX_QUEUE = 256  # requests that wait for one lock
RESOLVE_RETRY_S = 0.5  # between two questions to the other participants
MAX_NEWS = 1000  # messages at once that tell of commits of several keys; …
MAX_NEWS_RETRY_S = 32.0  # … and each again after twice as long, up to this

# A durable server's files.
MAX_RECORD_BYTES = MAX_FRAME_BYTES + 4096  # never less: an older log may hold such records
SNAPSHOT_WRITE_BYTES = 1024 * 1024  # written and synced at once

# Servers among themselves.
JOIN_RETRY_S = 0.1
KNOWN_INTERVAL_S = 1.0
MAX_LINK_MESSAGES = 10_000  # that wait to be sent to one server
COPY_PAGE_BYTES = 256 * 1024
COPY_RETRY_S = 1.0  # for a page to come before it is asked for again; then twice as long, …
MAX_COPY_RETRY_S = 32.0  # … up to this, as a repeated page makes a slow link slower
MAX_RESERVED_PAGES = 1024 * 1024  # of a table that is about to be copied
SNAPSHOT_LOG_BYTES = 64 * 1024 * 1024  # a longer log is replaced by a snapshot

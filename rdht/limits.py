"""Every limit of the table in one place; both sides enforce them."""

# Frames and what they carry.
MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_FRAME_BYTES = MAX_VALUE_BYTES + 4096

# A server.
MAX_CONNECTIONS = 4096
MAX_UNSENT_BYTES = 8 * 1024 * 1024  # owed to one connection before it is closed
RECEIVE_BYTES = 64 * 1024  # one read of a socket
ACCEPT_BACKLOG = 512
HANDSHAKE_TIMEOUT_S = 10.0
PREPARED_TIMEOUT_S = 30.0  # a yes vote waits this long for its client's decision
HOUSEKEEPING_S = 0.2  # how often a thread without work looks up
STOP_TIMEOUT_S = 5.0
SCAN_PAGE_BYTES = 64 * 1024

# A client.
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 10.0  # one answer, and all attempts at one command
RETRY_BACKOFF_FIRST_S = 0.000_2
RETRY_BACKOFF_MAX_S = 0.02

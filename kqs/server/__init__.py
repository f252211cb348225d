"""The TCP and UNIX-socket face of KQS: listener, connections, and the end of both. What answers calls is kqs.rpc."""
